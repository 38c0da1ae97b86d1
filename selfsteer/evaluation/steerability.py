"""Can a principle set steer a model at all? Figures and verdict of a probe, per aspect. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from selfsteer.confidence_intervals import Interval, bootstrap, wilson
from selfsteer.quality import steering_margin
from selfsteer.records import Contrast

Standing = Literal["steers", "unclear", "below chance", "unknown"]

WORDS: dict[Standing, str] = {
    "steers": "steers the right way",
    "unclear": "not distinguishable from chance",
    "below chance": "steers the wrong way",
    "unknown": "direction unknown",
}


@dataclass(frozen=True)
class Direction:
    """How often y+ is the better response of its pair.

    Attributes:
        by: The program or the judge that decided.
        right, tied, wrong: They add up to the pairs; a tie is a pair in which neither is better.
        accuracy: (right + tied / 2) / pairs, so that a judge that can't tell has 0.5.
        interval: 95 %, Wilson's.
    """

    by: str
    right: int
    tied: int
    wrong: int
    accuracy: float
    interval: Interval

    @classmethod
    def from_verdicts(cls, by: str, verdicts: Sequence[int]) -> Direction:
        """Count verdicts: 1 where y+ is better, -1 where y- is, 0 where neither is."""
        right, tied, wrong = (verdicts.count(value) for value in (1, 0, -1))
        points = right + tied / 2
        return cls(by, right, tied, wrong, points / len(verdicts), wilson(points, len(verdicts)))

    @property
    def n(self) -> int:
        """Number of pairs with a verdict."""
        return self.right + self.tied + self.wrong

    @property
    def refused(self) -> bool:
        """Whether training on such pairs would teach the wrong thing: accuracy below one half."""
        return self.accuracy < 0.5

    @property
    def standing(self) -> Standing:
        """Whether the interval lies above one half, below it, or contains it."""
        low, high = self.interval
        return "steers" if low > 0.5 else "below chance" if high < 0.5 else "unclear"


@dataclass(frozen=True)
class Margin:
    """The steering margin of two or more pairs, nats per token: above zero the prompts matter, in either direction."""

    mean: float
    interval: Interval

    @property
    def matters(self) -> bool:
        """Whether the interval lies above zero."""
        return self.interval[0] > 0


@dataclass(frozen=True)
class Example:
    """An example of a pair."""

    query: str
    positive_response: str
    negative_response: str


@dataclass(frozen=True)
class AspectProbe:
    """Figures of one aspect; ``direction`` is None where neither a program nor a judge can tell."""

    aspect: str
    n: int
    margin: Margin | None
    direction: Direction | None
    example: Example | None = None


@dataclass(frozen=True)
class Probe:
    """Figures of a set: each aspect by itself, and all pairs together."""

    aspects: list[AspectProbe]
    direction: Direction | None
    margin: Margin | None

    @property
    def n(self) -> int:
        """Number of pairs."""
        return sum(aspect.n for aspect in self.aspects)

    @property
    def standing(self) -> Standing:
        """The verdict over all pairs; it rests on accuracy alone."""
        return self.direction.standing if self.direction else "unknown"

    @property
    def refused(self) -> bool:
        """Whether its direction is refused; an unknown one is not."""
        return self.direction is not None and self.direction.refused


VerdictFn = Callable[[Contrast], tuple[str, int] | None]
"""Returns a program's or judge's name, and 1, 0 or -1 for y+ better, neither, y- better; None without a verdict."""


def probe_figures(rows: Mapping[str, Sequence[Contrast]], verdict_of: VerdictFn) -> Probe:
    """Return the figures of scored rows: by aspect, those that were steered along it alone."""
    aspects = [
        AspectProbe(
            name, len(own), _margin(own), direction_by(own, verdict_of),
            *(Example(row.prompt[-1]["content"], row.positive_response, row.negative_response) for row in own[:1]),
        )
        for name, own in rows.items()
    ]  # fmt: skip
    everything = [row for own in rows.values() for row in own]
    return Probe(aspects, direction_by(everything, verdict_of), _margin(everything))


def direction_by(rows: Sequence[Contrast], verdict_of: VerdictFn) -> Direction | None:
    """Return the direction of all rows that have a verdict, None where there is none."""
    found = [verdict for row in rows if (verdict := verdict_of(row)) is not None]
    names = ", ".join(dict.fromkeys(name for name, _ in found))
    return Direction.from_verdicts(names, [verdict for _, verdict in found]) if found else None


def _margin(rows: Sequence[Contrast]) -> Margin | None:
    values = [value for row in rows if (value := steering_margin(row)) is not None]
    # One value has no spread to resample: its interval would be a point, which looks like certainty.
    return Margin(sum(values) / len(values), bootstrap(values)) if len(values) > 1 else None
