"""The queries stage: from a source to blocks of training queries and a file of held-out ones, streaming.

The checks of a recipe (length, language, benchmarks, near duplicates) look at training queries alone: held-out ones are
measured on, never trained on, so what they share with a benchmark does no harm.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path

from selfsteer.config import QuerySettings, Recipe
from selfsteer.errors import DataError
from selfsteer.queries import Checks, Dropped, load_queries, source_fingerprint, stream_queries
from selfsteer.records import Query, write_rows
from selfsteer.runs.dropped import check_dropped_share, dropped_note, dropping
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.pipeline import Split
from selfsteer.runs.results import DroppedRows
from selfsteer.runs.shards import ShardWriter
from selfsteer.runs.store import Store, Workspace
from selfsteer.seeding import draw
from selfsteer.stages.context import Pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueriesResult(DroppedRows):
    """How many rows the source has, and how many queries are trained on and held out."""

    read: int
    train: int
    heldout: int


def run(state: Pass) -> StageRecord:
    """Do the stage for a pass."""
    return queries_stage(state.context.recipe, state.context.store)


def queries_stage(recipe: Recipe, store: Store) -> StageRecord:
    """Load and split the queries, once for all rounds."""
    # With annotated preferences none of these queries is trained on, so the checks apply to the pairs instead.
    settings = recipe.queries.unchecked if recipe.preferences.source else recipe.queries
    sources = [settings.source, *([settings.heldout] if isinstance(settings.heldout, str) else [])]
    sources += [benchmark.source for benchmark in settings.decontaminate]
    depends = {
        "settings": settings.model_dump(exclude={"per_round", "round_size", "max_left_out"}),
        "content": [source_fingerprint(source) for source in sources],
        "seed": recipe.seed,
    }

    def note(record: StageRecord) -> str:
        found = QueriesResult.of(record)
        return f": {found.train} to align on, {found.heldout} held out{dropped_note(record)}"

    entry = store.get_or_compute(
        "queries", 1, depends, lambda space: split_queries(space, settings, recipe.seed), units=1, note=note
    )
    check_dropped_share(QueriesResult.of(entry), "query", settings.source, settings.max_left_out)
    return entry


def round_queries(recipe: Recipe, queries: StageRecord, split: Split, round: int) -> range:
    """Return which queries of a split are answered: of the training split, those of the round, by their positions."""
    found = QueriesResult.of(queries)
    return of_round(recipe.queries, found.train, round, recipe.rounds) if split == "train" else range(found.heldout)


def split_queries(space: Workspace, settings: QuerySettings, seed: int) -> tuple[list[Path], QueriesResult]:
    """Write the queries of a source; what gives none goes, with its reason, into a file of its own.

    Returns:
        The blocks of training queries and, where there are any, the file of held-out ones behind them; the counts.

    Raises:
        ConfigError, DataError: As :func:`selfsteer.queries.load_queries` and :class:`selfsteer.queries.Checks`; also
            where no query is left to train on.
    """
    checks, shards = Checks(settings, settings.languages), ShardWriter(space, Query)
    count = settings.heldout if isinstance(settings.heldout, int) else 0
    held = _HeldOut(count, seed)
    apart: list[Query] = []  # held-out queries of a source of their own
    with dropping(space) as left_out:
        if isinstance(settings.heldout, str):
            limit, most = settings.heldout_limit, settings.max_left_out
            loaded = load_queries(settings.heldout, split="heldout", limit=limit, max_left_out=most)
            apart = loaded.queries
            for drop in loaded.dropped:
                left_out.drop(drop.where, drop.reason)
        ids = {query.id for query in apart}
        if settings.near_duplicates:
            # Training queries may not be near those that will be held out, so a reading of its own finds these first.
            for query in apart or (draw_queries(settings, count, seed, max_left_out=None) if count else ()):
                checks.remember(query.id, query.prompt)
        # How many are left out is checked in the stage's info, whenever it was made.
        for found in _stream(settings, max_left_out=None):
            left_out.tally.rows += 1
            if isinstance(found, Query):
                if found.id in ids:
                    left_out.drop(found.id, "is a held-out query too")
                    continue
                for freed in held.push(found):
                    if fault := checks.fault(freed.id, freed.prompt):
                        left_out.fault(freed.id, fault)
                    else:
                        shards.add(freed)
            elif found.unusable:
                left_out.unusable(found.where, found.reason, found.do)
            else:
                left_out.drop(found.where, found.reason)
        dropped = left_out.rows
        if not shards.count:
            # Rows that can't be used come first: they may be why so few queries were left to hold out.
            check_dropped_share(dropped, "query", settings.source, settings.max_left_out)
            if left_out.counts:
                what = f"the checks leave no query to train on ({left_out.counts})"
                raise DataError(what, where="queries", do="loosen the one that takes most")
            do = "hold out fewer, or give more queries"
            raise DataError("every query is held out", where="queries.heldout", do=do)
        shards.flush()
        apart += held.queries()
        if apart:
            shards.paths.append(space.path("heldout.parquet"))
            write_rows(shards.paths[-1], Query, apart)
        counts = {"read": left_out.tally.rows, "train": shards.count, "heldout": len(apart)}
        return shards.paths, QueriesResult.from_info(dropped.info, **counts)


def draw_queries(settings: QuerySettings, count: int, seed: int, *, max_left_out: float | None) -> list[Query]:
    """Return a random sample of the queries of a source, at most ``count``, in random order; it alone is in memory.

    They are drawn as held-out queries are, so which ones depends on the seed and their ids alone.
    """
    drawn = _HeldOut(count, seed)
    for found in _stream(settings, max_left_out=max_left_out):
        if isinstance(found, Query):
            drawn.push(found)
    return drawn.queries()


def _stream(settings: QuerySettings, *, max_left_out: float | None) -> Iterator[Query | Dropped]:
    shared = settings.model_dump(include={"field", "limit", "dataset_split"})
    return stream_queries(settings.source, **shared, max_left_out=max_left_out)


def query_files(files: Sequence[Path], split: str, heldout: int) -> Sequence[Path]:
    """Return the files of a split, given all of the stage's and the number of held-out queries."""
    blocks = len(files) - (1 if heldout else 0)
    return files[:blocks] if split == "train" else files[blocks:]


def of_round(settings: QuerySettings, total: int, round: int, rounds: int) -> range:
    """Return the positions of the training queries that a round answers.

    Raises:
        DataError: There are too few for every round to have its own.
    """
    if settings.per_round == "all":
        return range(total)
    size = settings.round_size or 1
    if total < rounds * size:
        what = f"{total} training queries are too few for {rounds} rounds of {size}"
        do = "give more queries, or set queries.per_round to all"
        raise DataError(what, where=f"queries.per_round={settings.per_round}", do=do)
    if settings.per_round == "split":
        return range(round - 1, total, rounds)
    return range((round - 1) * size, round * size)


class _HeldOut:
    """Which ``count`` queries are held out depends on the seed and their ids alone, not on their order."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._heap: list[tuple[int, str, Query]] = []  # the highest draw is the first to leave

    def push(self, query: Query) -> list[Query]:
        """Take one query in; return those that are certain to be trained on."""
        drawn = -int(draw(self.seed, query.id), 16), query.id, query
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, drawn)
            return []
        return [heapq.heappushpop(self._heap, drawn)[-1]]

    def queries(self) -> list[Query]:
        """Return the held-out queries, in the order of their draws."""
        return [dataclasses.replace(query, split="heldout") for _, _, query in sorted(self._heap, reverse=True)]
