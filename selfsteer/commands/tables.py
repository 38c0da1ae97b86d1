"""Tables on the terminal, all in one style: a line under the head, no box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from selfsteer.report.tables import Table as ReportTable


def plain_table(*columns: str | Column, right: Sequence[str] = (), rows: Iterable[Sequence[str]] = ()) -> Table:
    """Return a table of these columns; those named in ``right`` hold numbers, are aligned right and stay on one line.

    Names and cells of ``rows`` are shown as they are: they may hold what rich takes for markup.
    """
    made = [
        column
        if isinstance(column, Column)
        else Column(Text(column), justify="right" if column in right else "left", no_wrap=column in right)
        for column in columns
    ]
    table = Table(*made, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def quality_table(title: str, after: dict[str, Any], before: dict[str, Any] | None = None) -> Table:
    """Return how many rows each filter dropped, of all rows and of each aspect, now or before and now.

    Both hold a round's figures of quality control, as in summary.json; the title heads the column of the aspects.
    """
    now, then = _lines(after), _lines(before) if before else {}
    columns = dict.fromkeys(name for counts in [*now.values(), *then.values()] for name, n in counts.items() if n)
    shown = ["rows", "kept", *(name for name in columns if name not in ("rows", "kept"))]
    table = plain_table(title, *(name.replace("_", "_\n") for name in shown))

    def change(before: int, after: int) -> str:
        return f"{after:,}" if before == after else f"{before:,} \u2192 {after:,}"

    for aspect, counts in now.items():
        earlier = then.get(aspect, {}) if before else counts
        table.add_row(Text(aspect), *(change(earlier.get(name, 0), counts.get(name, 0)) for name in shown))
    return table


def _lines(quality: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the counts of all rows and of each aspect, each with the number of its rows."""
    everything = {"kept": quality["kept"], **quality["dropped"]}
    groups = {"all rows": everything, **quality["aspects"]}
    return {name: {"rows": sum(counts.values()), **counts} for name, counts in groups.items()}


def as_rich(table: ReportTable) -> Table:
    """Return a table of the report for the terminal."""
    columns = (Column(Text(name[:1].lower() + name[1:]), overflow="fold") for name in table.head)
    return plain_table(*columns, rows=table.rows)
