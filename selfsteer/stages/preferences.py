"""Annotated preferences in place of generated ones: a data set in TRL's form becomes rows for the base view."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfsteer.errors import DataError
from selfsteer.judges.base import Pair
from selfsteer.judges.pair_datasets import pair_of
from selfsteer.queries import Checks, check_dataset_split, check_languages, source_fingerprint, source_rows
from selfsteer.queries.messages import Unusable
from selfsteer.queries.tally import check_share
from selfsteer.records import Contrast, Query, read_rows, write_rows
from selfsteer.runs.dropped import DroppedFile, check_dropped_share, dropped_note, dropping
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.results import DroppedRows
from selfsteer.runs.shards import SHARD_ROWS
from selfsteer.runs.store import Workspace
from selfsteer.stages.context import Pass, RunContext
from selfsteer.stages.queries import QueriesResult, query_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferencesResult(DroppedRows):
    """How many rows the source has, and how many pairs are trained on."""

    read: int
    pairs: int


def run(state: Pass) -> StageRecord | None:
    """Do the stage for a pass; None where the recipe names no annotated preferences."""
    source = state.context.recipe.preferences.source
    return preferences_stage(state.context, state.records["queries"]) if source else None


def preferences_stage(context: RunContext, queries: StageRecord) -> StageRecord:
    """Read the recipe's preference data set, whose labels are taken for true: chosen is y+, rejected y-, and no yo.

    The recipe's checks of queries look at the prompts of the pairs.

    Raises:
        ConfigError: As :class:`selfsteer.queries.Checks`.
        DataError: The source or a benchmark is not there, no pair is left, or more rows can't be used than
            ``queries.max_left_out`` allows.
    """
    settings, checked = context.recipe.preferences, context.recipe.queries

    source = str(settings.source)
    check_dataset_split(source, settings.dataset_split, "preferences.dataset_split")
    check_languages(checked.languages or ())
    depends = {
        "settings": settings.model_dump(),
        "content": [source_fingerprint(name) for name in (source, *(one.source for one in checked.decontaminate))],
        "checks": checked.checks,
        "heldout": queries.key,
    }
    held = query_files(context.store.files(queries), "heldout", QueriesResult.of(queries).heldout)
    heldout = list(read_rows(held, Query))

    def write(space: Workspace) -> tuple[list[Path], PreferencesResult]:
        checks = Checks(checked, checked.languages)
        with dropping(space) as left_out:
            reading = _Reading(space, heldout, checks, left_out)
            return reading.go(numbered(source, settings.dataset_split), settings.limit, source)

    def note(record: StageRecord) -> str:
        return f": {PreferencesResult.of(record).pairs} pairs to train on{dropped_note(record)}"

    entry = context.store.get_or_compute("preferences", 1, depends, write, units=1, note=note)
    check_dropped_share(PreferencesResult.of(entry), "pair", source, checked.max_left_out)
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
    ) -> tuple[list[Path], PreferencesResult]:
        for own_id, where, row, origin in rows:
            if self._pairs == limit:
                break
            self._left_out.tally.rows += 1
            self._take(own_id, where, row, origin)
        if self._block:
            self._flush()
        dropped = self._left_out.rows
        if not self._paths:
            check_share(dropped.info, "pair", source, most=None)
            reason = self._left_out.first[0]["reason"]
            what = f"no pair is left of {dropped.rows} rows: {reason}"
            raise DataError(what, where=source, do="give other preference pairs")
        read = self._left_out.tally.rows
        return self._paths, PreferencesResult.from_info(dropped.info, read=read, pairs=self._pairs)

    def _take(self, own_id: str, where: str, row: Any, origin: str) -> None:
        try:
            pair = pair_of(row, own_id, origin)
        except Unusable as unusable:
            self._left_out.unusable(where, str(unusable), unusable.do)
            return
        try:
            better, worse = better_and_worse(pair)
        except Unusable as unusable:
            self._left_out.drop(where, str(unusable))
            return
        # A row without principles: all three prompts are the plain one.
        found = Contrast(
            id=pair.id, prompt=pair.prompt, split="train", aspects=[], positive_principle="", negative_principle="",
            positive_prompt=pair.prompt, negative_prompt=pair.prompt, positive_response=better, negative_response=worse,
            original_response="", positive_finish="stop", negative_finish="stop", original_finish="absent",
            provenance={"source": f"annotated preferences: {pair.subset}"},
        )  # fmt: skip
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
