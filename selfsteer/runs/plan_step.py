"""What a dry run says of a stage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from selfsteer.runs.ledger import Slot, StageRecord
from selfsteer.runs.store import StageKey


class StepState(StrEnum):
    """Where a stage stands. ``SHARED`` is another run's of the sweep; ``AFTER`` depends on a result not there yet."""

    DONE = "done"
    SHARED = "shared"
    TODO = "to do"
    REDO = "redo"
    AFTER = "after that"


@dataclass(frozen=True)
class PlanStep:
    """One stage of a plan.

    Attributes:
        why: What has changed, or what of it is on disk already; "" where there is nothing to tell.
        key: The stage's key, "" where it is left open.
    """

    slot: Slot
    title: str
    state: StepState
    why: str = ""
    entry: StageRecord | None = None
    key: str = ""

    @property
    def todo(self) -> bool:
        """Whether this run has to do it."""
        return self.state not in (StepState.DONE, StepState.SHARED)

    @property
    def claim(self) -> StageKey:
        """What another run of a sweep takes it by."""
        return self.slot[0], self.slot[1], self.key
