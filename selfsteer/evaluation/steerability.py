"""Can a model be steered by a principle set at all? Figures and verdict of a probe, per aspect. No torch here."""

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
    "unclear": "can't be told from chance",
    "below chance": "steers the wrong way",
    "unknown": "direction unknown",
}


@dataclass(frozen=True)
class Direction:
    """How often y+ is the better response of its pair.

    Attributes:
        by: The program or the judge that says so.
        right, tied, wrong: They add up to the pairs; a tie is a pair in which neither is better.
        accuracy: (right + tied / 2) / pairs, so that a judge that can't tell stands at 0.5.
        interval: 95 %, Wilson's.
    """

    by: str
    right: int
    tied: int
    wrong: int
    accuracy: float
    interval: Interval

    @classmethod
    def of(cls, by: str, verdicts: Sequence[int]) -> Direction:
        """Count verdicts: 1 where y+ is better, -1 where y- is, 0 where neither is."""
        right, tied, wrong = (verdicts.count(value) for value in (1, 0, -1))
        points = right + tied / 2
        return cls(by, right, tied, wrong, points / len(verdicts), wilson(points, len(verdicts)))

    @property
    def n(self) -> int:
        """How many pairs somebody could tell about."""
        return self.right + self.tied + self.wrong

    @property
    def refused(self) -> bool:
        """Whether training on such pairs would teach the wrong thing: accuracy below one half."""
        return self.accuracy < 0.5

    @property
    def standing(self) -> Standing:
        """What the interval says: it lies above one half, below it, or holds it."""
        low, high = self.interval
        return "steers" if low > 0.5 else "below chance" if high < 0.5 else "unclear"


@dataclass(frozen=True)
class Margin:
    """The steering margin of two or more pairs, nats per token: above zero the prompts matter, whichever way."""

    mean: float
    interval: Interval

    @property
    def matters(self) -> bool:
        """Whether the interval lies above zero."""
        return self.interval[0] > 0


@dataclass(frozen=True)
class Example:
    """One pair to look at."""

    query: str
    positive_response: str
    negative_response: str


@dataclass(frozen=True)
class AspectProbe:
    """What the probe found for one aspect; ``direction`` is None where neither a program nor a judge can tell."""

    aspect: str
    n: int
    margin: Margin | None
    direction: Direction | None
    example: Example | None


@dataclass(frozen=True)
class Probe:
    """What the probe found for a set: each aspect, and all pairs whose direction could be told together."""

    aspects: list[AspectProbe]
    direction: Direction | None
    margin: Margin | None

    @property
    def n(self) -> int:
        """How many pairs there are."""
        return sum(aspect.n for aspect in self.aspects)

    @property
    def standing(self) -> Standing:
        """The verdict over all pairs; it rests on accuracy alone."""
        return self.direction.standing if self.direction else "unknown"

    @property
    def refused(self) -> bool:
        """Whether its direction is refused; what is unknown is not."""
        return self.direction is not None and self.direction.refused


VerdictFn = Callable[[Contrast], tuple[str, int] | None]
"""Returns who says it, and 1, 0 or -1 for y+ better, neither, y- better; None where nobody can tell."""


def probe_figures(rows: Mapping[str, Sequence[Contrast]], tell: VerdictFn) -> Probe:
    """Return the figures of scored rows.

    Args:
        rows: By aspect, the rows that were steered along it alone.
        tell: Says which response of a row is better.
    """
    aspects = [_aspect(name, own, tell) for name, own in rows.items()]
    everything = [row for own in rows.values() for row in own]
    return Probe(aspects, direction_by(everything, tell), _margin(everything))


def direction_by(rows: Sequence[Contrast], tell: VerdictFn) -> Direction | None:
    """Return the direction of all rows about which somebody can tell, None where there is none."""
    told = [found for row in rows if (found := tell(row)) is not None]
    names = list(dict.fromkeys(name for name, _ in told))
    return Direction.of(", ".join(names), [verdict for _, verdict in told]) if told else None


def _aspect(name: str, rows: Sequence[Contrast], tell: VerdictFn) -> AspectProbe:
    return AspectProbe(name, len(rows), _margin(rows), direction_by(rows, tell), _example(rows))


def _margin(rows: Sequence[Contrast]) -> Margin | None:
    values = [value for row in rows if (value := steering_margin(row)) is not None]
    # One value has no spread to resample: its interval would be a point, which looks like certainty.
    return Margin(sum(values) / len(values), bootstrap(values)) if len(values) > 1 else None


def _example(rows: Sequence[Contrast]) -> Example | None:
    if not rows:
        return None
    row = rows[0]
    return Example(row.prompt[-1]["content"], row.positive_response, row.negative_response)
