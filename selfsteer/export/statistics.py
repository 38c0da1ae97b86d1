"""Figures of exported rows, added up row by row, so that memory does not depend on their number."""

from __future__ import annotations

import math
from collections import Counter

from selfsteer.quality import steering_margin
from selfsteer.records import HARM_UNKNOWN, ROLES, Contrast, has_score, score

_SHOWN = 5


class Mean:
    """A running mean; None before the first value."""

    def __init__(self) -> None:
        self.n, self._total = 0, 0.0

    def add(self, value: float | None) -> None:
        """Add a value; None and non-finite ones are ignored."""
        if value is not None and math.isfinite(value):
            self.n += 1
            self._total += value

    @property
    def value(self) -> float | None:
        """The mean."""
        return self._total / self.n if self.n else None


class Figures:
    """The figures of a card.

    Attributes:
        characters, tokens: Mean length by role; tokens only of rows that carry their ids.
        cut: Responses that were cut off, by role.
        margin: Steering margin, nats per token, of rows with scores.
        onpolicyness: Mean over y+ and y- of exp(mean log-prob under the plain prompt), of rows with scores.
        rounds, aspects: Number of rows of each.
        harmful: Rows with a y- flagged as harmful, by the source of the flag: a row may count twice.
        unknown: Rows without information on whether y- was asked to do harm.
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
            # "principle: Safety" counts as it is, "classifier: 0.93" without its probability.
            flags = filter(None, row.negative_harmful.split("; "))
            self.harmful.update("classifier" if flag.startswith("classifier") else flag for flag in flags)
        self.margin.add(steering_margin(row))
        if has_score(row, "positive", "prompt") and has_score(row, "negative", "prompt"):
            self.onpolicyness.add(sum(math.exp(score(row, role, "prompt")) for role in ("positive", "negative")) / 2)
        for role in row.roles:
            ids = getattr(row, f"{role}_token_ids")
            self.characters[role].add(len(getattr(row, f"{role}_response")))
            self.tokens[role].add(None if ids is None else len(ids))
            self.cut[role] += getattr(row, f"{role}_finish") == "length"
        for key, value in row.provenance.items():
            if not value:
                continue
            values = self._provenance.setdefault(key, {})
            if len(values) <= _SHOWN:  # one more than is shown: then the text ends with "and others"
                values[value] = None

    def provenance(self) -> dict[str, str]:
        """Return the rows' provenance; the first five of several values are joined."""
        return {
            key: "; ".join([*values][:_SHOWN]) + ("; and others" if len(values) > _SHOWN else "")
            for key, values in self._provenance.items()
        }
