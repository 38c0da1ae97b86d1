"""The training stage: kept contrasts in, a policy folder (safetensors, tokenizer, model card) out."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import selfsteer
from selfsteer.config import Recipe, TrainSettings
from selfsteer.errors import StorageError, TrainingDiverged
from selfsteer.files import append_json, atomic_path, read_json, read_json_lines, remove, write_atomic, write_json
from selfsteer.loop.display import Display
from selfsteer.loop.ledger import Entry
from selfsteer.loop.models import Models, Policy
from selfsteer.loop.store import Store, Workspace
from selfsteer.records import Contrast

if TYPE_CHECKING:
    from selfsteer.policy import SSOConfig, SSOTrainer

_INFO = "selfsteer.json"
_SAME_NAMES = "max_length learning_rate weight_decay max_grad_norm base_loss show_examples".split()
_CHANGES_NO_WEIGHT = {"save_steps", "show_examples"}


def train_stage(
    recipe: Recipe, store: Store, models: Models, contrasts: Entry, round: int, policy: Policy, depends: dict[str, Any]
) -> tuple[Entry, Policy]:
    """Train ``policy`` on the kept rows; return the ledger entry and the trained policy."""
    settings = recipe.train
    everything = {
        "contrasts": contrasts.key,
        "settings": settings.model_dump(exclude=_CHANGES_NO_WEIGHT),
        "seed": recipe.seed,
        "round": round,
    } | depends
    examples = contrasts.info["counts"]["kept"]

    def write(space: Workspace) -> tuple[list[Path], dict[str, Any]]:
        rows = store.read(contrasts, Contrast)
        return _train(recipe, store, models, rows, round, policy, space)

    entry = store.stage(
        "policy", round, everything, write, folder=f"round-{round:02d}", units=examples * settings.epochs,
        title=f"train, round {round}", note=lambda info: f": {info['steps']} steps on {info['examples']} examples",
    )  # fmt: skip
    return entry, Policy(round, str(store.run_dir / entry.files[0]), f"policy:{entry.key}")


def _train(
    recipe: Recipe, store: Store, models: Models, rows: Sequence[Contrast], round: int, policy: Policy, space: Workspace
) -> tuple[list[Path], dict[str, Any]]:
    folder, checkpoints = space.folder / f"policy-{space.key}", space.folder / f"checkpoints-{space.key}"
    if not folder.exists():
        started = time.monotonic()
        with _divergence_noted(space.path("diverged.json")):
            trainer = open_trainer(recipe, models, rows, policy, checkpoints)
            log = _run(trainer, checkpoints, _MetricsLog(store.run_dir / "metrics.jsonl", round), space.display)
        info = _info(recipe, trainer, time.monotonic() - started)
        with atomic_path(folder) as temporary:
            _save(trainer, temporary, _card(recipe, policy, rows, info, log.rows))
            write_json(temporary / _INFO, info)
    # The folder appears whole, so a run that was killed between here and the ledger does not train again.
    remove(checkpoints)
    return [folder], read_json(folder / _INFO)


@contextmanager
def _divergence_noted(note: Path) -> Iterator[None]:
    """Note that a training diverged; the same one would do so again, so its next attempt fails at once and says why."""
    found = read_json(note)
    if found:
        raise TrainingDiverged(**found)
    try:
        yield
    except TrainingDiverged as error:
        do = f"lower train.learning_rate; or remove {note} to go on from the last checkpoint as before"
        write_json(note, {"what": error.what, "where": error.where, "do": do})
        raise


def open_trainer(
    recipe: Recipe, models: Models, rows: Sequence[Contrast], policy: Policy, checkpoints: Path
) -> SSOTrainer:
    """Return the trainer of a recipe on scored rows, with a model of its own."""
    from selfsteer.policy import SSOTrainer

    chat = models.chat(policy)
    assert chat is not None  # the configuration lets only backends with weights train
    return SSOTrainer(
        model=models.trainable(policy),
        args=sso_config(recipe.train, checkpoints, seed=recipe.seed, precision=models.precision(recipe.train.precision),
                        device=models.device),
        train_dataset=rows,
        processing_class=chat.tokenizer,
        peft_config=_peft_config(recipe.train),
    )  # fmt: skip


def sso_config(settings: TrainSettings, folder: Path, *, seed: int, precision: str, device: str) -> SSOConfig:
    """Return the trainer's configuration for a recipe's train section."""
    from selfsteer.policy import SSOConfig
    from selfsteer.policy.config import loss_settings

    losses = {name: value for name, value in loss_settings(settings).items() if name != "base"}
    options: dict[str, Any] = losses | {name: getattr(settings, name) for name in _SAME_NAMES}
    if settings.gradient_checkpointing:
        # transformers 5.2x renames the argument and warns at the old name.
        known = {field.name for field in dataclasses.fields(SSOConfig)}
        options["activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"] = True
    # Dropout acts in the policy's first forward pass and not in its reference, so the two differ before any step.
    options["check_start"] = settings.lora is None or settings.lora.dropout == 0
    micro = min(settings.micro_batch_size, settings.batch_size)
    return SSOConfig(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // micro,
        warmup_steps=settings.warmup_ratio,
        adam_beta1=settings.adam_betas[0],
        adam_beta2=settings.adam_betas[1],
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        bf16=precision == "bfloat16",
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        seed=seed,
        report_to="none",
        disable_tqdm=True,
        **options,
    )


def _peft_config(settings: TrainSettings) -> Any:
    if settings.lora is None:
        return None
    from peft import LoraConfig

    lora = settings.lora
    return LoraConfig(
        task_type="CAUSAL_LM", r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )  # fmt: skip


def _run(trainer: SSOTrainer, checkpoints: Path, log: _MetricsLog, display: Display) -> _MetricsLog:
    """Train from the newest checkpoint that verifies; Ctrl-C leaves one behind and raises KeyboardInterrupt."""
    from safetensors import SafetensorError
    from transformers import PrinterCallback

    from selfsteer.policy.checkpoints import InterruptCallback, ManifestCallback, last_checkpoint

    resume = last_checkpoint(checkpoints)
    steps = int(resume.name.rpartition("-")[2]) if resume else 0
    log.cut(steps)
    display.advance(steps * trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps)
    interrupt = InterruptCallback(display.say)
    trainer.say = display.say
    trainer.remove_callback(PrinterCallback)
    for callback in (ManifestCallback(), interrupt, _progress(log, display)):
        trainer.add_callback(callback)
    try:
        with interrupt:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except (SafetensorError, RuntimeError) as error:
        # torch.save says "no space" with a RuntimeError of its own.
        if isinstance(error, SafetensorError) or _is_full(log.path.parent):
            raise _unsaved(error, trainer.args.output_dir) from error
        raise
    if interrupt.asked:
        raise KeyboardInterrupt
    return log


def _info(recipe: Recipe, trainer: SSOTrainer, seconds: float) -> dict[str, Any]:
    bits = recipe.train.lora.bits if recipe.train.lora else None
    precision = "bfloat16 autocast" if trainer.args.bf16 else "float32"
    return {
        "examples": trainer.examples,
        "steps": trainer.state.global_step,
        "epochs": recipe.train.epochs,
        "base_loss": recipe.train.base_loss,
        "learning_rate": recipe.train.learning_rate,
        "precision": f"{precision}, base in {bits} bits" if bits else precision,
        "seconds": round(seconds, 1),
        "peak_memory_gb": peak_memory_gb(),
    }


def _save(trainer: SSOTrainer, folder: Path, card: str) -> None:
    from safetensors import SafetensorError

    try:
        trainer.save_model(str(folder))
    except SafetensorError as error:
        raise _unsaved(error, str(folder)) from error
    # A pickle of the arguments: of no use to a reader, and nothing here loads pickles.
    remove(folder / "training_args.bin")
    write_atomic(folder / "README.md", card)


def _is_full(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < 1 << 26


def _unsaved(error: Exception, where: str) -> StorageError:
    return StorageError(
        f"can't write the weights: {error}", where=where, do="free some space and run the same command again"
    )


def _card(
    recipe: Recipe, policy: Policy, rows: Sequence[Contrast], info: dict[str, Any], metrics: Sequence[dict[str, Any]]
) -> str:
    from selfsteer.policy.card import model_card

    provenance = rows[0].provenance
    data = {
        "queries": recipe.queries.source,
        "principle set": provenance["principle_set"],
        "rows": f"{info['examples']} kept of {len(rows)}",
        "responses by": f"{provenance['model']} ({provenance['sampling']})",
    }
    settings = recipe.train.model_dump(mode="json") | {"steps": info["steps"], "seed": recipe.seed}
    return model_card(
        base_model=recipe.model.name, data=data, settings=settings, figures=metrics, version=selfsteer.__version__
    )


class _MetricsLog:
    """RUN/metrics.jsonl: one line an optimiser step, read back so that a resumed training goes on in it."""

    def __init__(self, path: Path, round: int) -> None:
        self.path, self.round = path, round
        self.rows: list[dict[str, Any]] = []

    def cut(self, done: int) -> None:
        """Drop the round's lines behind step ``done``: they will be written again."""
        lines = read_json_lines(self.path)
        kept = [row for row in lines if row.get("round") != self.round or row.get("step", 0) <= done]
        write_atomic(self.path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in kept))
        self.rows = [row for row in kept if row.get("round") == self.round]

    def add(self, step: int, logs: dict[str, float]) -> None:
        """Append one step's figures; the summary line at the end of training has no loss and is left out."""
        if "loss" in logs:
            row = {"round": self.round, "stage": "train", "step": step, **logs}
            self.rows.append(row)
            append_json(self.path, row)


def _progress(log: _MetricsLog, display: Display) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            log.add(state.global_step, logs)

        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            display.advance(args.per_device_train_batch_size)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            display.advance(args.per_device_train_batch_size)

    return Progress()


def peak_memory_gb() -> float:
    """Return the largest resident memory of this process so far, in 10^9 bytes.

    Linux has it in /proc; ``ru_maxrss`` also counts what the process that started this one held at that moment.
    """
    status = Path("/proc/self/status")
    if status.exists():
        kib = status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()
        if kib:
            return round(int(kib[0]) * 1024 / 1e9, 2)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)
