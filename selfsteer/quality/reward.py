"""The margin of a reward model, r(x, y+) - r(x, y-): kept with the row, and filtered by.

The rewards stage computes the margin and puts it into the row's provenance, with the key of its reward model: rows need
not be scored again for another one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from selfsteer.errors import InputError
from selfsteer.quality.base import Context
from selfsteer.quality.score_filters import Margin
from selfsteer.records import Contrast

_COLUMN = "reward_margin"
NO_MARGIN = "none"
"""Stored in place of a margin where the reward model could not score the pair."""


def put_margin(row: Contrast, margin: float | None, key: str) -> Contrast:
    """Return a row with its margin and the key of the reward model in its provenance; None: it can't be scored."""
    text = NO_MARGIN if margin is None else repr(margin)
    return dataclasses.replace(row, provenance={**row.provenance, _COLUMN: f"{text}; {key}"})


def stored_margin(row: Contrast, key: str | None = None) -> str | None:
    """Return the margin that a row carries, as text or :data:`NO_MARGIN`; None without one, or with another key."""
    margin, _, own = row.provenance.get(_COLUMN, "").partition("; ")
    return margin if margin and key in (None, own) else None


class RewardMargin(Margin):
    """A reward model (``quality.reward``) prefers y- under the plain prompt, or y+ by too little.

    A pair that it can't score, because a conversation is longer than it reads, is dropped.
    """

    name = "reward_margin"
    what = "the reward margin, r(y+|x) - r(y-|x)"
    relax = "lower reward_margin.min, raise reward_margin.top, or name another reward model"

    def fit(self, rows: Iterable[Contrast], context: Context) -> Context | None:
        """Return the margin of the last row that is kept, of those that could be scored."""
        return super().fit((row for row in rows if self._text(row) != NO_MARGIN), context)

    def reason(self, row: Contrast, context: Context) -> str:
        """State the margin."""
        if self._text(row) == NO_MARGIN:
            return "the pair does not fit into the reward model's context"
        return super().reason(row, context)

    def margin(self, row: Contrast) -> float:
        """Return the margin that the row carries."""
        margin = float(self._text(row))
        if not math.isfinite(margin):
            raise self._missing(row, f"has {margin}")
        return margin

    def _text(self, row: Contrast) -> str:
        text = stored_margin(row)
        if text is None:
            raise self._missing(row, "has none")
        return text

    def _missing(self, row: Contrast, found: str) -> InputError:
        do = "set quality.reward={model: MODEL} in `selfsteer filter`, `generate` or `run`, or remove the filter"
        return InputError(f"filter {self.name!r} needs the margin of a reward model, and this row {found}",
                          where=f"row {row.id!r}", do=do)  # fmt: skip
