"""The stage ``policy``: the policy trained on the round's rows, and on those of older rounds if wanted."""

from __future__ import annotations

from selfsteer.runs.ledger import StageRecord
from selfsteer.stages.context import Pass
from selfsteer.stages.reference import trained_on
from selfsteer.stages.training import train_stage


def run(state: Pass) -> StageRecord | None:
    """Do the stage for a pass, whose policy is the trained one from then on."""
    if not state.trains:
        return None
    assert state.reference is not None
    scored = state.records.get("reference")
    rows = [scored] if scored else [one.contrasts for one in trained_on(state.context.recipe, state.made)]
    record, state.policy = train_stage(
        state.context, "policy", state.number, rows, start=state.policy, reference=state.reference
    )
    return record
