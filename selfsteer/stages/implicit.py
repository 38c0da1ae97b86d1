"""The stage ``implicit``: the start's held-out pairs scored under a trained policy, for the implicit reward."""

from __future__ import annotations

from pathlib import Path

from selfsteer.records import count_rows
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.results import StageResult
from selfsteer.runs.shards import contrasts_job, run_sharded
from selfsteer.runs.store import Workspace
from selfsteer.stages.context import Pass, RunContext
from selfsteer.stages.model_pool import Policy
from selfsteer.stages.scoring_task import SCORE_BATCH, ScoringTask


def run(state: Pass) -> StageRecord | None:
    """Do the stage for a pass; None for the start, which has nothing to be compared with."""
    return implicit_stage(state.context, state.start_rows, state.policy) if state.start_rows else None


def implicit_stage(context: RunContext, start: StageRecord, policy: Policy) -> StageRecord:
    """Score the start's held-out pairs under a trained policy."""
    files = context.store.files(start)
    depends = {"start": start.key} | context.scoring(policy)

    def write(space: Workspace) -> tuple[list[Path], StageResult]:
        from selfsteer.stages.scorer import PLAIN_CELLS

        job = contrasts_job(files, SCORE_BATCH, ScoringTask(policy, PLAIN_CELLS), lambda row: row.scores is not None)
        return run_sharded(space, len(files), job, context.models.scoring_executor(policy))[0], StageResult()

    units = sum(map(count_rows, files))
    return context.store.get_or_compute("implicit", policy.round, depends, write, split="heldout", units=units)
