"""The backends by name. A new one is its file, with a function that opens it, and a line of :data:`BACKENDS`.

This module imports nothing of the package: recipes are checked against it, so it is below them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BackendKind:
    """What is known of a backend before it is opened.

    Attributes:
        opener: "module:function" of what takes a :class:`selfsteer.backends.source.BackendSource` and returns the
            backend; imported when used.
        runs: What it samples from: the loaded model that also scores ("model"), an engine with weights of its own
            ("engine"), a server ("server"), or no model at all ("script").
        batch: Requests sampled together where the recipe sets no batch size.
    """

    opener: str
    runs: Literal["model", "engine", "server", "script"]
    batch: int = 16

    @property
    def weightless(self) -> bool:
        """Whether it holds no weights here: its texts can't be scored by it, and it can't be trained."""
        return self.runs in ("server", "script")

    @property
    def remote(self) -> bool:
        """Whether it asks a server: its speed is unknown, and whether its model thinks before it answers."""
        return self.runs == "server"


BACKENDS: dict[str, BackendKind] = {
    "transformers": BackendKind("selfsteer.backends.transformers:open_backend", "model"),
    "vllm": BackendKind("selfsteer.backends.vllm:open_backend", "engine", batch=512),
    "endpoint": BackendKind("selfsteer.backends.endpoint:open_backend", "server", batch=128),
    "scripted": BackendKind("selfsteer.backends.scripted:open_backend", "script"),
}
"""By their name in ``generation.backend``."""
