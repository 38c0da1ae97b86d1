"""Run filters over a set of any size, row by row. A dropped row stays in the set, with the reason in it.

Filters run in the order given, ``empty`` always first; a row that one filter dropped is not seen by the next, and
averages are taken over the rows still kept when a filter starts.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from selfsteer.errors import SelfsteerWarning
from selfsteer.quality.filters import (
    DROPPED_BEFORE,
    KEPT,
    Context,
    Filter,
    FilterReport,
    FilterSpec,
    averages,
    parse_filters,
)
from selfsteer.records import Contrast


class FilterChain:
    """Filters in their order, their thresholds, and how many rows each has dropped. It holds no row.

        chain = FilterChain(specs, adjectives=adjectives)
        chain.fit(lambda: read_rows(files, Contrast))
        rows = [chain.apply(row) for row in block]  # block after block, in any order
        chain.finish()

    Args:
        filters: Names, one-key mappings to settings, or ready filters.
        adjectives: The (positive, negative) adjectives of each aspect, for ``leak``; an aspect not named here has none,
            and then only its principle is looked for.

    Raises:
        ConfigError: A filter or a setting is unknown or out of range.
    """

    def __init__(
        self, filters: Sequence[FilterSpec | Filter], *, adjectives: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.filters = parse_filters(filters)
        self._adjectives = adjectives or {}
        self._counts: Counter[str] = Counter()
        self._thresholds: list[Mapping[str, float] | None] = [None if _is_fitted(step) else {} for step in self.filters]

    def fit(self, rows: Callable[[], Iterable[Contrast]]) -> None:
        """Fit the filters whose thresholds depend on the set, in order: one pass over ``rows()`` for each, else none.

        Args:
            rows: Gives all rows of the set anew each time it is called; one that is not kept already is passed over.

        Raises:
            InputError: A filter needs scores that a row doesn't carry.
        """
        for place, step in enumerate(self.filters):
            if _is_fitted(step):
                self._thresholds[place] = averages(map(step.averaged, self._left(rows(), place))) or None

    def apply(self, row: Contrast) -> Contrast:
        """Return ``row``, dropped with its reason where a filter drops it, and count it. A dropped one stays as it is.

        Raises:
            InputError: A filter needs scores that the row doesn't carry.
            RuntimeError: The row comes to a filter that :meth:`fit` had no row for, or :meth:`fit` was not called.
        """
        name, why = (self._verdict(row, len(self.filters)) or (KEPT, "")) if row.kept else (DROPPED_BEFORE, "")
        self._counts[name] += 1
        return row.drop(f"{name}: {why}") if why else row

    def count(self, stored: Iterable[tuple[bool, str]]) -> dict[str, int]:
        """Count rows that were filtered before, instead of those given to :meth:`apply`, and return :attr:`counts`.

        Args:
            stored: (kept, drop_reason) of all rows; see :func:`count_reasons`.
        """
        self._counts = Counter(count_reasons(stored, [step.name for step in self.filters]))
        return self.counts

    def finish(self) -> None:
        """Say which filter dropped every row that it was given, going by :attr:`counts`.

        Warns:
            SelfsteerWarning: One did.
        """
        self._warn(stacklevel=3)

    @property
    def counts(self) -> dict[str, int]:
        """Rows dropped by each filter, as in :class:`FilterReport`."""
        return _in_order(self._counts, [step.name for step in self.filters])

    @property
    def thresholds(self) -> dict[str, float]:
        """What :meth:`fit` found, "filter.response": nats per token."""
        fitted = zip(self.filters, self._thresholds, strict=True)
        return {f"{step.name}.{key}": value for step, values in fitted for key, value in (values or {}).items()}

    def _left(self, rows: Iterable[Contrast], end: int) -> Iterator[Contrast]:
        """Yield the rows that the first ``end`` filters keep."""
        return (row for row in rows if row.kept and not self._verdict(row, end))

    def _verdict(self, row: Contrast, end: int) -> tuple[str, str] | None:
        """Return the first of the first ``end`` filters that drops ``row``, and why."""
        for step, thresholds in zip(self.filters[:end], self._thresholds, strict=False):
            if thresholds is None:
                raise RuntimeError(
                    f"filter {step.name!r} has no thresholds: call FilterChain.fit with these rows first"
                )
            if why := step.reason(row, Context(self._adjectives, thresholds)):
                return step.name, why
        return None

    def _warn(self, stacklevel: int) -> None:
        left = sum(self._counts.values()) - self._counts[DROPPED_BEFORE]
        for step in self.filters:
            dropped = self._counts[step.name]
            if left and dropped == left:
                message = f"filter {step.name!r} dropped all {left} rows it was given; {step.relax}"
                warnings.warn(message, SelfsteerWarning, stacklevel=stacklevel)
            left -= dropped


def apply_filters(
    contrasts: Iterable[Contrast],
    filters: Sequence[FilterSpec | Filter],
    *,
    adjectives: Mapping[str, Sequence[str]] | None = None,
) -> FilterReport:
    """Run ``filters`` in order over a set that fits into memory; ``empty`` always runs first.

    Args:
        contrasts: Rows; one that is not kept already stays as it is.
        filters: Names, one-key mappings to settings, or ready filters.
        adjectives: The (positive, negative) adjectives of each aspect, as for :class:`FilterChain`.

    Raises:
        ConfigError: A filter or a setting is unknown or out of range.
        InputError: A filter needs scores that a row doesn't carry.

    Warns:
        SelfsteerWarning: A filter dropped every row it was given.
    """
    given, steps = list(contrasts), FilterChain(filters, adjectives=adjectives)
    steps.fit(lambda: given)
    rows = [steps.apply(row) for row in given]
    steps._warn(stacklevel=3)
    return FilterReport(rows, steps.counts, steps.thresholds)


def count_reasons(rows: Iterable[tuple[bool, str]], filters: Sequence[str]) -> dict[str, int]:
    """Count rows that were filtered before, as :class:`FilterReport` does.

    Args:
        rows: (kept, drop_reason) of each; a reason that begins with none of ``filters`` and ": " was there before them.
        filters: Their names, in order, with ``empty``.
    """
    names, counts = set(filters), Counter[str]()
    for kept, reason in rows:
        name, colon, _ = reason.partition(": ")
        counts[KEPT if kept else name if colon and name in names else DROPPED_BEFORE] += 1
    return _in_order(counts, filters)


def _in_order(counts: Mapping[str, int], filters: Sequence[str]) -> dict[str, int]:
    before = {DROPPED_BEFORE: counts[DROPPED_BEFORE]} if counts[DROPPED_BEFORE] else {}
    return before | {name: counts[name] for name in filters} | {KEPT: counts[KEPT]}


def _is_fitted(step: Filter) -> bool:
    return type(step).averaged is not Filter.averaged
