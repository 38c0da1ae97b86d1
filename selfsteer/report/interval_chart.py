"""Charts of one figure of several runs: a line a run, with a point and its interval, on a shared axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from selfsteer.report.formatting import Form, with_interval

Interval = Sequence[float | None]
_MARGIN = 0.04
"""Share of the axis that stays free at each end."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A run's line: its name, its figure as text, and the places of point and interval in percent of the width."""

    name: str
    text: str
    point: float
    ends: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart: ``low`` and ``high`` are the labels of its axis, ``zero`` is the place of 0 where that is inside."""

    title: str
    lines: list[Line]
    low: str
    high: str
    zero: float | None


def chart(title: str, form: Form, values: Mapping[str, float], intervals: Mapping[str, Interval]) -> Chart:
    """Return the chart of a figure by run; a run without an interval has a point alone."""
    known = {name: [end for end in intervals.get(name) or () if end is not None] for name in values}
    numbers = [*values.values(), *(end for ends in known.values() for end in ends)]
    low, high = min(numbers), max(numbers)
    free = _MARGIN * (high - low) or abs(high) or 1.0
    start, width = low - free, high - low + 2 * free

    def place(value: float) -> float:
        return round(100 * (value - start) / width, 2)

    lines = [
        Line(name, with_interval(value, known[name], form), place(value), _pair([place(end) for end in known[name]]))
        for name, value in values.items()
    ]
    zero = place(0) if low < 0 < high else None
    return Chart(title, lines, form(low), form(high) if high > low else "", zero)


def _pair(ends: Sequence[float]) -> tuple[float, float] | None:
    return (ends[0], ends[1]) if len(ends) == 2 else None
