"""The training stage: kept contrasts in, a policy folder (safetensors, tokenizer, model card) out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfsteer.config import WITHOUT_PREFERENCES, GeneratorSettings, Recipe, TrainSettings
from selfsteer.config.launch import LAUNCH_KEYS
from selfsteer.files import read_json, remove, write_atomic, write_json
from selfsteer.jobs.launch import run_job
from selfsteer.jobs.ranks import is_main, world_size
from selfsteer.jobs.spec import JobSpec
from selfsteer.records import Contrast, read_rows
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.pipeline import stage
from selfsteer.runs.results import StageResult
from selfsteer.runs.store import Workspace
from selfsteer.stages.context import RunContext
from selfsteer.stages.contrasts import ContrastsResult
from selfsteer.stages.model_pool import ModelPool, Policy, policy_of
from selfsteer.stages.resumable_training import (
    MetricsLog,
    divergence_noted,
    peak_memory_gb,
    save_folder,
    train_with_resume,
)
from selfsteer.stages.trainers import Task, open_trainer
from selfsteer.version import __version__
from selfsteer.views import harmful_target

if TYPE_CHECKING:
    from selfsteer.policy import SSOTrainer
    from selfsteer.policy.self_distillation import SelfDistillationTrainer

_INFO = "selfsteer.json"
_CHANGES_NO_WEIGHT = {"save_steps", "show_examples"} | LAUNCH_KEYS
_SAID_BY_DATA = {"reference", "ema_decay", "older_rounds"}
"""They act through the rows and their scores, which the stages before name."""
_SHARED = (
    "max_length micro_batch_size warmup_ratio weight_decay adam_betas max_grad_norm precision gradient_checkpointing "
    "lora"
).split()
"""Settings of the section train that hold for the generator's training too."""


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of a run.

    Attributes:
        kind: "policy", or "generator" for v2's data generator.
        files: The rows, of which the kept ones are trained on.
        total: How many rows there were before the filters.
        reference: The weights that gave the rows' scores.
        strategy: How its processes share the work (:func:`selfsteer.policy.strategies.strategy_arguments`).
    """

    kind: Literal["policy", "generator"]
    round: int
    files: Sequence[Path]
    total: int
    start: Policy
    reference: Policy
    strategy: str = "single"

    @property
    def stage(self) -> str:
        """The stage's name in metrics.jsonl."""
        return "train" if self.kind == "policy" else self.kind

    def loss(self, recipe: Recipe) -> TrainSettings | GeneratorSettings:
        """Return the section of the recipe with its loss, learning rate, epochs and batch size."""
        return recipe.train if self.kind == "policy" else recipe.generator

    def task(self, recipe: Recipe) -> Task:
        """Return what its trainer has to know of it."""
        return Task(self.start, self.loss(recipe), self.reference != self.start, self.strategy)

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """Return all settings that its weights depend on."""
        # Older run directories have no optimizer in their keys.
        named = {"optimizer": recipe.train.optimizer} if recipe.train.optimizer != "adamw" else {}
        if self.kind == "policy":
            return recipe.train.model_dump(exclude=_CHANGES_NO_WEIGHT | _SAID_BY_DATA | {"optimizer"}) | named
        own = recipe.generator.model_dump(exclude={"queries", "keep"})
        return recipe.train.model_dump(include=set(_SHARED)) | named | own


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult(StageResult):
    """One training: what it was given, how it was set, what it took.

    Attributes:
        examples: Rows trained on; ``harmful_left_out``: rows whose target is, or may be, harmful.
        steps, epochs: Optimiser steps, and how often each example was seen.
        reference: Name of the weights that gave the rows' scores.
        peak_memory_gb: Of the first process.
    """

    examples: int
    harmful_left_out: int
    steps: int
    epochs: int
    objective: str
    base_loss: str | None
    reference: str
    learning_rate: float
    precision: str
    seconds: float
    peak_memory_gb: float
    processes: int = 1

    @property
    def info(self) -> dict[str, Any]:
        """Return what the ledger keeps."""
        return dataclasses.asdict(self)


