"""Annotated preferences in place of generated ones: a data set in TRL's form becomes rows for the base view."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfsteer.config import QuerySettings
from selfsteer.config.queries import PreferenceSettings
from selfsteer.errors import DataError
from selfsteer.judges.base import Pair
from selfsteer.judges.pair_datasets import pair_of
from selfsteer.queries import Checks, check_dataset_split, check_languages, source_fingerprint, source_rows
from selfsteer.queries.messages import Unusable
from selfsteer.queries.tally import check_share
from selfsteer.records import Contrast, Query, read_rows
from selfsteer.runs.dropped import check_dropped_share, dropped_note, dropping
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.results import DroppedRows
from selfsteer.runs.shards import ShardWriter
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

    def note(record: StageRecord) -> str:
        return f": {PreferencesResult.of(record).pairs} pairs to train on{dropped_note(record)}"

    entry = context.store.get_or_compute(
        "preferences", 1, depends, lambda space: write_pairs(space, settings, checked, heldout), units=1, note=note
    )
    check_dropped_share(PreferencesResult.of(entry), "pair", source, checked.max_left_out)
    return entry


def write_pairs(
    space: Workspace, settings: PreferenceSettings, checked: QuerySettings, heldout: Sequence[Query]
) -> tuple[list[Path], PreferencesResult]:
    """Write the pairs of a source that pass the checks; what gives none goes, with its reason, into a file of its own.

    Raises:
        DataError: The source can't be read, or no pair is left.
    """
    source = str(settings.source)
    checks, shards = Checks(checked, checked.languages), ShardWriter(space, Contrast)
    for query in heldout:  # nothing that is near to one of them is trained on
        checks.remember(query.id, query.prompt)
    prompts = [query.prompt for query in heldout]
    with dropping(space) as left_out:
        for own_id, where, row, origin in numbered(source, settings.dataset_split):
            if shards.count == settings.limit:
                break
            left_out.tally.rows += 1
            try:
                pair = pair_of(row, own_id, origin)
            except Unusable as unusable:
                left_out.unusable(where, str(unusable), unusable.do)
                continue
            try:
                found = _as_row(pair)
            except Unusable as unusable:
                left_out.drop(where, str(unusable))
                continue
            if found.prompt in prompts:
                left_out.drop(where, "is a held-out query too")
            elif fault := checks.fault(found.id, found.prompt):
                left_out.fault(where, fault)
            else:
                shards.add(found)
        shards.flush()
        dropped = left_out.rows
        if not shards.count:
            check_share(dropped.info, "pair", source, most=None)
            what = f"no pair is left of {dropped.rows} rows: {left_out.first[0]['reason']}"
            raise DataError(what, where=source, do="give other preference pairs")
    return shards.paths, PreferencesResult.from_info(dropped.info, read=dropped.rows, pairs=shards.count)


def numbered(source: str, split: str) -> Iterator[tuple[str, str, Any, str]]:
    """Yield each row of a source of pairs as (id, where, row, origin); an id is the origin's name and a row number."""
    numbers: dict[str, int] = {}
    for where, row, origin in source_rows(source, split):
        numbers[origin] = numbers.get(origin, 0) + 1
        yield f"{origin}-{numbers[origin]}", where, row, origin


def _as_row(pair: Pair) -> Contrast:
    """Return a pair as a row without principles: all three prompts are the plain one."""
    better, worse = better_and_worse(pair)
    return Contrast(
        id=pair.id, prompt=pair.prompt, split="train", aspects=[], positive_principle="", negative_principle="",
        positive_prompt=pair.prompt, negative_prompt=pair.prompt, positive_response=better, negative_response=worse,
        original_response="", positive_finish="stop", negative_finish="stop", original_finish="absent",
        provenance={"source": f"annotated preferences: {pair.subset}"},
    )  # fmt: skip


def better_and_worse(pair: Pair) -> tuple[str, str]:
    """Return the two answers of a pair by its label; :class:`Unusable` where they can't be trained on."""
    if pair.label not in (1, -1):
        raise Unusable("says of neither answer that it is better")
    better, worse = (pair.first, pair.second) if pair.label == 1 else (pair.second, pair.first)
    if not (better.strip() and worse.strip()):
        raise Unusable("an empty answer")
    return better, worse
