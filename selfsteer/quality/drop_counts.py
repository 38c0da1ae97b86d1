"""How many rows each filter dropped: of all rows, and of those steered along each aspect."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

KEPT, DROPPED_BEFORE = "kept", "dropped_before"
Counts = dict[str, int]
"""Rows that were dropped before any filter ran (where there are any), then those each filter dropped, then "kept"."""


class DropCounts:
    """Counts rows by the filter that dropped them."""

    def __init__(self, filters: Sequence[str]) -> None:
        self._filters = list(filters)
        self._counts: Counter[str] = Counter()
        self._aspects: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._harmful: Counter[str] = Counter()

    def add(self, name: str, aspects: Sequence[str], harmful: str = "") -> None:
        """Count a row: the filter that dropped it, :data:`KEPT` or :data:`DROPPED_BEFORE`; its flag of harm."""
        self._counts[name] += 1
        for aspect in aspects:
            self._aspects[aspect][name] += 1
        if harmful:
            self._harmful[harmful.partition(":")[0]] += 1

    def read(self, kept: bool, reason: str, aspects: Sequence[str], harmful: str = "") -> None:
        """Count a row that was filtered before; a reason that names none of the filters was there before them."""
        name, colon, _ = reason.partition(": ")
        self.add(KEPT if kept else name if colon and name in self._filters else DROPPED_BEFORE, aspects, harmful)

    @property
    def counts(self) -> Counts:
        """Of all rows."""
        return self._in_order(self._counts)

    @property
    def aspects(self) -> dict[str, Counts]:
        """Of the rows of each aspect."""
        return {name: self._in_order(counts) for name, counts in self._aspects.items()}

    @property
    def harmful(self) -> Counts:
        """Rows with a flagged y-, by what flagged it first: "principle", "classifier" or "unknown"."""
        return dict(sorted(self._harmful.items()))

    def _in_order(self, counts: Mapping[str, int]) -> Counts:
        before = {DROPPED_BEFORE: counts[DROPPED_BEFORE]} if counts.get(DROPPED_BEFORE) else {}
        return before | {name: counts.get(name, 0) for name in [*self._filters, KEPT]}
