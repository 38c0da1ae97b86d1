"""Annotated preferences in place of generated ones: a data set in TRL's form becomes rows for the base view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfsteer.errors import DataError
from selfsteer.judges.base import Pair
from selfsteer.judges.pair_datasets import pair_of
from selfsteer.queries import Checks, check_dataset_split, check_languages, source_fingerprint, source_rows
from selfsteer.queries.messages import Unusable
from selfsteer.queries.tally import check_share
from selfsteer.records import Contrast, Query, count_rows, read_rows, write_rows
from selfsteer.runs.dropped import DroppedFile, check_dropped_share, dropped_note, dropping
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.shards import SHARD_ROWS, BatchResult, ShardJob, ShardPlan, run_sharded
from selfsteer.runs.store import Workspace, in_batches
from selfsteer.stages.context import RunContext, stage_folder
from selfsteer.stages.model_pool import Policy
from selfsteer.stages.queries import query_files
from selfsteer.stages.round_stats import data_figures
from selfsteer.stages.scores import fitting

_SCORE_BATCH = 8


def preferences_stage(stages: RunContext, queries: StageRecord) -> StageRecord:
    """Read the recipe's preference data set, whose labels are taken for true: chosen is y+, rejected y-, and no yo.

    The recipe's checks of queries look at the prompts of the pairs.

    Raises:
        ConfigError: As :class:`selfsteer.queries.Checks`.
        DataError: The source or a benchmark is not there, no pair is left, or more rows can't be used than
            ``queries.max_left_out`` allows.
    """
    settings, checked = stages.recipe.preferences, stages.recipe.queries

    source = str(settings.source)
    check_dataset_split(source, settings.dataset_split, "preferences.dataset_split")
    check_languages(checked.languages or ())
    depends = {
        "settings": settings.model_dump(),
        "content": [source_fingerprint(name) for name in (source, *(one.source for one in checked.decontaminate))],
        "checks": checked.checks,
        "heldout": queries.key,
    }
    held = query_files(stages.store.files(queries), "heldout", queries.info["heldout"])
    heldout = list(read_rows(held, Query))

    def write(space: Workspace) -> tuple[list[Path], dict[str, Any]]:
        checks = Checks(checked, checked.languages)
        with dropping(space) as left_out:
            reading = _Reading(space, heldout, checks, left_out)
            return reading.go(numbered(source, settings.dataset_split), settings.limit, source)

    def note(info: dict[str, Any]) -> str:
        return f": {info['pairs']} pairs to train on{dropped_note(info)}"

    entry = stages.store.get_or_compute(
        "preferences", 1, depends, write, folder="round-01/preferences", units=1, title="read preferences", note=note
    )
    check_dropped_share(entry.info, "pair", source, checked.max_left_out)
    return entry


def scored_preferences(stages: RunContext, preferences: StageRecord, policy: Policy) -> StageRecord:
    """Score the pairs under the plain prompt by the policy that is to be trained: its reference."""
    depends = {"preferences": preferences.key} | stages.scoring(policy)
    files = stages.store.files(preferences)

    def write(space: Workspace) -> tuple[list[Path], dict[str, Any]]:
        from selfsteer.stages.scorer import PLAIN_CELLS

        scorer = stages.models.scorer(policy)
        assert scorer is not None  # whoever is trained has weights

        def plan(number: int) -> ShardPlan[Contrast]:
            fits, left_out = fitting(list(read_rows([files[number]], Contrast)), scorer.chat, stages.recipe)
            return ShardPlan(in_batches(fits, _SCORE_BATCH), left_out)

        def do(_: int, batch: Sequence[Contrast]) -> BatchResult[Contrast]:
            return BatchResult(scorer.score(batch, PLAIN_CELLS))

        paths, info = run_sharded(space, len(files), ShardJob(Contrast, plan, do))
        return paths, info | {"figures": data_figures(read_rows(paths, Contrast))}

    rows = sum(map(count_rows, files))
    entry = stages.store.get_or_compute(
        "scores", 1, depends, write, folder=stage_folder("train", 1, "scores"), units=rows,
        title="score preferences, round 1", note=dropped_note,
    )  # fmt: skip
    settings = stages.recipe
    check_dropped_share(entry.info, "pair", str(settings.preferences.source), settings.queries.max_left_out, rows)
    return entry


def numbered(source: str, split: str) -> Iterator[tuple[str, str, Any, str]]:
    """Yield each row of a source of pairs as (id, where, row, origin); an id is the origin's name and a row number."""
    numbers: dict[str, int] = {}
    for where, row, origin in source_rows(source, split):
        numbers[origin] = numbers.get(origin, 0) + 1
        yield f"{origin}-{numbers[origin]}", where, row, origin


