"""Generating and growing in a process that a test kills: it is forked from a server that has everything imported."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from selfsteer.backends.scripted import ScriptedBackend
from selfsteer.config import Growth, Recipe
from selfsteer.experimental.augment import augment
from selfsteer.loop import generate

PAUSE = 0.01
"""Seconds that each batch takes longer, so that there is something to kill."""


def generate_slowly(values: dict[str, Any], run_dir: Path, log: Path, started: Any) -> None:
    """Generate by a recipe's ``values``; ``log`` gets a line for each batch that the backend was asked for."""
    _watch(log)
    started.set()
    generate(Recipe.model_validate(values), run_dir)


def grow_slowly(values: dict[str, Any], output: Path, run_dir: Path, count: int, log: Path, started: Any) -> None:
    """Grow a query set by the ``values`` of a growth; ``log`` as of :func:`generate_slowly`."""
    _watch(log)
    started.set()
    augment(Growth.model_validate(values), output, run_dir, count=count)


def _watch(log: Path) -> None:
    """Make every batch take longer, and leave a line for it."""
    asked = ScriptedBackend.generate

    def watched(self: ScriptedBackend, prompts: Any, *arguments: Any, **options: Any) -> Any:
        found = asked(self, prompts, *arguments, **options)
        time.sleep(PAUSE)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, b"asked\n")
        os.close(descriptor)
        return found

    ScriptedBackend.generate = watched  # type: ignore[method-assign, assignment]