def train_stage(
    context: RunContext,
    kind: Literal["policy", "generator"],
    round: int,
    rows: Sequence[StageRecord],
    start: Policy,
    reference: Policy,
) -> tuple[StageRecord, Policy]:
    """Train a policy or a generator on the kept rows of stages; return the ledger entry and what was trained.

    A generator's weights may be removed when it has answered: its entry is about the record of its training, and where
    the weights are asked for and gone, they are trained again.
    """
    recipe, store = context.recipe, context.store
    files = [file for entry in rows for file in store.files(entry)]
    total = sum(int(entry.info.get("total", kept_rows(entry))) for entry in rows)
    training = Training(kind, round, files, total, start, reference, context.launch.strategy)
    depends = {
        "contrasts": [entry.key for entry in rows],
        "settings": training.settings(recipe),
        "seed": recipe.seed,
        "round": round,
    } | context.scoring(start)
    if reference != start:
        depends |= {"reference": reference.fingerprint}

    def write(space: Workspace) -> tuple[list[Path], TrainingResult]:
        folder = train_in(context, training, space)
        info = TrainingResult.from_info(read_json(folder / _INFO))
        if kind == "policy":
            return [folder], info
        record = space.path("training.json")
        write_json(record, info.info)
        return [record], info

    units = sum(map(kept_rows, rows)) * training.loss(recipe).epochs
    entry = store.get_or_compute(kind, round, depends, write, units=units, note=_note)
    space = store.workspace(stage(kind).place("train", round), entry.key)
    # Not by the run's name: the runs of a sweep share what they make of the same policy.
    name = f"{recipe.model.name}, {'' if kind == 'policy' else 'generator of '}round {round}"
    trained = start.trained(round, str(_weights(space)), f"{kind}:{entry.key}", name)
    if store.computes:
        # metrics.jsonl shows the active training, also where another run or an earlier setting has done it.
        _log(context.store.run_dir, training).restore(space.path("metrics.jsonl"))

    def train_again() -> None:
        store.display.say("      the generator's weights were removed after it had answered: training it again")
        train_in(context, training, space)

    if kind == "generator":
        context.models.when_gone(trained, train_again)
    return entry, trained


def _note(record: StageRecord) -> str:
    info = TrainingResult.of(record)
    left_out = info.harmful_left_out
    harmful = f"; {left_out} rows left out, whose target is harmful, or may be" if left_out else ""
    return f": {info.steps} steps on {info.examples} examples{harmful}"


def kept_rows(entry: StageRecord) -> int:
    """Return how many rows of a stage are trained on: those that its filters kept, or all."""
    if entry.stage == "reference":
        return int(entry.info["rows"])
    return ContrastsResult.of(entry).counts["kept"]


def _log(run_dir: Path, training: Training) -> MetricsLog:
    return MetricsLog(run_dir / "metrics.jsonl", {"round": training.round, "stage": training.stage})


def _weights(space: Workspace) -> Path:
    return space.folder / f"policy-{space.key}"


def train_in(context: RunContext, training: Training, space: Workspace) -> Path:
    """Return the folder with the trained weights, made here or by a job; resumes an interrupted training."""
    if context.launch.processes == 0:
        return do_training(context.recipe, context.models, training, space)
    if not _weights(space).exists():
        context.models.make(training.start)
        context.models.free()  # the job loads it for itself
        spec = JobSpec(training.kind, space, context.recipe.model_dump(mode="json"), _told(training)).write()
        run_job(spec, space.key, context.launch, space.display)
    remove(_checkpoints(space))
    return _weights(space)


