"""Figures of the policies' responses: lengths, and log-probs under the three prompts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from selfsteer.report.figures.panel import WIDE, Axes, Figure, Panel, draw_panel, tick_names
from selfsteer.report.figures.style import INK, PROMPT_NAMES, ROLE_COLOURS, ROLE_NAMES, policy_colours, policy_marker
from selfsteer.report.formatting import Form, label, maybe, number
from selfsteer.report.read_run import Json, dig, dig_number, dig_numbers

MOST_DOTS = 200  # a column; thousands would make the page megabytes
_ROLES = ("positive", "original", "negative")
_WIDE = {"width": WIDE, "height": 280}


@dataclasses.dataclass(frozen=True)
class Cloud:
    """One value a held-out query, and their mean; NaN and None are not measured."""

    values: list[float]
    mean: float | None

    @property
    def height(self) -> float:
        """The mean for drawing, NaN where it was not measured."""
        return math.nan if self.mean is None else self.mean

    @classmethod
    def read(cls, cell: object, mean_key: str) -> Cloud:
        """Read ``{mean_key: ..., "values": [...]}``; a missing mean is computed from the values."""
        values = [math.nan if value is None else value for value in dig_numbers(cell, "values")]
        known = [value for value in values if not math.isnan(value)]
        mean = dig_number(cell, mean_key)
        return cls(values, sum(known) / len(known) if mean is None and known else mean)

    def dots(self) -> list[float]:
        """Return at most :data:`MOST_DOTS` of the values, evenly chosen."""
        step = max(1, math.ceil(len(self.values) / MOST_DOTS))
        return self.values[::step]


def length_figure(policies: Sequence[Json]) -> Figure:
    """Figure: tokens a response, per held-out query, for each policy."""
    title = "How long the answers are"
    clouds = {role: [Cloud.read(dig(policy, "length", role), "mean_tokens") for policy in policies] for role in _ROLES}
    panels = []
    if _measured(clouds["original"]):
        panels.append(_slope_panel(policies, clouds["original"]))
    if _measured(clouds["positive"]) or _measured(clouds["negative"]):
        panels.append(_role_panel(policies, clouds))
    if not panels:
        return Figure(title, "", [], "No response length was measured in this run.")
    caption = "Each dot is one held-out query; the dark line or bar is the mean. " + (
        "Thin lines join the answers to the same query." if len(policies) > 1 else ""
    )
    return Figure(title, caption + _left_out([cloud for row in clouds.values() for cloud in row]), panels)


def logps_figure(policies: Sequence[Json]) -> Figure:
    """Figure: mean log-prob of each response under each prompt, for each policy; one panel a response."""
    title = "How likely each response is under each prompt"
    clouds = {
        role: {
            prompt: [Cloud.read(dig(policy, "mean_logps", f"{role}_response", prompt), "mean") for policy in policies]
            for prompt in PROMPT_NAMES
        }
        for role in _ROLES
    }
    every = [cloud for row in clouds.values() for cell in row.values() for cloud in cell]
    if not _measured(every):
        return Figure(title, "", [], "No log-probs were measured in this run.")
    known = [value for cloud in every for value in [*cloud.dots(), cloud.height] if not math.isnan(value)]
    margin = 0.06 * (max(known) - min(known)) or 0.5  # all values may be equal
    span = min(known) - margin, max(known) + margin
    panels = [_logps_panel(policies, role, clouds[role], span) for role in _ROLES]
    caption = (
        f"Mean log-prob per response token, in nats; higher is likelier. {PROMPT_NAMES['positive_prompt']} and "
        f"{PROMPT_NAMES['negative_prompt']} are the query with the positive and the negative principle, x is the "
        "query alone. Each dot is one held-out query, each bar a mean, and all panels share one scale."
    )
    return Figure(title, caption + _left_out(every), panels)


def _slope_panel(policies: Sequence[Json], clouds: list[Cloud]) -> Panel:
    def draw(axes: Axes) -> None:
        if len({len(cloud.values) for cloud in clouds}) == 1:  # every policy answered the same queries
            for row in zip(*(cloud.dots() for cloud in clouds), strict=True):
                axes.plot(range(len(row)), row, color="#9aa2ac", linewidth=0.8, alpha=_alpha(clouds[0].dots()) * 0.7)
        for index, (cloud, colour) in enumerate(zip(clouds, policy_colours(len(clouds)), strict=True)):
            dots = cloud.dots()
            axes.plot([index] * len(dots), dots, policy_marker(index), color=colour, alpha=_alpha(dots), mew=0)
        bars = {"color": INK, "linewidth": 2.6, "marker": "_", "markersize": 16, "mew": 2.6}
        axes.plot(range(len(clouds)), [cloud.height for cloud in clouds], **bars)
        for index, cloud in enumerate(clouds):
            if cloud.mean is not None:
                _mark(axes, index, cloud.mean, len(clouds))
        axes.set_xticks(range(len(clouds)), tick_names(_names(policies)))
        margin = max(0.5, (len(clouds) - 1) / 3)  # room for the words beside the first and the last mean
        axes.set_xlim(-margin, len(clouds) - 1 + margin)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("tokens")

    title = "Plain answers, query by query"
    return draw_panel("length-plain", title, _spoken("tokens on average", policies, clouds, number), draw, **_WIDE)


def _role_panel(policies: Sequence[Json], clouds: dict[str, list[Cloud]]) -> Panel:
    def draw(axes: Axes) -> None:
        _groups(axes, policies, [clouds[role] for role in _ROLES])
        axes.set_xticks(range(3), [f"{ROLE_NAMES[role]}  {role}" for role in _ROLES])
        for tick, role in zip(axes.get_xticklabels(), _ROLES, strict=True):
            tick.set_color(ROLE_COLOURS[role])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("tokens")

    alt = " ".join(f"{ROLE_NAMES[role]}: {_spoken('tokens', policies, clouds[role], number)}" for role in _ROLES)
    return draw_panel("length-roles", "Steered and plain answers", alt, draw, **_WIDE)


def _logps_panel(
    policies: Sequence[Json], role: str, cells: dict[str, list[Cloud]], span: tuple[float, float]
) -> Panel:
    def draw(axes: Axes) -> None:
        _groups(axes, policies, list(cells.values()), joined=True)
        axes.set_xticks(range(3), [f"under {name}" for name in PROMPT_NAMES.values()])
        axes.set_ylim(*span)
        axes.set_ylabel("nats per token")
        for side in ("left", "bottom"):
            axes.spines[side].set_color(ROLE_COLOURS[role])

    alt = " ".join(
        f"Under {PROMPT_NAMES[prompt]}: {_spoken('nats', policies, clouds, lambda value: number(value, 2))}"
        for prompt, clouds in cells.items()
    )
    return draw_panel(f"logps-{role}", f"{ROLE_NAMES[role]}, the {role} response", alt, draw)


def _groups(axes: Axes, policies: Sequence[Json], groups: list[list[Cloud]], joined: bool = False) -> None:
    """Draw groups of dot columns, one column a policy; ``joined`` links a policy's means across the groups."""
    width = min(0.8 / len(policies), 0.32)
    for index, (name, colour) in enumerate(zip(_names(policies), policy_colours(len(policies)), strict=True)):
        centres = [group + (index - (len(policies) - 1) / 2) * width for group in range(len(groups))]
        columns = [group[index] for group in groups]
        for centre, cloud in zip(centres, columns, strict=True):
            dots = cloud.dots()
            # Golden-ratio steps fill the width evenly, without a random generator.
            spread = [centre + ((place * 0.6180339887 + 0.5) % 1 - 0.5) * width * 0.55 for place in range(len(dots))]
            axes.plot(spread, dots, policy_marker(index), color=colour, alpha=_alpha(dots), mew=0, markersize=3.6)
        means = [cloud.height for cloud in columns]
        if joined:
            axes.plot(centres, means, color=colour, linewidth=1.4, zorder=1.5)
        for centre, mean in zip(centres, means, strict=True):
            axes.plot([centre - 0.36 * width, centre + 0.36 * width], [mean] * 2, color=INK, linewidth=2.6)
        axes.plot([], [], policy_marker(index), color=colour, label=name)
    axes.set_xlim(-0.55, len(groups) - 0.45)


