"""Generating in a process that a test kills. The process is forked from a server that has everything imported."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from selfsteer.backends.scripted import ScriptedBackend
from selfsteer.config import Recipe
from selfsteer.loop import generate

PAUSE = 0.01
"""Seconds that each batch takes longer, so that there is something to kill."""


def generate_slowly(values: dict[str, Any], run_dir: Path, log: Path, started: Any) -> None:
    """Generate by a recipe's ``values``; ``log`` gets a line for each batch that the backend was asked for."""
    asked = ScriptedBackend.generate

    def watched(self: ScriptedBackend, prompts: Any, *arguments: Any, **options: Any) -> Any:
        found = asked(self, prompts, *arguments, **options)
        time.sleep(PAUSE)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, b"asked\n")
        os.close(descriptor)
        return found

    ScriptedBackend.generate = watched  # type: ignore[method-assign, assignment]
    started.set()
    generate(Recipe.model_validate(values), run_dir)
