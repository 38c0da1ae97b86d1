"""A run in a process that kills itself at a given moment. It is forked from a server that has everything imported."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

import torch

from selfsteer.config import Recipe
from selfsteer.loop import run
from selfsteer.policy import SSOTrainer
from selfsteer.policy.checkpoints import ManifestCallback
from selfsteer.runs.ledger import Ledger, StageRecord


class Moment(NamedTuple):
    """When to die.

    Attributes:
        what: "record": a stage's work is done and its ledger line not written; "step": inside an optimiser step;
            "checkpoint": all files of a checkpoint are written but the manifest.
        of: The stage, or the objective of the training.
        number: Of a stage: its round; of a training: the steps that are done.
    """

    what: str
    of: str
    number: int


def run_until(values: dict[str, Any], run_dir: Path, moment: Moment | None) -> None:
    """Run by a recipe's ``values`` until the moment comes, or to the end."""
    torch.set_num_threads(1)
    if moment is not None:
        {"record": _at_record, "step": _in_step, "checkpoint": _in_checkpoint}[moment.what](moment)
    run(Recipe.model_validate(values), run_dir)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_record(moment: Moment) -> None:
    add = Ledger.add

    def dying(self: Ledger, entry: StageRecord) -> StageRecord:
        if (entry.stage, entry.round) == (moment.of, moment.number) and not entry.heldout:
            _die()
        return add(self, entry)

    Ledger.add = dying  # type: ignore[method-assign]


def _in_step(moment: Moment) -> None:
    compute = SSOTrainer.compute_loss

    def dying(self: SSOTrainer, *arguments: Any, **options: Any) -> Any:
        if (self.args.objective, self.state.global_step) == (moment.of, moment.number):
            _die()
        return compute(self, *arguments, **options)

    SSOTrainer.compute_loss = dying  # type: ignore[method-assign]


def _in_checkpoint(moment: Moment) -> None:
    save = ManifestCallback.on_save

    def dying(self: ManifestCallback, args: Any, state: Any, control: Any, **options: Any) -> None:
        if (args.objective, state.global_step) == (moment.of, moment.number):
            _die()
        save(self, args, state, control, **options)

    ManifestCallback.on_save = dying  # type: ignore[method-assign]
