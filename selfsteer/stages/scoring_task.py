"""The scoring of rows by a policy, as a task that any process can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selfsteer.records import Contrast, is_full
from selfsteer.runs.executor import BatchResult, OpenTask
from selfsteer.stages.model_pool import ModelPool, Policy

if TYPE_CHECKING:
    from selfsteer.logprobs import Cell

SCORE_BATCH = 8  # rows with nine cells each


@dataclass(frozen=True)
class ScoringTask:
    """Scores of rows under a policy with weights.

    Attributes:
        cells: Which (default: all).
        wanted: A function of a module, so that it can be pickled: which rows; the others stay as they are.
    """

    policy: Policy
    cells: Sequence[Cell] | None = None
    wanted: Callable[[Contrast], bool] = is_full

    def open(self, models: ModelPool) -> OpenTask[Contrast, Contrast]:
        """Load the policy in the precision that it is trained in."""
        scorer = models.scorer(self.policy)
        assert scorer is not None  # the policy has weights
        own: dict[str, Any] = {} if self.cells is None else {"cells": self.cells}

        def do(_: int, batch: Sequence[Contrast]) -> BatchResult[Contrast]:
            scored = {row.id: row for row in scorer.score(list(filter(self.wanted, batch)), **own)}
            return BatchResult([scored.get(row.id, row) for row in batch])

        return OpenTask(do)
