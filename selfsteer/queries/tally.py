"""How many rows of a source can't be used, and why: reported in one message where too few are left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from selfsteer.errors import DataError

_MOST_REASONS = 1000
_SHOWN = 3
"""Reasons that a message gives."""


class Reason(NamedTuple):
    """One reason of several rows: how many, the first one's place and wording, and how to fix it."""

    rows: int
    where: str
    reason: str
    do: str


class Tally:
    """Counts the rows of a source and those of them that can't be used.

    Reasons that differ in their details alone (after a colon) count as one.
    """

    def __init__(self) -> None:
        self.rows = self.unusable = 0
        self._counts: Counter[str] = Counter()
        self._first: dict[str, tuple[str, str, str]] = {}

    def add(self, where: str, reason: str, do: str = "") -> None:
        """Count a row, seen already, as one that can't be used."""
        self.unusable += 1
        name = reason.partition(": ")[0]  # "not valid JSON: line 3" and "not valid JSON: line 9" are one reason
        name = name if name in self._first or len(self._first) < _MOST_REASONS else "another reason"
        self._counts[name] += 1
        self._first.setdefault(name, (where, reason if name != "another reason" else name, do))

    @property
    def info(self) -> dict[str, Any]:
        """The counts in the form that the ledger keeps and :func:`check_share` takes."""
        return {"rows": self.rows, "unusable": self.unusable, "reasons": [list(one) for one in self.reasons]}

    @property
    def reasons(self) -> list[Reason]:
        """The most frequent reasons."""
        return [Reason(count, *self._first[name]) for name, count in self._counts.most_common(_SHOWN)]


def in_words(reasons: list[Reason]) -> str:
    """Return the reasons with their counts and first places."""
    return "; ".join(f"{one.reason} ({one.rows} rows, first at {one.where})" for one in reasons)


def check_share(info: Mapping[str, Any], what: str, source: str, *, most: float | None, key: str = "") -> None:
    """Raise where nothing is left of a source, or more rows can't be used than its share allows.

    Args:
        info: :attr:`Tally.info`.
        what: What a row should hold, e.g. "query".
        most: The largest share of rows that can't be used; None allows any, as long as one row is left.
        key: The setting that holds it.

    Raises:
        DataError: With the most frequent reasons, their places and what to do.
    """
    rows, unusable = info["rows"], info["unusable"]
    reasons = [Reason(*one) for one in info["reasons"]]
    if not rows:
        raise DataError("the source is empty: it holds no row", where=source, do=f"give rows that hold a {what}")
    if unusable < rows and (most is None or unusable <= most * rows):
        return
    do = reasons[0].do or "correct those rows, or leave them out"
    if unusable == rows:
        raise DataError(f"no {what} is left of {rows} rows: {in_words(reasons)}", where=source, do=do)
    share = f"{unusable} of {rows} rows can't be used, more than the share of {most:g} that {key} allows"
    raise DataError(f"{share}: {in_words(reasons)}", where=source, do=f"{do}; or raise {key}")
