"""The stage ``contrasts``: quality control. Every dropped row is kept, with its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfsteer.errors import InputError, NothingSurvived
from selfsteer.quality import (
    DropCounts,
    FilterChain,
    HarmClassifier,
    advice,
    few_kept,
    flag_harm,
    parse_filters,
    steering_margin,
)
from selfsteer.records import Contrast, count_rows, read_columns, read_rows
from selfsteer.runs.executor import BatchResult, OpenTask
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.pipeline import Split, stage
from selfsteer.runs.results import StageResult
from selfsteer.runs.shards import SHARD_ROWS, contrasts_job, run_sharded
from selfsteer.runs.store import Workspace, stage_key
from selfsteer.stages.context import Pass, RunContext
from selfsteer.stages.principles import counted
from selfsteer.stages.rewards import reward_depends, rewards_stage

_CLASSIFIED = 32  # rows that a harm classifier is given at once
TALLIED = ("kept", "drop_reason", "aspects", "negative_harmful")
"""The columns that a tally of stored rows reads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastsResult(StageResult):
    """What quality control did.

    Attributes:
        order: The names of ``counts`` in the order of the filters (JSON objects are written with their keys sorted).
        thresholds: Those that the filters were fitted to, by filter.
    """

    total: int
    counts: dict[str, int]
    order: list[str] | None = None
    thresholds: dict[str, float]
    aspects: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)  # ledgers of early versions lack it
    harmful: Any = None

    @classmethod
    def from_tally(cls, tally: DropCounts, thresholds: Mapping[str, float]) -> ContrastsResult:
        """Return the result of a filter chain's tally and fitted thresholds."""
        counts = tally.counts
        return cls(
            total=sum(counts.values()), counts=counts, order=list(counts), thresholds=dict(thresholds),
            aspects=tally.aspects, harmful=tally.harmful,
        )  # fmt: skip

    def __str__(self) -> str:
        """Return "24 kept; dropped: direction 12, leak 1"."""
        drops = counted({name: count for name, count in self.counts.items() if name != "kept" and count})
        return f"{self.counts['kept']} kept" + (f"; dropped: {drops}" if drops else "")


@dataclasses.dataclass(frozen=True)
class FilterTask:
    """Flags and filters rows by a fitted chain."""

    chain: FilterChain
    harmful: Collection[str]
    classifier: HarmClassifier | None

    def open(self, models: Any) -> OpenTask[Contrast, Contrast]:
        """The classifier loads itself when it is used."""

        def do(_: int, batch: Sequence[Contrast]) -> BatchResult[Contrast]:
            flagged = flag_harm(batch, self.harmful, self.classifier)
            return BatchResult([self.chain.apply(with_margin(row)) for row in flagged])

        return OpenTask(do)


def run(state: Pass) -> StageRecord:
    """Do the stage for a pass."""
    return contrasts_stage(state.context, state.records["scores"], state.number, state.split, rows=state.rows)


def contrasts_stage(
    context: RunContext, scores: StageRecord, round: int, split: Split = "train", *, rows: StageRecord | None = None
) -> StageRecord:
    """Filter the scored rows.

    Args:
        rows: The rows to filter (default: those of ``scores``, with the reward model's margins where a filter uses
            one).

    Raises:
        NothingSurvived: No row is kept. The rows are on disk, and no result of the stage is recorded.
    """
    rows = rows or rewards_stage(context, scores, round, split) or scores
    store, principle_set = context.store, context.principle_set
    files, classifier = store.files(rows), context.harm_classifier
    depends = {
        "scores": scores.key,
        "filters": context.filters,
        "files": {step.name: step.content for step in parse_filters(context.filters) if step.content},
        "set": principle_set.fingerprint,
        "harmful": principle_set.harmful,
        "classifier": classifier and classifier.key,
    } | ({} if rows is scores else {"rewards": rows.key})
    size = _CLASSIFIED if classifier else SHARD_ROWS

    def write(space: Workspace) -> tuple[list[Path], ContrastsResult]:
        chain = _fitted(context.chain(), files)
        task, executor = FilterTask(chain, principle_set.harmful, classifier), None
        if context.recipe.executor == "ray" and (portable := chain.portable()):
            task = dataclasses.replace(task, chain=portable)
            executor = context.models.filtering_executor(classifies=classifier is not None)
        paths, _ = run_sharded(space, len(files), contrasts_job(files, size, task), executor)
        chain.count(read_columns(paths, TALLIED))  # on disk: a resumed stage has not seen all rows
        chain.finish()
        found = ContrastsResult.from_tally(chain.tally, chain.thresholds)
        if not found.counts["kept"]:
            what = f"quality control kept no row of {found.total} ({found})"
            raise NothingSurvived(what, where=str(paths[0].relative_to(store.run_dir)), do=advice(found.counts))
        return paths, found

    entry = store.get_or_compute(
        "contrasts", round, depends, write, split=split, units=sum(map(count_rows, files)),
        note=lambda record: f": {ContrastsResult.of(record)}",
    )  # fmt: skip
    if few := few_kept(entry.info["counts"]):
        store.display.say(f"{stage('contrasts').titled(split, round)}: {few}")
    return entry


def try_filters(context: RunContext, scores: StageRecord) -> ContrastsResult:
    """Return what :func:`contrasts_stage` would record, and write nothing; no model is asked.

    Raises:
        InputError: A filter uses a reward model whose margins of these rows are not known yet.
    """
    rows = scores
    if context.reward_margins:
        key = stage_key("rewards", reward_depends(scores, context.reward_margins))
        found = context.store.ledger.find("rewards", scores.round, key)
        if found is None:
            what = "a dry run asks no model, and the reward model of reward_margin was not asked about these rows"
            do = "leave --dry-run out; its margins are kept, so that every later filter run finds them"
            raise InputError(what, where=f"round {scores.round}", do=do)
        rows = found
    files = context.store.files(rows)
    chain = _fitted(context.chain(), files)
    for row in read_rows(files, Contrast):
        chain.apply(*flag_harm([row], context.principle_set.harmful))
    chain.finish()
    return ContrastsResult.from_tally(chain.tally, chain.thresholds)


def _fitted(chain: FilterChain, files: Sequence[Path]) -> FilterChain:
    chain.fit(lambda: read_rows(files, Contrast))
    return chain


def with_margin(row: Contrast) -> Contrast:
    """Return a row with its steering margin in the column for it, None where it has no scores."""
    return dataclasses.replace(row, steering_margin=steering_margin(row))
