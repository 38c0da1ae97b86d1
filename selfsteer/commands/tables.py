"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from selfsteer.report.tables import Table as ReportTable
from selfsteer.runs.plan_step import StepState

STYLE = {
    StepState.DONE: "green",
    StepState.SHARED: "cyan",
    StepState.TODO: "",
    StepState.REDO: "yellow",
    StepState.AFTER: "dim",
}
"""How the state of a stage is shown."""


def plain_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Return a table of these columns, with a line under its head only; those to the ``right`` hold figures."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column in right)
    return table


def quality_table(title: str, after: dict[str, Any], before: dict[str, Any] | None = None) -> Table:
    """Return what each filter dropped, of all rows and of those of each aspect, now or before and now.

    Args:
        title: Heads the column of the aspects.
        after: A round's figures of quality control, as in summary.json.
        before: Those of earlier filters.
    """
    now, then = _lines(after), _lines(before) if before else {}
    columns = dict.fromkeys(name for counts in [*now.values(), *then.values()] for name, n in counts.items() if n)
    shown = ["rows", "kept", *(name for name in columns if name not in ("rows", "kept"))]
    table = Table(title, *(name.replace("_", "_\n") for name in shown), title_justify="left")
    for aspect, counts in now.items():
        earlier = then.get(aspect, {}) if before else counts
        table.add_row(Text(aspect), *(change(earlier.get(name, 0), counts.get(name, 0)) for name in shown))
    return table


def harm_told(counts: dict[str, int]) -> dict[str, str]:
    """Return "12 by principle, 3 by classifier" under what that is, and how many y- nobody knows about."""
    told, flags = {}, [f"{count:,} by {name}" for name, count in counts.items() if name != "unknown"]
    if flags:
        told["y- flagged as harmful"] = ", ".join(flags)
    if unknown := counts.get("unknown"):
        told["y- nobody knows to be harmless"] = f"{unknown:,} (no aspect, no classifier)"
    return told


def _lines(quality: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the counts of all rows and of each aspect, each with the number of its rows."""
    everything = {"kept": quality["kept"], **quality["dropped"]}
    groups = {"all rows": everything, **quality["aspects"]}
    return {name: {"rows": sum(counts.values()), **counts} for name, counts in groups.items()}


def change(before: int, after: int) -> str:
    """Return "12 → 9", or one number where both are equal."""
    return f"{after:,}" if before == after else f"{before:,} \u2192 {after:,}"


def as_rich(table: ReportTable) -> Table:
    """Return a table of the report for the terminal."""
    shown = Table(*(Column(Text(name.lower())) for name in table.head), title_justify="left")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown
