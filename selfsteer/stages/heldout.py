"""Held-out figures: the same queries and principles, answered and scored by each policy of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from selfsteer.evaluation import Measure, measure
from selfsteer.evaluation.metrics import answer_drops, implicit_changes
from selfsteer.records import ROLES, Contrast
from selfsteer.stages.context import Pass
from selfsteer.stages.judgements import direction_on


def heldout_measures(state: Pass) -> Measure:
    """Return the figures of one policy on the held-out queries, and the program or judge that compared y+ with y-."""
    context, records = state.context, state.records
    recipe, judged = context.recipe, records.get("judgements")
    rows = sorted(context.store.read(records["scores"], Contrast), key=lambda row: row.id)
    changes = drops = None
    if "implicit" in records:
        assert state.start_rows is not None  # the stage compares with them
        before, after = (context.store.read(one, Contrast) for one in (state.start_rows, records["implicit"]))
        per_token, limit = recipe.implicit_per_token, recipe.train.max_length
        changes = list(implicit_changes(before, after, per_token=per_token, max_length=limit).values())
        drops = answer_drops(before, after)
    signal = direction_on(context, records["scores"], judged)
    figures = measure(
        rows, direction=context.direction, implicit=changes, per_token=recipe.implicit_per_token, drops=drops
    )
    return {**figures, "judged": judged.info if judged else None, "signal": asdict(signal) if signal else None}


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
