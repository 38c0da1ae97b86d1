"""One model in memory at a time."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any


class OneHeld:
    """Holds at most one model: the first one is freed before another is loaded."""

    def __init__(self) -> None:
        self._held: tuple[Hashable, Any] | None = None

    @property
    def name(self) -> Hashable:
        """The name of the held model, None where there is none."""
        return self._held and self._held[0]

    def hold(self, wanted: Hashable, load: Callable[[], Any]) -> Any:
        """Return the model of that name, loaded in place of any other one."""
        if self._held is None or self._held[0] != wanted:
            self.free()
            self._held = (wanted, load())
        return self._held[1]

    def give_away(self) -> None:
        """Hold it no more, because the caller does."""
        self._held = None

    def free(self) -> None:
        """Free the model in memory; one with ``close`` is closed."""
        if self._held is not None and hasattr(self._held[1], "close"):
            self._held[1].close()
        self._held = None
        give_back()


def give_back() -> None:
    """Collect objects that refer to themselves (a trainer does), and give freed memory back to the system.

    glibc keeps freed blocks as small as a layer's weights, gradients and optimiser states: most of a training.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
