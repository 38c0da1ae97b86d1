"""What every training of a run directory needs: resume, Ctrl-C, metrics, progress, and a full disk in words."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfsteer.errors import StorageError, TrainingDiverged
from selfsteer.files import append_json, atomic_path, read_json, read_json_lines, remove, write_atomic, write_json
from selfsteer.jobs.ranks import is_main
from selfsteer.runs.progress import Display


def train_with_resume(trainer: Any, checkpoints: Path, log: MetricsLog, display: Display) -> None:
    """Train from the newest checkpoint that verifies; Ctrl-C leaves one behind and raises KeyboardInterrupt.

    Of several processes the first writes the log.
    """
    from safetensors import SafetensorError
    from transformers import PrinterCallback

    from selfsteer.policy.checkpoints import InterruptCallback, ManifestCallback, last_checkpoint

    resume = last_checkpoint(checkpoints)
    steps = int(resume.name.rpartition("-")[2]) if resume else 0
    if is_main():
        log.cut(steps)
    display.advance(steps * _examples(trainer.args) * trainer.args.gradient_accumulation_steps)
    interrupt = InterruptCallback(display.say, lambda: display.stop_asked)
    trainer.remove_callback(PrinterCallback)
    for callback in (ManifestCallback(), interrupt, _progress(log, display)):
        trainer.add_callback(callback)
    try:
        with interrupt:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except (SafetensorError, RuntimeError) as error:
        # torch.save says "no space" with a RuntimeError of its own.
        if isinstance(error, SafetensorError) or shutil.disk_usage(log.path.parent).free < 1 << 26:
            raise _unsaved(error, trainer.args.output_dir) from error
        raise
    if interrupt.asked:
        raise interrupt.error


class MetricsLog:
    """RUN/metrics.jsonl: one line an optimiser step, read back so that a resumed training continues it.

    ``own`` marks this training's lines, e.g. {"round": 1, "stage": "train"}.
    """

    def __init__(self, path: Path, own: dict[str, Any], without: Collection[str] = ()) -> None:
        self.path, self._own, self._without = path, own, without
        self.rows: list[dict[str, Any]] = []

    def cut(self, done: int) -> None:
        """Drop this training's lines behind step ``done``: they will be written again."""
        lines = read_json_lines(self.path)
        kept = [row for row in lines if not self._is_own(row) or row.get("step", 0) <= done]
        _write_lines(self.path, kept)
        self.rows = [row for row in kept if self._is_own(row)]

    def keep(self, file: Path) -> None:
        """Write this training's lines into a file of its own, which stays with its result."""
        _write_lines(file, self.rows)

    def restore(self, file: Path) -> None:
        """Put the lines that :meth:`keep` wrote in place of what another training of the same round left."""
        kept, lines = read_json_lines(file), read_json_lines(self.path)
        if kept and kept != [row for row in lines if self._is_own(row)]:
            _write_lines(self.path, [*(row for row in lines if not self._is_own(row)), *kept])

    def _is_own(self, row: dict[str, Any]) -> bool:
        return {name: row.get(name) for name in self._own} == self._own

    def add(self, step: int, logs: dict[str, float]) -> None:
        """Append one step's figures; the summary line at the end of training has no loss and is left out."""
        if "loss" in logs:
            figures = {name: value for name, value in logs.items() if name not in self._without}
            row = {**self._own, "step": step, **figures}
            self.rows.append(row)
            append_json(self.path, row)


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def _examples(args: Any) -> int:
    """Return how many examples all processes together have in a micro-batch."""
    return int(args.per_device_train_batch_size * args.world_size)


def _progress(log: MetricsLog, display: Display) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            if state.is_world_process_zero:
                log.add(state.global_step, logs)
                if "loss" in logs:
                    display.figures(f"step {state.global_step}/{state.max_steps}, {in_short(logs)}")

        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            display.advance(_examples(args))
            display.alive()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            display.advance(_examples(args))
            display.alive()

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            display.alive(0)

    return Progress()


def in_short(logs: Mapping[str, float]) -> str:
    """Return what one step's figures say: the loss, the share of pairs in the right order, and the learning rate."""
    # SSO's trainer has an accuracy for each view, TRL's reward trainer one.
    shares = [value for name, value in logs.items() if name.endswith("accuracy")]
    parts = [f"loss {logs['loss']:.4g}"]
    parts += [f"accuracy {sum(shares) / len(shares):.0%}"] if shares else []
    parts += [f"learning rate {logs['learning_rate']:.2g}"] if "learning_rate" in logs else []
    return ", ".join(parts)


@contextmanager
def divergence_noted(note: Path, key: str) -> Iterator[None]:
    """Note that a training diverged; the same one would do so again, so its next attempt fails at once and says why."""
    found = read_json(note)
    if found:
        raise TrainingDiverged(**found)
    try:
        yield
    except TrainingDiverged as error:
        do = f"lower {key}; or remove {note} to continue from the last checkpoint as before"
        if is_main():  # all processes end with it
            write_json(note, {"what": error.what, "where": error.where, "do": do})
        raise


def save_folder(folder: Path, save: Callable[[str], None], describe: Callable[[Path], None]) -> None:
    """Write a trained model into a folder that appears whole.

    Args:
        save: Writes the model; all processes call it with the same folder, as sharded weights are gathered by all.
        describe: Adds files, in the first process alone.
    """
    from selfsteer.policy.distributed import from_main

    if not is_main():
        save(from_main(""))
        return
    with atomic_path(folder) as temporary:
        with unsaved_told(temporary):
            save(from_main(str(temporary)))
        # A pickle of the arguments: of no use to a reader, and nothing here loads pickles.
        remove(temporary / "training_args.bin")
        describe(temporary)


@contextmanager
def unsaved_told(folder: Path) -> Iterator[None]:
    """Turn what safetensors raises on a full disk into a :class:`StorageError`."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise _unsaved(error, str(folder)) from error


def _unsaved(error: Exception, where: str) -> StorageError:
    return StorageError(
        f"can't write the weights: {error}", where=where, do="free some space and run the same command again"
    )


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
