"""One training of a reward model, in this process or as a job."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfsteer.files import read_json, remove, write_json
from selfsteer.jobs.launch import Launch, run_job
from selfsteer.jobs.ranks import is_main, world_size
from selfsteer.jobs.spec import JobSpec
from selfsteer.reward.data import read_examples
from selfsteer.reward.recipe import RewardOptions
from selfsteer.runs.results import StageResult
from selfsteer.runs.store import Workspace
from selfsteer.stages.resumable_training import (
    MetricsLog,
    divergence_noted,
    peak_memory_gb,
    save_folder,
    train_with_resume,
)

INFO = "selfsteer.json"
"""What a model's folder says of its training."""
_OF_THE_PROCESS = ("num_tokens",)
"""Figures of TRL's that begin again where an interrupted training resumes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardResult(StageResult):
    """One training: optimiser steps, precision, the log of its first and last step, what it took."""

    steps: int
    precision: str
    first: dict[str, Any]
    last: dict[str, Any]
    seconds: float
    peak_memory_gb: float
    processes: int = 1


@dataclasses.dataclass(frozen=True)
class RewardTraining:
    """What a training needs.

    Attributes:
        name: Of its model's folder.
        source: The base: a folder or a hub name, loaded with ``loading`` on ``device``.
        options: The recipe's.
        examples: The file of drawn pairs.
    """

    name: str
    source: str
    loading: Mapping[str, Any]
    device: str
    precision: str
    options: RewardOptions
    seed: int
    examples: str

    def log(self, run_dir: Path) -> MetricsLog:
        """Return its lines of metrics.jsonl."""
        return metrics_log(run_dir, self.name)


def metrics_log(run_dir: Path, name: str) -> MetricsLog:
    """Return the log of the training of that name in metrics.jsonl."""
    return MetricsLog(run_dir / "metrics.jsonl", {"stage": f"reward:{name}"}, _OF_THE_PROCESS)


def trained_folder(training: RewardTraining, space: Workspace, launch: Launch) -> Path:
    """Return the folder with the trained model, made here or by a job; resumes an interrupted training."""
    if launch.processes == 0:
        return do_training(training, space)
    folder = space.folder / f"{training.name}-{space.key}"
    if not folder.exists():
        options = training.options.model_dump(mode="json")
        spec = JobSpec("reward", space, options, dataclasses.asdict(training) | {"options": options}).write()
        run_job(spec, space.key, launch, space.display)
    remove(_checkpoints(space))
    return folder


def run_reward_training(spec: JobSpec) -> None:
    """Do the training of a job's specification; each of its processes calls this."""
    do_training(RewardTraining(**spec.work | {"options": RewardOptions.model_validate(spec.recipe)}), spec.space)


def do_training(training: RewardTraining, space: Workspace) -> Path:
    """Train in this process, or in this one of several, and return the folder with the model."""
    from selfsteer.models import load_tokenizer
    from selfsteer.reward.loading import new_reward_model
    from selfsteer.reward.training import reward_trainer, save_reward_model

    folder, checkpoints = space.folder / f"{training.name}-{space.key}", _checkpoints(space)
    if not folder.exists():
        started, log = time.monotonic(), training.log(space.run_dir)
        with divergence_noted(space.path("diverged.json"), "options.learning_rate"):
            trainer = reward_trainer(
                new_reward_model(training.source, seed=training.seed, device=training.device, **training.loading),
                load_tokenizer(training.source, **training.loading), read_examples(Path(training.examples)),
                training.options, checkpoints, seed=training.seed,
                precision=training.precision,
            )  # fmt: skip
            train_with_resume(trainer, checkpoints, log, space.display)
        if is_main():
            log.keep(space.path("metrics.jsonl"))
        steps = [row for row in trainer.state.log_history if "loss" in row]
        info = RewardResult(
            steps=trainer.state.global_step, precision="bfloat16 autocast" if trainer.args.bf16 else "float32",
            first=steps[0] if steps else {}, last=steps[-1] if steps else {},
            seconds=round(time.monotonic() - started, 1), peak_memory_gb=peak_memory_gb(), processes=world_size(),
        ).info  # fmt: skip
        save_folder(
            folder,
            lambda temporary: save_reward_model(trainer, Path(temporary)),
            lambda temporary: write_json(temporary / INFO, info),
        )
    # The folder appears whole, so a process that was killed between here and the ledger does not train again.
    if is_main():
        remove(checkpoints)
    return folder


def result_of(folder: Path) -> RewardResult:
    """Return what a model's folder says of its training."""
    return RewardResult.from_info(read_json(folder / INFO))


def _checkpoints(space: Workspace) -> Path:
    return space.folder / f"checkpoints-{space.key}"
