"""Run filters over a set of any size, row by row. A dropped row stays in the set, with the reason in it.

Filters run in the order given, ``empty`` always first; a row that one filter dropped is not seen by the next, and
averages are taken over the rows still kept when a filter starts, and so is what counts as an earlier row. For filters
that depend on the set, rows are read several times, but each filter judges a row once: its verdict is kept on disk.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from selfsteer.errors import SelfsteerWarning
from selfsteer.quality.base import Context, Filter, FilterSpec
from selfsteer.quality.drop_counts import DROPPED_BEFORE, KEPT, DropCounts
from selfsteer.quality.filters import FilterReport, parse_filters
from selfsteer.records import Contrast
from selfsteer.temp_db import TempDatabase, hash_of

_WRITTEN_HERE = {"steering_margin", "negative_harmful"}
"""Columns that quality control fills between fitting and filtering; no filter uses them."""
_FILTERED_BY = tuple(field.name for field in dataclasses.fields(Contrast) if field.name not in _WRITTEN_HERE)


class _Verdicts(TempDatabase):
    """How many filters have let each row pass, and why the next one drops it, by the hash of the row's content.

    By its place a row would not be found where shards come in another order, by its id not where files with equal ids
    are filtered together.
    """

    def __init__(self) -> None:
        table = "CREATE TABLE seen (row BLOB PRIMARY KEY, passed INTEGER, why TEXT) WITHOUT ROWID"
        super().__init__([table], "verdicts")

    def of(self, name: bytes) -> tuple[int, str]:
        found = self.execute("SELECT passed, why FROM seen WHERE row = ?", (name,)).fetchone()
        return found or (0, "")

    def put(self, name: bytes, passed: int, why: str) -> None:
        self.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (name, passed, why))


class FilterChain:
    """Filters in their order, their thresholds, and in :attr:`tally` how many rows each has dropped. It holds no row.

        chain = FilterChain(specs, adjectives=adjectives)
        chain.fit(lambda: read_rows(files, Contrast))
        rows = [chain.apply(row) for row in block]  # block after block, in any order
        chain.finish()

    Args:
        filters: Names, one-key mappings to settings, or ready filters.
        adjectives: The (positive, negative) adjectives of each aspect, for ``leak``; for an aspect not named here only
            its principle is searched for.

    Raises:
        ConfigError: A filter or a setting is unknown or out of range.
    """

    def __init__(
        self,
        filters: Sequence[FilterSpec | Filter],
        *,
        adjectives: Mapping[str, Sequence[str]] | None = None,
        harmful: Collection[str] = (),
    ) -> None:
        self.filters = parse_filters(filters)
        self._adjectives, self._harmful = adjectives or {}, harmful
        self.tally = DropCounts([step.name for step in self.filters])
        self._contexts = [None if step.given is None else self._context(step.given) for step in self.filters]
        self._verdicts: _Verdicts | None = None

    def fit(self, rows: Callable[[], Iterable[Contrast]]) -> None:
        """Fit the filters that depend on the set, in order: one pass over ``rows()`` (all rows) for each, else none.

        Raises:
            InputError: A filter needs scores that a row doesn't carry.
        """
        if self._verdicts:
            self._verdicts.close()
        self._verdicts = _Verdicts() if any(step.given is None for step in self.filters) else None
        for place, step in enumerate(self.filters):
            if step.given is None:
                # A pass of its own, before the first row is filtered: so shards in any order, and a run that was
                # killed, give the same result.
                left = (row for row in rows() if row.kept and not self._verdict(row, place))
                self._contexts[place] = step.fit(left, self._context({}))

    def portable(self) -> FilterChain | None:
        """Return a fitted chain that can be pickled and gives the same verdicts; None where it needs an index of rows.

        So set averages take two passes: :meth:`fit` reads the rows here, and any process applies what it found.
        """
        if any(context is not None and context.repeats for context in self._contexts):
            return None
        found = copy.copy(self)
        found._verdicts = None
        return found

    def apply(self, row: Contrast) -> Contrast:
        """Return ``row``, dropped with its reason where a filter drops it, and count it. A dropped one stays as it is.

        Raises:
            InputError: A filter needs scores that the row doesn't carry.
            RuntimeError: The row comes to a filter that :meth:`fit` had no row for, or :meth:`fit` was not called.
        """
        name, why = (self._verdict(row, len(self.filters)) or (KEPT, "")) if row.kept else (DROPPED_BEFORE, "")
        self.tally.add(name, row.aspects, row.negative_harmful)
        return row.drop(f"{name}: {why}") if why else row

    def count(self, stored: Iterable[tuple[bool, str, Sequence[str], str]]) -> DropCounts:
        """Count rows that were filtered before, instead of those given to :meth:`apply`, and return :attr:`tally`."""
        self.tally = DropCounts([step.name for step in self.filters])
        for columns in stored:
            self.tally.read(*columns)
        return self.tally

    def finish(self, *, stacklevel: int = 2) -> None:
        """Close the temporary files: no row can be given any more. ``stacklevel`` is that of the warning.

        Warns:
            SelfsteerWarning: By :attr:`counts`, a filter dropped every row that it was given.
        """
        for context in filter(None, self._contexts):
            if context.repeats:
                context.repeats.close()
        if self._verdicts:
            self._verdicts.close()
        counts = self.counts
        left = sum(counts.values()) - counts.get(DROPPED_BEFORE, 0)
        for step in self.filters:
            dropped = counts[step.name]
            if left and dropped == left:
                message = f"filter {step.name!r} dropped all {left} rows it was given; {step.relax}"
                warnings.warn(message, SelfsteerWarning, stacklevel=stacklevel)
            left -= dropped

    @property
    def counts(self) -> dict[str, int]:
        """Rows dropped by each filter, as in :class:`FilterReport`."""
        return self.tally.counts

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds that the settings give and that :meth:`fit` found, by "filter.threshold"."""
        steps = zip(self.filters, self._contexts, strict=True)
        known = [(step.name, context.thresholds) for step, context in steps if context]
        return {f"{name}.{key}": value for name, thresholds in known for key, value in thresholds.items()}

    def _context(self, thresholds: Mapping[str, float]) -> Context:
        return Context(self._adjectives, thresholds, harmful=self._harmful)

    def _verdict(self, row: Contrast, end: int) -> tuple[str, str] | None:
        """Return the first of the first ``end`` filters that drops ``row``, and why."""
        if self._verdicts is None:
            passed, why = self._asked(row, 0, end)
        else:
            name = hash_of(repr([getattr(row, column) for column in _FILTERED_BY]))
            before = passed, why = self._verdicts.of(name)
            if not why and passed < end:
                passed, why = self._asked(row, passed, end)
            if (passed, why) != before:
                self._verdicts.put(name, passed, why)
        return (self.filters[passed].name, why) if why and passed < end else None

    def _asked(self, row: Contrast, start: int, end: int) -> tuple[int, str]:
        """Return how many of the first ``end`` filters let ``row`` pass, and why the next one drops it.

        Those before ``start`` are known to let it pass.
        """
        for place in range(start, end):
            context = self._contexts[place]
            if context is None:
                raise RuntimeError(
                    f"filter {self.filters[place].name!r} has no thresholds: call FilterChain.fit with these rows first"
                )
            if why := self.filters[place].reason(row, context):
                return place, why
        return end, ""


def apply_filters(
    contrasts: Iterable[Contrast],
    filters: Sequence[FilterSpec | Filter],
    *,
    adjectives: Mapping[str, Sequence[str]] | None = None,
    harmful: Collection[str] = (),
) -> FilterReport:
    """Run ``filters`` in order over a set that fits into memory; ``empty`` always runs first.

    A row that is not kept already stays as it is. The other arguments, the errors and the warning are those of
    :class:`FilterChain`.
    """
    given, steps = list(contrasts), FilterChain(filters, adjectives=adjectives, harmful=harmful)
    steps.fit(lambda: given)
    rows = [steps.apply(row) for row in given]
    steps.finish(stacklevel=3)
    return FilterReport(rows, steps.counts, steps.thresholds)
