"""The stage ``generator`` (v2): a data generator trained from the policy, on the rows of a pass of its own."""

from __future__ import annotations

from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.pipeline import GENERATOR
from selfsteer.stages.context import Pass
from selfsteer.stages.training import train_stage


def run(state: Pass) -> StageRecord | None:
    """Do the stage for a pass, whose writer is the generator from then on; None in the other modes."""
    rows = state.records.get(f"{GENERATOR}contrasts")
    if rows is None:
        return None
    record, state.writer = train_stage(
        state.context, "generator", state.number, [rows], start=state.policy, reference=state.policy
    )
    return record
