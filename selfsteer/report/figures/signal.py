"""Figure of the signal: how often the data is right, beside how on-policy it is (v2, figure 3)."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

from selfsteer.report.figures.panel import WIDE, Axes, Figure, Panel, draw_panel
from selfsteer.report.figures.style import INK, ROLE_COLOURS, ROLE_MARKERS, ROLE_NAMES, TRUTHS
from selfsteer.report.formatting import Form, interval, label, maybe, number, percent
from selfsteer.report.read_run import Json, dig, dig_dict, dig_number, dig_numbers

_SETS = ("before", "kept")
_SIZE = {"width": WIDE, "height": 270}


@dataclasses.dataclass(frozen=True)
class Point:
    """A value with its 95 % interval; None where it was not measured."""

    value: float | None
    ends: tuple[float, float] | None

    @classmethod
    def read(cls, cell: object, key: str) -> Point:
        """Read ``{key: ..., "interval": [low, high]}``."""
        ends = [end for end in dig_numbers(cell, "interval") if end is not None]
        return cls(dig_number(cell, key), (ends[0], ends[1]) if len(ends) == 2 else None)

    def words(self, form: Form) -> str:
        """Return "0.72 (0.50 to 0.87)"."""
        ends = interval(self.ends, form) if self.ends else ""
        return maybe(self.value, form) + (f" ({ends})" if ends and self.value is not None else "")


Series = dict[str, list[Point]]
"""By "before" and "kept", a point a part."""


def signal_figure(parts: Sequence[Json]) -> Figure:
    """Figure: accuracy by program, strict and debiased, and on-policyness; one place a round."""
    title = "Accuracy and on-policyness"
    accuracy = {name: _series(parts, path, "share") for name, path in _TRUTH_PATHS.items()}
    accuracy = {name: series for name, series in accuracy.items() if _measured(series)}
    onpolicy = _series(parts, ("onpolicyness",), "mean")
    panels = []
    if accuracy:
        panels.append(_accuracy_panel(parts, accuracy))
    if _measured(onpolicy):
        panels.append(_onpolicy_panel(parts, onpolicy))
    if not panels:
        return Figure(title, "", [], "Neither accuracy nor on-policyness is known of this data.")
    kept = _KEPT if any(dig_dict(part, "kept") for part in parts) else ""
    return Figure(title, f"{_CAPTION}{kept}", panels)


_CAPTION = "Lines are 95 % intervals. Guessing gets one half (the dashed line), and one quarter of strict."
_KEPT = (
    " Filled marks are all pairs before the filters, hollow marks the pairs that the filters kept. On-policyness is "
    "defined before the filters: those that look at log-probs move the hollow marks by construction."
)
_TRUTH_PATHS = {"program": ("program",), "strict": ("judge", "strict"), "debiased": ("judge", "debiased")}


def _series(parts: Sequence[Json], path: tuple[str, ...], key: str) -> Series:
    return {which: [Point.read(dig(part, which, *path), key) for part in parts] for which in _SETS}


def _measured(series: Series) -> bool:
    return any(point.value is not None for points in series.values() for point in points)


def _accuracy_panel(parts: Sequence[Json], accuracy: dict[str, Series]) -> Panel:
    def draw(axes: Axes) -> None:
        axes.axhline(0.5, color="#8b929b", linewidth=0.9, linestyle="--")
        for place, (name, series) in enumerate(accuracy.items()):
            colour, marker = TRUTHS[name]
            shift = 0.22 * (place - (len(accuracy) - 1) / 2)
            _draw_series(axes, series, shift, colour, marker, _truth_name(parts, name))
        axes.set_ylim(-0.02, 1.02)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        _finish(axes, parts)

    alt = " ".join(_spoken(parts, _truth_name(parts, name), series, percent) for name, series in accuracy.items())
    return draw_panel("signal-accuracy", "Pairs in which y⁺ is the better response", alt, draw, **_SIZE)


def _onpolicy_panel(parts: Sequence[Json], mean: Series) -> Panel:
    def draw(axes: Axes) -> None:
        for role, shift in (("positive", -0.12), ("negative", 0.12)):
            values = [dig_number(part, "before", "onpolicyness", f"{role}_response") for part in parts]
            known = [(place + shift, value) for place, value in enumerate(values) if value is not None]
            style = {"color": ROLE_COLOURS[role], "marker": ROLE_MARKERS[role], "linestyle": "none"}
            axes.plot([place for place, _ in known], [value for _, value in known], label=ROLE_NAMES[role], **style)
        _draw_series(axes, mean, 0, INK, "o", "mean of both")
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.set_ylabel("exp(mean log-prob)")
        _finish(axes, parts)

    alt = _spoken(parts, "On-policyness", mean, lambda value: number(value, 3))
    return draw_panel("signal-onpolicy", "On-policyness", alt, draw, **_SIZE)


def _draw_series(axes: Axes, series: Series, shift: float, colour: str, marker: str, name: str) -> None:
    for which, aside, face in (("before", 0.0, colour), ("kept", 0.06, "white")):
        for place, point in enumerate(series[which]):
            if point.value is None:
                continue
            x = place + shift + aside
            if point.ends:
                axes.plot([x, x], point.ends, color=colour, linewidth=1.4)
            axes.plot([x], [point.value], marker, color=colour, markerfacecolor=face, markersize=6)
    axes.plot([], [], marker, color=colour, markersize=6, label=name)


def _finish(axes: Axes, parts: Sequence[Json]) -> None:
    names = [label(part.get("label"), 22) for part in parts]
    ticks = names if len(names) < 3 else [textwrap.fill(name, 9, break_long_words=False) for name in names]
    axes.set_xticks(range(len(parts)), ticks)
    axes.set_xlim(-0.6, len(parts) - 0.4)


def _truth_name(parts: Sequence[Json], name: str) -> str:
    if name != "program":
        return f"judge, {name}"
    told = [dig_dict(part, "before", "program").get("program") for part in parts]
    return f"program: {label(next((one for one in told if one), None), 24)}"


def _spoken(parts: Sequence[Json], name: str, series: Series, form: Form) -> str:
    words = [
        f"{label(part.get('label'), 22)} {before.words(form)}, kept {kept.words(form)}"
        for part, before, kept in zip(parts, series["before"], series["kept"], strict=True)
    ]
    return f"{name}: {'; '.join(words)}."
