"""Figure of quality control: what each filter kept and dropped."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from selfsteer.report.figures.panel import NARROW, WIDE, Axes, Figure, Panel, draw_panel
from selfsteer.report.figures.style import DROPPED_COLOUR, INK, KEPT_COLOUR
from selfsteer.report.formatting import NOT_MEASURED, label, maybe, number
from selfsteer.report.read_run import Json, dig_dict, dig_number


@dataclasses.dataclass(frozen=True)
class Sieve:
    """One filter: the number of rows before it, and of those it dropped (None: not measured)."""

    name: str
    came: float
    dropped: float | None

    @property
    def lost(self) -> float:
        """The length of the dropped part of the bar."""
        return self.dropped or 0.0

    @property
    def kept(self) -> float:
        """Number of rows that passed."""
        return self.came - self.lost

    @property
    def words(self) -> str:
        """The text beside the bar."""
        if self.dropped is None:
            return NOT_MEASURED
        return f"{number(self.lost)} of {number(self.came)} dropped" if self.lost else "none dropped"


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
    """Return a round's filters in order; empty where the counts aren't there."""
    left = dig_number(round_, "quality", "total")
    if left is None:
        return []
    found: list[Sieve] = []
    for name in dig_dict(round_, "quality", "dropped"):
        found.append(Sieve(label(name, 24), left, dig_number(round_, "quality", "dropped", name)))
        left = found[-1].kept
    return found


def _panel(name: str, round_: Json, width: float) -> Panel:
    filters = sieves(round_)

    def draw(axes: Axes) -> None:
        places = range(len(filters))
        axes.barh(places, [row.kept for row in filters], color=KEPT_COLOUR, height=0.62)
        lost = {"width": [row.lost for row in filters], "left": [row.kept for row in filters]}
        axes.barh(places, **lost, color=DROPPED_COLOUR, hatch="////", height=0.62, linewidth=0)
        for place, row in enumerate(filters):
            axes.annotate(row.words, (row.came, place), (6, 0), textcoords="offset points", va="center", color=INK)
        axes.set_yticks(places, [row.name for row in filters])
        axes.set_ylim(len(filters) - 0.45, -0.55)
        axes.set_xlim(0, 1.4 * max(row.came for row in filters) or 1)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])

    kept = maybe(dig_number(round_, "quality", "kept"), number)
    title = f"Round {label(round_.get('round'))}: {kept} of {number(filters[0].came)} kept"
    alt = "; ".join(f"{row.name}: {row.words}" for row in filters)
    return draw_panel(name, title, alt, draw, width=width, height=30 + 34 * len(filters))
