"""Figure of the signal: how often the data is right, beside how on-policy it is (v2, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

from selfsteer.report.figures.panel import WIDE, Axes, Figure, Panel, draw_panel, tick_names
from selfsteer.report.figures.style import INK, ROLE_COLOURS, ROLE_MARKERS, ROLE_NAMES, TRUTHS
from selfsteer.report.formatting import NOT_MEASURED, Form, label, nats, percent, with_interval
from selfsteer.report.read_run import Json, dig, dig_dict, dig_number, dig_numbers

_SIZE = {"width": WIDE, "height": 270}
_CAPTION = (
    "All pairs before the filters; lines are 95 % intervals. Chance is one half (the dashed line), and one quarter for "
    "strict."
)
_TRUTH_PATHS = {"program": ("program",), "strict": ("judge", "strict"), "debiased": ("judge", "debiased")}


def signal_figure(parts: Sequence[Json]) -> Figure:
    """Figure: accuracy by program, strict and debiased, and on-policyness; one place a round."""
    title = "Accuracy and on-policyness"
    found = {name: [dig_dict(part, "before", *path) for part in parts] for name, path in _TRUTH_PATHS.items()}
    accuracy = {name: cells for name, cells in found.items() if _measured(cells, "share")}
    onpolicy = [dig_dict(part, "before", "onpolicyness") for part in parts]
    panels = [_accuracy_panel(parts, accuracy)] if accuracy else []
    if _measured(onpolicy, "mean"):
        panels.append(_onpolicy_panel(parts, onpolicy))
    if not panels:
        return Figure(title, "", [], "Neither accuracy nor on-policyness was measured on this data.")
    return Figure(title, _CAPTION, panels)


def _measured(cells: Sequence[Json], key: str) -> bool:
    return any(dig_number(cell, key) is not None for cell in cells)


def _accuracy_panel(parts: Sequence[Json], accuracy: dict[str, list[Json]]) -> Panel:
    programs = [dig(part, "before", "program", "program") for part in parts]
    program = f"program: {label(next(filter(None, programs), None), 24)}"
    names = {name: program if name == "program" else f"judge, {name}" for name in accuracy}

    def draw(axes: Axes) -> None:
        axes.axhline(0.5, color="#8b929b", linewidth=0.9, linestyle="--")
        for place, (name, cells) in enumerate(accuracy.items()):
            colour, marker = TRUTHS[name]
            shift = 0.22 * (place - (len(accuracy) - 1) / 2)
            _draw_series(axes, cells, "share", shift, color=colour, marker=marker, label=names[name])
        axes.set_ylim(-0.02, 1.02)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        _finish(axes, parts)

    alt = " ".join(_spoken(parts, names[name], cells, "share", percent) for name, cells in accuracy.items())
    return draw_panel("signal-accuracy", "Pairs in which y⁺ is the better response", alt, draw, **_SIZE)


def _onpolicy_panel(parts: Sequence[Json], cells: list[Json]) -> Panel:
    def draw(axes: Axes) -> None:
        for role, shift in (("positive", -0.12), ("negative", 0.12)):
            style = {"color": ROLE_COLOURS[role], "marker": ROLE_MARKERS[role], "label": ROLE_NAMES[role]}
            _draw_series(axes, cells, f"{role}_response", shift, ends="", **style)
        _draw_series(axes, cells, "mean", 0, color=INK, marker="o", label="mean of both")
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.set_ylabel("exp(mean log-prob)")
        _finish(axes, parts)

    alt = _spoken(parts, "On-policyness", cells, "mean", nats)
    return draw_panel("signal-onpolicy", "On-policyness", alt, draw, **_SIZE)


def _draw_series(
    axes: Axes, cells: Sequence[Json], key: str, shift: float, ends: str = "interval", **style: str
) -> None:
    known = [(place + shift, cell) for place, cell in enumerate(cells) if dig_number(cell, key) is not None]
    axes.plot([x for x, _ in known], [cell[key] for _, cell in known], linestyle="none", markersize=6, **style)
    for x, cell in known:
        low_high = dig_numbers(cell, ends)
        if len(low_high) == 2 and None not in low_high:
            axes.plot([x, x], low_high, color=style["color"], linewidth=1.4)


def _finish(axes: Axes, parts: Sequence[Json]) -> None:
    axes.set_xticks(range(len(parts)), tick_names([label(part.get("label"), 22) for part in parts]))
    axes.set_xlim(-0.6, len(parts) - 0.4)


def _spoken(parts: Sequence[Json], name: str, cells: Sequence[Json], key: str, form: Form) -> str:
    values = [with_interval(dig_number(cell, key), dig_numbers(cell, "interval"), form) for cell in cells]
    words = [f"{label(part.get('label'), 22)} {value or NOT_MEASURED}"
             for part, value in zip(parts, values, strict=True)]  # fmt: skip
    return f"{name}: {'; '.join(words)}."
