"""What a run reports to its callbacks: a stage begins, a stage is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol


class StageEvent(NamedTuple):
    """A stage of a run begins or ends.

    Attributes:
        when: "begin" (of stages that have something to do) or "end" (of all).
        round: The round it belongs to, 0 for the start's measurement.
        title: What it is called on the display, with "held-out" where it is about held-out queries.
        info: At its end, what it left for later stages and the report: the ledger entry's ``info``.
        files: At its end, what it wrote, relative to the run directory.
        reused: At its end, whether it was found done.
    """

    when: Literal["begin", "end"]
    stage: str
    round: int
    title: str
    info: dict[str, Any]
    files: list[str]
    reused: bool = False


class StageCallback(Protocol):
    """An object with either or both of these methods will do; a plain function gets the events of both kinds."""

    def on_begin(self, event: StageEvent) -> None:
        """A stage begins."""

    def on_end(self, event: StageEvent) -> None:
        """A stage is done."""


Callback = StageCallback | Callable[[StageEvent], None]


def notify(callbacks: tuple[Callback, ...], event: StageEvent) -> None:
    """Call what listens to an event; what a callback raises ends the run, and what is finished stays."""
    for callback in callbacks:
        method = getattr(callback, f"on_{event.when}", None)
        if method is not None:
            method(event)
        elif not any(hasattr(callback, name) for name in ("on_begin", "on_end")):
            callback(event)  # type: ignore[operator]
