"""Held-out measurement: the same queries and principles, answered and scored by each policy of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from selfsteer.evaluation import Measure, measure
from selfsteer.evaluation.metrics import answer_drops, implicit_changes
from selfsteer.evaluation.steerability import Direction, direction_by
from selfsteer.files import read_json
from selfsteer.records import ROLES, Contrast, is_full
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.store import Workspace, in_batches
from selfsteer.stages.context import RunContext
from selfsteer.stages.model_pool import Policy

_BATCH = 8


def heldout_rows(stages: RunContext, principles: StageRecord, policy: Policy) -> StageRecord:
    """Let a policy answer the held-out queries under the start's principles, and score the answers under it."""
    responses = stages.responses(principles, "heldout", policy.round, policy)
    return stages.scores(principles, responses, "heldout", policy.round, policy)


def implicit_stage(stages: RunContext, start: StageRecord, policy: Policy) -> StageRecord:
    """Score the start's held-out pairs under a trained policy: what the implicit reward is made of."""
    rows = [row for row in stages.store.read(start, Contrast) if row.scores is not None]
    depends = {"start": start.key} | stages.scoring(policy)

    def write(space: Workspace) -> tuple[list[Path], dict[str, Any]]:
        from selfsteer.stages.scorer import PLAIN_CELLS

        scorer = stages.models.scorer(policy)
        assert scorer is not None  # rows have scores only where the backend has weights

        def score(_: int, batch: Sequence[Contrast]) -> list[Contrast]:
            return scorer.score(batch, PLAIN_CELLS)

        return space.batches(Contrast, in_batches(rows, _BATCH), score), {}

    return stages.store.get_or_compute(
        "implicit", policy.round, depends, write, folder=f"round-{policy.round:02d}/heldout/implicit", units=len(rows),
        title=f"implicit rewards, held-out, after round {policy.round}",
    )  # fmt: skip


def direction_on(stages: RunContext, entry: StageRecord, judged: StageRecord | None) -> Direction | None:
    """Return how often y+ is better on the pairs of a scored stage, by program or else by the judge; None: unknown."""
    verdicts = read_json(stages.store.run_dir / judged.files[0]) if judged else {}
    return direction_by(list(filter(is_full, stages.store.read(entry, Contrast))), stages.teller(verdicts))


class HeldoutResult(NamedTuple):
    """The held-out stages of one policy; ``implicit`` is None for the start, ``judged`` where there is no judge."""

    policy: Policy
    rows: StageRecord
    implicit: StageRecord | None
    judged: StageRecord | None


def heldout_measures(stages: RunContext, of: HeldoutResult, start: StageRecord) -> Measure:
    """Return the figures of one policy on the held-out queries, those of :func:`measure` and who said y+ is better."""
    rows = sorted(stages.store.read(of.rows, Contrast), key=lambda row: row.id)
    changes, drops = _changes(stages, start, of.implicit) if of.implicit else (None, None)
    signal = direction_on(stages, of.rows, of.judged)
    return {
        **measure(
            rows,
            direction=stages.direction,
            implicit=changes,
            per_token=stages.recipe.implicit_per_token,
            drops=drops,
        ),
        "judged": of.judged.info if of.judged else None,
        "signal": asdict(signal) if signal else None,
    }


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


def _changes(
    stages: RunContext, start: StageRecord, implicit: StageRecord
) -> tuple[list[tuple[float, float]], list[float]]:
    """Return for each row of the start how much likelier a policy finds y+ and y-, and how much less likely yo."""
    before, after = (stages.store.read(entry, Contrast) for entry in (start, implicit))
    recipe = stages.recipe
    changes = implicit_changes(before, after, per_token=recipe.implicit_per_token, max_length=recipe.train.max_length)
    return list(changes.values()), answer_drops(before, after)