class _Reading:
    """The pairs so far: one block in memory."""

    def __init__(self, space: Workspace, heldout: Sequence[Query], checks: Checks, left_out: DroppedFile) -> None:
        self._space, self._checks, self._left_out = space, checks, left_out
        self._heldout = [query.prompt for query in heldout]
        for query in heldout:  # nothing that is near to one of them is trained on
            checks.remember(query.id, query.prompt)
        self._pairs = 0
        self._block: list[Contrast] = []
        self._paths: list[Path] = []

    def go(
        self, rows: Iterator[tuple[str, str, Any, str]], limit: int | None, source: str
    ) -> tuple[list[Path], dict[str, Any]]:
        for own_id, where, row, origin in rows:
            if self._pairs == limit:
                break
            self._left_out.tally.rows += 1
            self._take(own_id, where, row, origin)
        if self._block:
            self._flush()
        info = self._left_out.info
        if not self._paths:
            check_share(info, "pair", source, most=None)
            reason = self._left_out.first[0]["reason"]
            what = f"no pair is left of {info['rows']} rows: {reason}"
            raise DataError(what, where=source, do="give other preference pairs")
        return self._paths, {"read": info["rows"], "pairs": self._pairs, **info}

    def _take(self, own_id: str, where: str, row: Any, origin: str) -> None:
        try:
            pair = pair_of(row, own_id, origin)
        except Unusable as unusable:
            self._left_out.unusable(where, str(unusable), unusable.do)
            return
        try:
            found = _contrast(pair)
        except Unusable as unusable:
            self._left_out.drop(where, str(unusable))
            return
        if found.prompt in self._heldout:
            self._left_out.drop(where, "is a held-out query too")
            return
        if fault := self._checks.fault(found.id, found.prompt):
            self._left_out.fault(where, fault)
            return
        self._pairs += 1
        self._block.append(found)
        if len(self._block) == SHARD_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._paths.append(self._space.path(f"{len(self._paths):05d}.parquet"))
        write_rows(self._paths[-1], Contrast, self._block)
        self._block = []


def better_and_worse(pair: Pair) -> tuple[str, str]:
    """Return the two answers of a pair by its label; :class:`Unusable` where they can't be trained on."""
    if pair.label not in (1, -1):
        raise Unusable("says of neither answer that it is better")
    better, worse = (pair.first, pair.second) if pair.label == 1 else (pair.second, pair.first)
    if not (better.strip() and worse.strip()):
        raise Unusable("an empty answer")
    return better, worse


def _contrast(pair: Pair) -> Contrast:
    """Return a pair as a row without principles: all three prompts are the plain one."""
    better, worse = better_and_worse(pair)
    return Contrast(
        id=pair.id,
        prompt=pair.prompt,
        split="train",
        aspects=[],
        positive_principle="",
        negative_principle="",
        positive_prompt=pair.prompt,
        negative_prompt=pair.prompt,
        positive_response=better,
        negative_response=worse,
        original_response="",
        positive_finish="stop",
        negative_finish="stop",
        original_finish="absent",
        provenance={"source": f"annotated preferences: {pair.subset}"},
    )
