"""Figures of the rows that are exported, added up row by row, so that any number of rows costs the same memory."""

from __future__ import annotations

import math
from collections import Counter

from selfsteer.quality import steering_margin
from selfsteer.records import HARM_UNKNOWN, ROLES, Contrast

_SHOWN = 5


class Mean:
    """A mean of what was added; None where nothing was."""

    def __init__(self) -> None:
        self.n, self._total = 0, 0.0

    def add(self, value: float | None) -> None:
        """Add a value; None and what is not finite are passed over."""
        if value is not None and math.isfinite(value):
            self.n += 1
            self._total += value

    @property
    def value(self) -> float | None:
        """The mean."""
        return self._total / self.n if self.n else None


class Figures:
    """What a card says about the rows.

    Attributes:
        characters, tokens: Mean length by role; tokens only of rows that carry their ids.
        cut: Responses that were cut off, by role.
        margin: Steering margin, nats per token, of rows with scores.
        onpolicyness: Mean over y+ and y- of exp(mean log-prob under the plain prompt), of rows with scores.
        rounds, aspects: How many rows of each.
        harmful: Rows whose y- is flagged as harmful, by what flagged it: a row may count twice.
        unknown: Rows of which nobody knows whether y- was asked to do harm.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.characters = {role: Mean() for role in ROLES}
        self.tokens = {role: Mean() for role in ROLES}
        self.cut: Counter[str] = Counter()
        self.margin, self.onpolicyness = Mean(), Mean()
        self.rounds: Counter[int] = Counter()
        self.aspects: Counter[str] = Counter()
        self.harmful: Counter[str] = Counter()
        self.unknown = 0
        self._provenance: dict[str, dict[str, None]] = {}

    def add(self, row: Contrast) -> None:
        """Add a row."""
        self.rows += 1
        self.rounds[row.round] += 1
        self.aspects.update(row.aspects)
        if row.negative_harmful == HARM_UNKNOWN:
            self.unknown += 1
        else:
            self.harmful.update(map(_flagger, filter(None, row.negative_harmful.split("; "))))
        self.margin.add(steering_margin(row))
        self.onpolicyness.add(_onpolicyness(row))
        for role in row.roles:
            ids = getattr(row, f"{role}_token_ids")
            self.characters[role].add(len(getattr(row, f"{role}_response")))
            self.tokens[role].add(None if ids is None else len(ids))
            self.cut[role] += getattr(row, f"{role}_finish") == "length"
        for key, value in row.provenance.items():
            if not value:
                continue
            values = self._provenance.setdefault(key, {})
            if len(values) <= _SHOWN:  # one more than is shown tells that there are more
                values[value] = None

    def provenance(self) -> dict[str, str]:
        """Return what the rows say about where they come from; several values are joined, the first five are named."""
        return {
            key: "; ".join([*values][:_SHOWN]) + ("; and others" if len(values) > _SHOWN else "")
            for key, values in self._provenance.items()
        }


def _onpolicyness(row: Contrast) -> float | None:
    found = [(((row.scores or {}).get(f"{role}_response")) or {}).get("prompt") for role in ("positive", "negative")]
    scores = [score for score in found if score is not None]
    return sum(map(math.exp, scores)) / 2 if len(scores) == 2 else None


def _flagger(flag: str) -> str:
    """Return "principle: Safety" as it stands, and "classifier" without its probability."""
    return "classifier" if flag.startswith("classifier") else flag
