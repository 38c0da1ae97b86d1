"""Figure of quality control: what each filter kept and dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from selfsteer.report.figures.panel import NARROW, WIDE, Axes, Figure, Panel, draw_panel
from selfsteer.report.figures.style import DROPPED_COLOUR, INK, KEPT_COLOUR
from selfsteer.report.formatting import NOT_MEASURED, label, maybe, number
from selfsteer.report.read_run import Json, dig_dict, dig_number


class Sieve(NamedTuple):
    """One filter: the number of rows before it, and of those it dropped (None: not measured)."""

    name: str
    before: float
    dropped: float | None

    @property
    def kept(self) -> float:
        """Number of rows that passed."""
        return self.before - (self.dropped or 0.0)

    @property
    def words(self) -> str:
        """The text beside the bar."""
        if self.dropped is None:
            return NOT_MEASURED
        return f"{number(self.dropped)} of {number(self.before)} dropped" if self.dropped else "none dropped"


def quality_figure(rounds: Sequence[Json]) -> Figure:
    """Figure: one bar a filter, in the order in which they ran; one panel a round."""
    title = "Quality control: what each filter kept"
    width = WIDE if len(rounds) < 3 else NARROW
    panels = [_panel(f"quality-{place}", row, width) for place, row in enumerate(rounds, 1) if sieves(row)]
    if not panels:
        return Figure(title, "", [], "Quality control recorded no counts for this run.")
    caption = (
        "Pairs of responses, from top to bottom in the order of the filters: dark passed, hatched was dropped there. "
        "A pair dropped by one filter doesn't reach the next."
    )
    return Figure(title, caption, panels)


def sieves(round_: Json) -> list[Sieve]:
    """Return a round's filters in order; empty without counts."""
    left = dig_number(round_, "quality", "total")
    found: list[Sieve] = []
    for name in dig_dict(round_, "quality", "dropped") if left is not None else ():
        before = found[-1].kept if found else left or 0
        found.append(Sieve(label(name, 24), before, dig_number(round_, "quality", "dropped", name)))
    return found


def _panel(name: str, round_: Json, width: float) -> Panel:
    filters = sieves(round_)
    kept, dropped = [row.kept for row in filters], [row.dropped or 0.0 for row in filters]

    def draw(axes: Axes) -> None:
        places = range(len(filters))
        axes.barh(places, kept, color=KEPT_COLOUR, height=0.62)
        axes.barh(places, dropped, left=kept, color=DROPPED_COLOUR, hatch="////", height=0.62, linewidth=0)
        for place, row in enumerate(filters):
            axes.annotate(row.words, (row.before, place), (6, 0), textcoords="offset points", va="center", color=INK)
        axes.set_yticks(places, [row.name for row in filters])
        axes.set_ylim(len(filters) - 0.45, -0.55)
        axes.set_xlim(0, 1.4 * filters[0].before or 1)  # room for the words beside the bars
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])

    total, passed = number(filters[0].before), maybe(dig_number(round_, "quality", "kept"), number)
    title = f"Round {label(round_.get('round'))}: {passed} of {total} kept"
    alt = "; ".join(f"{row.name}: {row.words}" for row in filters)
    return draw_panel(name, title, alt, draw, width=width, height=30 + 34 * len(filters))
