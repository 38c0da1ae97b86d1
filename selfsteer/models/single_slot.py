"""One model in memory at a time."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any


class OneHeld:
    """Holds at most one model: loading another lets go of the first one before."""

    def __init__(self) -> None:
        self._held: tuple[Hashable, Any] | None = None

    @property
    def name(self) -> Hashable:
        """Under which name something is held, None where nothing is."""
        return self._held and self._held[0]

    def hold(self, wanted: Hashable, load: Callable[[], Any]) -> Any:
        """Return what is held under that name, loaded in place of whatever else is."""
        if self._held is None or self._held[0] != wanted:
            self.free()
            self._held = (wanted, load())
        return self._held[1]

    def give_away(self) -> None:
        """Hold it no more, as somebody else does now."""
        self._held = None

    def free(self) -> None:
        """Let go of the model in memory; one that can be closed is."""
        if self._held is not None and hasattr(self._held[1], "close"):
            self._held[1].close()
        self._held = None
        give_back()


def give_back() -> None:
    """Collect what refers to itself (a trainer does), and give freed memory back to the system.

    glibc keeps freed blocks as small as a layer's weights, gradients and optimiser states: most of a training.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