def _mark(axes: Axes, index: int, mean: float, policies: int) -> None:
    """Write a mean beside its bar: the first on the left and the last on the right, where no lines run; else above."""
    style = {"textcoords": "offset points", "weight": "bold", "va": "center"}
    if index == 0:
        axes.annotate(f"mean {number(mean)}", (index, mean), (-12, 0), ha="right", **style)
    elif index == policies - 1:
        axes.annotate(f"mean {number(mean)}", (index, mean), (12, 0), ha="left", **style)
    else:
        box = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
        axes.annotate(number(mean), (index, mean), (0, 13), ha="center", bbox=box, **style)


def _alpha(dots: list[float]) -> float:
    return max(0.3, min(0.8, 25 / max(1, len(dots))))


def _names(policies: Sequence[Json]) -> list[str]:
    return [label(policy.get("label"), 22) for policy in policies]


def _measured(clouds: list[Cloud]) -> bool:
    return any(cloud.mean is not None for cloud in clouds)


def _left_out(clouds: list[Cloud]) -> str:
    most = max((len(cloud.values) for cloud in clouds), default=0)
    return f" Of {number(most)} queries {MOST_DOTS} or fewer are drawn; the means are over all." * (most > MOST_DOTS)


def _spoken(unit: str, policies: Sequence[Json], clouds: list[Cloud], form: Form) -> str:
    parts = [f"{name} {maybe(cloud.mean, form)}" for name, cloud in zip(_names(policies), clouds, strict=True)]
    return f"{', '.join(parts)} ({unit})."
