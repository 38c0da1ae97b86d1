"""Figures of the training log: loss terms, weight and gradient, and the rewards of each view."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from selfsteer.report.figures.panel import Axes, Figure, Panel, draw_panel
from selfsteer.report.figures.style import INK, LOSS_TERMS, PROMPT_NAMES, ROLE_COLOURS, ROLE_NAMES, WEIGHT_COLOUR
from selfsteer.report.formatting import label, maybe, nats
from selfsteer.report.read_run import Json, dig_number
from selfsteer.views import PAIRINGS

_NO_STEPS = "The training log holds no step that could be drawn."
_PAIRINGS = {str(view): pairing for view, pairing in PAIRINGS.items()}  # the log may hold views of other versions


def loss_figure(steps: Sequence[Json]) -> Figure:
    """Figure: the loss and its terms, the on-policy weight and the gradient norm, by step."""
    title = "Training: loss, weight and gradient"
    terms = [key for key in LOSS_TERMS if _has(steps, key, skip_zero=True)]
    panels = [_loss_panel(steps, terms)] if terms else []
    if _has(steps, "weight"):
        panels.append(_line_panel(steps, "weight", "On-policy weight W", "W", (0.45, 1.03)))
    if _has(steps, "grad_norm"):
        panels.append(_line_panel(steps, "grad_norm", "Gradient norm", "norm", (0, None)))
    if not panels:
        return Figure(title, "", [], _NO_STEPS)
    return Figure(title, f"{_CAPTION} Terms that are zero throughout aren't drawn.{_rounds_note(steps)}", panels)


_CAPTION = (
    "The total is W times (steering coefficient times the steering term, plus the base term) unless the recipe asks "
    "for a variant; terms stand before their coefficients. W is near 1 where the pair is unlikely for the policy and "
    "falls towards one half where the policy would have written it itself."
)


def rewards_figure(steps: Sequence[Json], what: str = "Training") -> Figure:
    """Figure: rewards of chosen and rejected and their margin by step, one panel a view; ``what`` heads it."""
    title = f"{what}: what each view has learned"
    found = {match[1] for row in steps for key in row if (match := re.fullmatch(r"rewards/(\w+)/margin", key))}
    order = list(_PAIRINGS)
    views = sorted(found, key=lambda view: (order.index(view) if view in order else len(order), view))
    views = [view for view in views if _has(steps, f"rewards/{view}/margin")]
    if not views:
        return Figure(title, "", [], "The training log holds no rewards.")
    caption = (
        "A reward is beta times the log-ratio of the policy to the round's reference; a margin above zero means that "
        "the policy has come to prefer the chosen response, compared with where the round began."
    )
    return Figure(title, caption + _rounds_note(steps), [_rewards_panel(steps, view) for view in views])


def _loss_panel(steps: Sequence[Json], terms: list[str]) -> Panel:
    def draw(axes: Axes) -> None:
        for key in terms:
            name, colour, dashes = LOSS_TERMS[key]
            _line(axes, steps, key, color=colour, linestyle=dashes, label=name)
        _finish(axes, steps, "loss")

    alt = " ".join(f"{LOSS_TERMS[key][0]}: {_spoken(steps, key)}." for key in terms)
    return draw_panel("loss", "Loss and its terms", alt, draw)


def _line_panel(
    steps: Sequence[Json], key: str, title: str, unit: str, limits: tuple[float | None, float | None]
) -> Panel:
    def draw(axes: Axes) -> None:
        _line(axes, steps, key, color=WEIGHT_COLOUR)
        axes.set_ylim(*limits)
        _finish(axes, steps, unit)

    return draw_panel(key.replace("_", "-"), title, f"{title}: {_spoken(steps, key)}.", draw)


def _rewards_panel(steps: Sequence[Json], view: str) -> Panel:
    pairing = _PAIRINGS.get(view)
    title = f"{view.replace('_', ' ').capitalize()} view"
    roles: tuple[str, ...] = ()
    if pairing:
        roles = pairing.chosen, pairing.rejected
        title += f" ({PROMPT_NAMES[pairing.prompt]}: {ROLE_NAMES[pairing.chosen]} > {ROLE_NAMES[pairing.rejected]})"
    keys = [f"rewards/{view}/{part}" for part in ("chosen", "rejected", "margin")]

    def draw(axes: Axes) -> None:
        axes.axhline(0, color="#8b929b", linewidth=0.9)
        for key, role, part, dashes in zip(keys, roles, ("chosen", "rejected"), ("--", ":"), strict=False):
            _line(axes, steps, key, color=ROLE_COLOURS[role], linestyle=dashes, label=f"{ROLE_NAMES[role]} {part}")
        _line(axes, steps, keys[2], color=INK, linewidth=2.4, label="margin")
        _finish(axes, steps, "reward")

    alt = " ".join(f"{key.rpartition('/')[2]}: {_spoken(steps, key)}." for key in keys)
    return draw_panel(f"rewards-{view}", title, alt, draw)


def _line(axes: Axes, steps: Sequence[Json], key: str, **style: object) -> None:
    """Draw one logged number over all rounds, with gaps where it was not measured and between rounds."""
    marker = "o" if len(steps) <= 30 else ""  # few steps: a line alone would hide single points between gaps
    xs: list[float] = []
    ys: list[float] = []
    for index, (position, row) in enumerate(zip(_positions(steps), steps, strict=True)):
        gap = [math.nan] * (index > 0 and row.get("round") != steps[index - 1].get("round"))
        value = dig_number(row, key)
        xs += [*gap, position]
        ys += [*gap, math.nan if value is None else value]
    axes.plot(xs, ys, marker=marker, markersize=3.6, **style)


def _finish(axes: Axes, steps: Sequence[Json], unit: str) -> None:
    """Name the axes and mark where a round begins."""
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(unit)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=7)
    for place, name in _round_starts(steps):
        if place > 1:
            axes.axvline(place - 0.5, color="#8b929b", linewidth=0.9, linestyle=(0, (2, 2)))
        top = axes.get_xaxis_transform()
        axes.text(place - 0.3, 1.01, name, transform=top, va="bottom", fontsize=9.5, color="#5c636b")
    axes.set_xlim(left=0.4)


def _positions(steps: Sequence[Json]) -> list[float]:
    """Return the place of each step on the common axis: a round's steps follow the last step of the one before."""
    places: list[float] = []
    offset = 0.0
    for index, row in enumerate(steps):
        if index and row.get("round") != steps[index - 1].get("round"):
            offset = places[-1]
        places.append(offset + row["step"])
    return places


def _round_starts(steps: Sequence[Json]) -> list[tuple[float, str]]:
    """Return the first position of each round and its name; nothing where there is one round only."""
    starts: dict[str, float] = {}
    for place, row in zip(_positions(steps), steps, strict=True):
        starts.setdefault(label(row.get("round"), 8), place)
    word = "round " if len(starts) <= 4 else ""
    return [(place, f"{word}{name}") for name, place in starts.items()] if len(starts) > 1 else []


def _rounds_note(steps: Sequence[Json]) -> str:
    return " Dotted lines mark where a round begins, with a new reference." if _round_starts(steps) else ""


def _has(steps: Sequence[Json], key: str, *, skip_zero: bool = False) -> bool:
    values = (dig_number(row, key) for row in steps)
    return any(value is not None and (value != 0 or not skip_zero) for value in values)


def _spoken(steps: Sequence[Json], key: str) -> str:
    first, last = dig_number(steps[0], key), dig_number(steps[-1], key)
    return f"{maybe(first, nats)} at the first step, {maybe(last, nats)} at the last"
