"""Reward models trained in a process that kills itself. It is forked from a server that has everything imported."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from trl import RewardTrainer

from selfsteer.policy.checkpoints import ManifestCallback
from selfsteer.reward.recipe import RewardRecipe
from selfsteer.workflows.reward import reward


def train_until(values: dict[str, Any], run_dir: Path, what: str, step: int) -> None:
    """Train by a recipe's ``values`` until a moment of the first training, or to the end.

    Args:
        values: The recipe's.
        run_dir: Where.
        what: "step": inside an optimiser step; "checkpoint": all files of a checkpoint are written but the manifest;
            "end": never.
        step: How many steps are done then.
    """
    torch.set_num_threads(1)
    if what == "step":
        _die_in(RewardTrainer, "compute_loss", lambda self, *_, **__: self.state.global_step == step)
    if what == "checkpoint":
        _die_in(ManifestCallback, "on_save", lambda self, args, state, *_, **__: state.global_step == step)
    reward(RewardRecipe.model_validate(values), run_dir)


def _die_in(owner: Any, name: str, moment: Any) -> None:
    method = getattr(owner, name)

    def dying(*arguments: Any, **options: Any) -> Any:
        if moment(*arguments, **options):
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments, **options)

    setattr(owner, name, dying)
