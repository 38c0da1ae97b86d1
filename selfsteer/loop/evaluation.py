"""Held-out measurement: the same queries and principles, answered and scored by each policy of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfsteer.evaluation import Measure, measure
from selfsteer.loop.data import DataStages
from selfsteer.loop.ledger import Entry
from selfsteer.loop.models import Policy
from selfsteer.loop.store import Workspace, in_batches
from selfsteer.records import ROLES, Contrast

_BATCH = 8


def heldout_rows(stages: DataStages, principles: Entry, policy: Policy) -> Entry:
    """Let a policy answer the held-out queries under the start's principles, and score the answers under it."""
    responses = stages.responses(principles, "heldout", policy.round, policy)
    return stages.scores(principles, responses, "heldout", policy.round, policy)


def implicit_stage(stages: DataStages, start: Entry, policy: Policy) -> Entry:
    """Score the start's held-out pairs under a trained policy: what the implicit reward is made of."""
    rows = [row for row in stages.store.read(start, Contrast) if row.scores is not None]
    depends = {"start": start.key} | stages.scoring(policy)

    def write(space: Workspace) -> tuple[list[Path], dict[str, Any]]:
        from selfsteer.loop.scoring import PLAIN_CELLS

        scorer = stages.models.scorer(policy)
        assert scorer is not None  # rows have scores only where the backend has weights

        def score(_: int, batch: Sequence[Contrast]) -> list[Contrast]:
            return scorer.score(batch, PLAIN_CELLS)

        return space.batches(Contrast, in_batches(rows, _BATCH), score), {}

    return stages.store.stage(
        "implicit", policy.round, depends, write, folder=f"round-{policy.round:02d}/heldout/implicit", units=len(rows),
        title=f"implicit rewards, held-out, after round {policy.round}",
    )  # fmt: skip


def measured(stages: DataStages, entry: Entry, start: Entry, implicit: Entry | None) -> Measure:
    """Return the figures of one policy on the held-out queries."""
    rows = stages.store.read(entry, Contrast)
    changes = _changes(stages, start, implicit) if implicit else None
    return measure(sorted(rows, key=lambda row: row.id), direction=stages.direction, implicit=changes)


def samples(before: Sequence[Contrast], after: Sequence[Contrast], count: int) -> list[dict[str, Any]]:
    """Return a few held-out queries with the answers of the first and the last policy side by side."""
    later = {row.id: row for row in after}
    shown = [row for row in sorted(before, key=lambda row: row.id) if row.id in later][:count]
    return [
        {
            "id": row.id,
            "query": row.prompt[-1]["content"],
            "positive_principle": row.positive_principle,
            "before": _texts(row),
            "after": _texts(later[row.id]),
        }
        for row in shown
    ]


def _texts(row: Contrast) -> dict[str, str]:
    return {role: getattr(row, f"{role}_response") for role in ROLES}


def _changes(stages: DataStages, start: Entry, implicit: Entry) -> list[tuple[float, float]]:
    """Return for each pair of the start how much likelier the policy finds y+ and y-, nats per token."""
    before = {row.id: row.scores for row in stages.store.read(start, Contrast)}
    changes = []
    for row in stages.store.read(implicit, Contrast):
        old, new = before[row.id], row.scores
        assert old is not None and new is not None  # only scored rows get here
        pair = [
            new[f"{role}_response"]["prompt"] - old[f"{role}_response"]["prompt"] for role in ("positive", "negative")
        ]
        changes.append((pair[0], pair[1]))
    return changes
