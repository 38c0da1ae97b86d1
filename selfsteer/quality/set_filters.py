"""Filters that compare a row with the others of its set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from pydantic import Field

from selfsteer.quality.base import Context, Filter
from selfsteer.quality.direction import pair_lengths
from selfsteer.quality.duplicates import Repeats
from selfsteer.records import Contrast
from selfsteer.temp_db import Ranked


class Duplicates(Filter):
    """A row repeats an earlier one: its query, or both responses; see :mod:`selfsteer.quality.duplicates`.

    Attributes:
        similarity: Share of word pairs from which on two queries are nearly the same; 1 asks for the same words.
    """

    name = "duplicates"
    relax = "raise duplicates.similarity, or fix the queries: they repeat each other"
    similarity: float = Field(default=0.8, ge=0.7, le=1)

    @property
    def given(self) -> Mapping[str, float] | None:
        """None: repeats depend on the set."""
        return None

    def fit(self, rows: Iterable[Contrast], context: Context) -> Context | None:
        """Mark the rows that repeat an earlier one."""
        repeats = Repeats(self.similarity)
        for row in rows:
            repeats.add(row)
        return dataclasses.replace(context, repeats=repeats)

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the earlier row."""
        return context.repeats.of(row) if context.repeats else ""


class LengthBias(Filter):
    """In too many pairs y+ is the longer one, or the shorter one, so that length alone decides which is better.

    Of the kind that is too frequent, the pairs with the largest ratio of lengths are dropped. For sets that steer
    length on purpose it is of no use: all their pairs are of one kind.

    Attributes:
        max_share: Largest share of the pairs of unequal length in which y+ may be the longer one, or the shorter one.
    """

    name = "length_bias"
    relax = "raise length_bias.max_share; take it out where the principles are about length"
    max_share: float = Field(default=0.6, ge=0.5, lt=1)

    @property
    def given(self) -> Mapping[str, float] | None:
        """None: which pairs are too many depends on the set."""
        return None

    def fit(self, rows: Iterable[Contrast], context: Context) -> Context | None:
        """Return the ratio from which on pairs of the kind that is too frequent are dropped; none where none is."""
        with Ranked() as longer, Ranked() as shorter:
            kinds = {"longer": longer, "shorter": shorter}
            for row in rows:
                kind, ratio = _ratio(row)
                if kind:
                    kinds[kind].add(ratio)
            often, seldom = sorted(kinds, key=lambda kind: kinds[kind].count, reverse=True)
            # Rounded first, as 0.6 / 0.4 times a count may fall short of a whole number by 1e-16.
            most = math.floor(round(kinds[seldom].count * self.max_share / (1 - self.max_share), 9))
            if kinds[often].count <= most:
                return context
            return dataclasses.replace(context, thresholds={often: kinds[often].at(most)})

    def reason(self, row: Contrast, context: Context) -> str:
        """State the lengths."""
        kind, ratio = _ratio(row)
        if ratio < context.thresholds.get(kind, math.inf):
            return ""
        positive, negative = pair_lengths(row)
        return f"y+ has length {positive}, y- {negative}; pairs with a {kind} y+ are too many (length_bias.max_share)"


def _ratio(row: Contrast) -> tuple[str, float]:
    """Return which kind of pair a row is, "" where y+ and y- are as long, and how many times the one is the other."""
    positive, negative = pair_lengths(row)
    if positive == negative:
        return "", 1.0
    kind = "longer" if positive > negative else "shorter"
    return kind, max(positive, negative) / max(1, min(positive, negative))
