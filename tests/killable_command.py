"""A command in a process that a test kills. It is forked from a server that has everything imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: F401
import trl  # noqa: F401

import selfsteer.estimate
import selfsteer.experimental.augment
import selfsteer.export
import selfsteer.judges.reward
import selfsteer.loop
import selfsteer.policy
import selfsteer.report
import selfsteer.workflows.evaluate_reward
import selfsteer.workflows.evaluate_signal
import selfsteer.workflows.filter
import selfsteer.workflows.reward
import selfsteer.workflows.score
import selfsteer.workflows.sweep  # noqa: F401
from selfsteer.cli import main


def command(arguments: list[str], folder: Path, started: Any) -> None:
    """Run ``selfsteer`` with these arguments in a folder; what it prints is in ``said`` beside that folder."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ |= {"HF_HUB_OFFLINE": "1", "SELFSTEER_CACHE": str(folder.parent / "cache")}
    said = os.open(folder.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    sys.argv = ["selfsteer", *arguments]
    started.set()
    main()