def run_training(spec: JobSpec) -> None:
    """Do the training of a job's specification; each of its processes calls this."""
    recipe = Recipe.model_validate(spec.recipe)
    do_training(recipe, ModelPool(recipe, spec.space.run_dir), _training(spec.work), spec.space)


def _told(training: Training) -> dict[str, Any]:
    """Return a training for its specification."""
    return dataclasses.asdict(training) | {"files": list(map(str, training.files))}


def _training(told: dict[str, Any]) -> Training:
    policies = {name: policy_of(told[name]) for name in ("start", "reference")}
    return Training(**(told | policies | {"files": list(map(Path, told["files"]))}))


def do_training(recipe: Recipe, models: ModelPool, training: Training, space: Workspace) -> Path:
    """Train in this process, or in this one of several, and return the folder with the weights."""
    folder, checkpoints = _weights(space), _checkpoints(space)
    if not folder.exists():
        rows = [row for row in read_rows(training.files, Contrast) if row.kept]
        started = time.monotonic()
        with divergence_noted(space.path("diverged.json"), "train.learning_rate"):
            trainer = open_trainer(recipe, models, training.task(recipe), rows, checkpoints)
            log = _log(space.run_dir, training)
            trainer.say = space.display.say
            train_with_resume(trainer, checkpoints, log, space.display)
        info = _info(recipe, training, trainer, rows, time.monotonic() - started)

        def describe(temporary: Path) -> None:
            write_atomic(temporary / "README.md", _card(recipe, training, rows, info, log.rows))
            write_json(temporary / _INFO, info.info)

        if is_main():
            log.keep(space.path("metrics.jsonl"))
        save_folder(folder, trainer.save_model, describe)
    # The folder appears whole, so a run that was killed between here and the ledger does not train again.
    if is_main():
        remove(checkpoints)
    return folder


def _checkpoints(space: Workspace) -> Path:
    return space.folder / f"checkpoints-{space.key}"


def _info(
    recipe: Recipe,
    training: Training,
    trainer: SSOTrainer | SelfDistillationTrainer,
    rows: Sequence[Contrast],
    seconds: float,
) -> TrainingResult:
    loss = training.loss(recipe)
    views = () if getattr(trainer.args, "allow_harmful_targets", False) else trainer.views
    harmful = sum(any(harmful_target(row, view) for view in views) for row in rows)
    bits = recipe.train.lora.bits if recipe.train.lora else None
    precision = "bfloat16 autocast" if trainer.args.bf16 else "float32"
    return TrainingResult(
        examples=trainer.examples, harmful_left_out=harmful, steps=trainer.state.global_step, epochs=loss.epochs,
        objective=loss.objective, base_loss=None if loss.objective in WITHOUT_PREFERENCES else loss.base_loss,
        reference=training.reference.name, learning_rate=loss.learning_rate,
        precision=f"{precision}, base in {bits} bits" if bits else precision, seconds=round(seconds, 1),
        peak_memory_gb=peak_memory_gb(), processes=world_size(),
    )  # fmt: skip


def _card(
    recipe: Recipe,
    training: Training,
    rows: Sequence[Contrast],
    info: TrainingResult,
    metrics: Sequence[dict[str, Any]],
) -> str:
    from selfsteer.policy.card import model_card

    provenance = rows[0].provenance
    annotated = recipe.preferences.source
    data = {"rows": f"{info.examples} kept of {training.total}"}
    if annotated:
        data = {"annotated preferences": annotated} | data
    else:
        made = {"queries": recipe.queries.source, "principle set": provenance["principle_set"]}
        data = made | data | {"responses by": f"{provenance['model']} ({provenance['sampling']})"}
    settings = training.settings(recipe) | {"steps": info.steps, "seed": recipe.seed}
    return model_card(
        base_model=recipe.model.name, data=data, settings=settings, figures=metrics, version=__version__,
        annotated=bool(annotated), template_kwargs=recipe.model.chat_template_kwargs,
    )  # fmt: skip
