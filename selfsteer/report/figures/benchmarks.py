"""Models on benchmarks: a panel a benchmark, each model's figure with its interval, and how far it is from the first.

It reads the JSON of a comparison (``selfsteer compare --json``).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure as Canvas

from selfsteer.report.figures.panel import WIDE, Axes, Figure, draw_panel
from selfsteer.report.figures.style import INK, RC, policy_colours, policy_marker
from selfsteer.report.formatting import label, maybe, number, plain, signed
from selfsteer.report.read_run import Json, clean, dig, dig_dict, dig_number, dig_rows

_COLUMNS = 2
_ROW, _FRAME, _WIDTH = 0.34, 1.0, 6.4
"""Inches: a model's row, what is above and below the rows of a panel, a panel."""


def write_picture(comparison: Json, path: Path) -> None:
    """Draw a comparison into a PNG file."""
    models, benchmarks = compared(clean(comparison))
    columns = min(_COLUMNS, max(1, len(benchmarks)))
    lines = max(1, math.ceil(len(benchmarks) / columns))
    height = lines * (_FRAME + _ROW * len(models)) + 0.5
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC | {"axes.grid.axis": "x"})
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # in a model's name: a box in its place
        canvas = Canvas(figsize=(_WIDTH * columns, height), layout="constrained")
        axes = canvas.subplots(lines, columns, squeeze=False)
        for place, one in zip(axes.flat, benchmarks, strict=False):
            draw_benchmark(place, one, models, titled=True)
        for place in axes.flat[len(benchmarks) :]:
            place.set_axis_off()
        first = _short(models[0])
        title = f"95 % intervals. Right: paired difference to {first},\nbold where its interval leaves 0 out."
        canvas.suptitle(title, fontsize=11, x=0.01, ha="left")
        canvas.savefig(path, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})


def benchmark_figure(comparison: Json) -> Figure:
    """Figure: each benchmark's official metric before and after a run, one panel a benchmark."""
    title = "The policies on benchmarks"
    models, benchmarks = compared(comparison)
    if not benchmarks:
        return Figure(title, "", [], "No benchmark has a figure.")
    caption = (
        f"95 % intervals; to the right the figure and its paired difference to {_short(models[0])}, bold where its "
        "interval leaves 0 out. An open marker is an incomplete result, a dotted line what guessing reaches."
    )
    height = 70 + 32 * len(models)
    panels = []
    for place, one in enumerate(benchmarks):
        metric, figures = official(one)
        spoken = "; ".join(
            f"{label(name)}: {maybe(dig_number(figure, 'value'), plain)}"
            for name, figure in zip(models, figures, strict=True)
        )
        heading, alt = f"{label(one.get('title'))}: {_words(metric)}", f"{_words(metric)}. {spoken}."
        drawn = partial(draw_benchmark, benchmark=one, models=models)
        panels.append(draw_panel(f"benchmark-{place}", heading, alt, drawn, width=WIDE, height=height))
    return Figure(title, caption, panels)


def compared(comparison: Json) -> tuple[list[str], list[Json]]:
    """Return a comparison's models and its benchmarks that have figures; what is not of its form is left out."""
    found = comparison.get("models")
    models = [label(name) for name in found] if isinstance(found, list) else []
    size = len(models)

    def fits(one: Json) -> bool:
        metrics = list(dig_dict(one, "metrics").values())
        rows = [*metrics, one.get("models")]
        return bool(metrics) and all(isinstance(row, list) and len(row) == size for row in rows)

    return models, [one for one in dig_rows(comparison, "benchmarks") if size and fits(one)]


def official(benchmark: Json) -> tuple[str, list[Json | None]]:
    """Return the official metric's name and each model's figure, of a benchmark that has figures."""
    found: tuple[str, list[Json | None]] = next(iter(benchmark["metrics"].items()))
    return found


def digits_of(benchmark: Json) -> int:
    """Return the decimals of a benchmark's figures."""
    return 1 if benchmark.get("unit") == "%" else 2


def draw_benchmark(axes: Axes, benchmark: Json, models: Sequence[str], *, titled: bool = False) -> None:
    """Draw one benchmark's official metric, the first model on top; an open marker is an incomplete result."""
    metric, figures = official(benchmark)
    digits, standings = digits_of(benchmark), benchmark["models"]
    for row, (figure, standing, colour) in enumerate(zip(figures, standings, policy_colours(len(models)), strict=True)):
        value = dig_number(figure, "value")
        if value is None:
            axes.text(0.5, row, "not evaluated", transform=axes.get_yaxis_transform(), ha="center", va="center")
            continue
        low, high = dig_number(figure, "low"), dig_number(figure, "high")
        if low is not None and high is not None:
            axes.plot([low, high], [row, row], color=colour, linewidth=2.4, solid_capstyle="butt")
        filled = INK if dig(standing, "incomplete") else colour
        axes.plot(
            value, row, policy_marker(row), color=colour, markersize=8, markeredgecolor=filled,
            markerfacecolor="white" if dig(standing, "incomplete") else colour,
        )  # fmt: skip
        change = dig_dict(figure, "change")
        ends = dig_number(change, "low"), dig_number(change, "high")
        clear = ends[0] is not None and ends[1] is not None and not ends[0] <= 0 <= ends[1]
        texts = (8, number(value, digits), "normal"), (52, change_text(change, digits), "bold" if clear else "normal")
        for points, text, weight in texts:
            axes.annotate(
                text, (1, row), (points, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                va="center", fontsize=10.5, fontweight=weight, annotation_clip=False,
            )  # fmt: skip
    chance = dig_number(benchmark, "chance")
    if chance:
        axes.axvline(chance, color="#8b929b", linewidth=0.9, linestyle=(0, (2, 2)))
    incomplete = any(dig(standing, "incomplete") for standing in standings)
    axes.set_yticks(range(len(models)), map(_short, models))
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    judge = f", judge {label(benchmark['judge'], 30)}" if benchmark.get("judge") else ""
    if titled:
        title = f"{label(benchmark.get('title'))}: {_words(metric)}"
        axes.set_title(title + (" (open marker: incomplete)" if incomplete else ""), loc="left", fontsize=11)
    unit = {"%": "percent", "1-10": "rating, 1 to 10"}.get(str(benchmark.get("unit")), "")
    axes.set_xlabel(unit + judge + (", dotted: chance" if chance else ""), fontsize=10)


def _words(metric: str) -> str:
    return label(metric.replace("_", " "))


def _short(name: object) -> str:
    """Return a name with its beginning and its end: long ones often differ in only one of them."""
    text = label(name)
    return text if len(text) <= 28 else f"{text[:13]}…{text[-14:]}"


def change_text(change: Json, digits: int) -> str:
    """Return a difference with its interval, e.g. "+1.2 (−0.4 to 2.8)"; "" where there is none."""
    value, low, high = (dig_number(change, name) for name in ("value", "low", "high"))
    if value is None:
        return ""
    text = signed(number(value, digits))
    return text if low is None or high is None else f"{text} ({number(low, digits)} to {number(high, digits)})"
