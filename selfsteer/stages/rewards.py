"""The stage ``rewards``: the margin of the filters' reward model, r(x, y+) - r(x, y-), in each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfsteer.records import count_rows
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.pipeline import Split
from selfsteer.runs.results import DroppedRows
from selfsteer.runs.shards import contrasts_job, run_sharded
from selfsteer.runs.store import Workspace
from selfsteer.stages.context import Pass, RunContext
from selfsteer.stages.reward_margins import BATCH, RewardMargins


def run(state: Pass) -> StageRecord | None:
    """Do the stage for a pass; None where no filter uses a reward model."""
    return rewards_stage(state.context, state.rows, state.number, state.split)


def rewards_stage(context: RunContext, scores: StageRecord, round: int, split: Split) -> StageRecord | None:
    """Put the margin of the filters' reward model into the rows; None where no filter uses one."""
    margins, files = context.reward_margins, context.store.files(scores)
    if margins is None:
        return None

    def write(space: Workspace) -> tuple[list[Path], DroppedRows]:
        context.models.free()
        done = run_sharded(space, len(files), contrasts_job(files, BATCH, margins.put))
        margins.free()
        return done

    return context.store.get_or_compute(
        "rewards", round, reward_depends(scores, margins), write, split=split, units=sum(map(count_rows, files))
    )


def reward_depends(scores: StageRecord, margins: RewardMargins) -> dict[str, Any]:
    """Return what the stage depends on."""
    return {"scores": scores.key, "reward": margins.key}
