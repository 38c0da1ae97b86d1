"""What `selfsteer evaluate signal` prints: the report's tables of each part of the data, its groups and free scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.tables import as_rich
from selfsteer.files import parse_json
from selfsteer.report.formatting import label
from selfsteer.report.read_run import clean
from selfsteer.report.signal import signal_tables
from selfsteer.report.tables import Table, turned
from selfsteer.workflows.evaluate_signal import Signal

_NAME = 44  # characters of a principle, enough to tell its aspect


def show_signal(found: Signal) -> None:
    """Print the tables of a signal, then what is unknown and what is wrong."""
    shown = signal_tables(clean(parse_json(json.dumps(found))))  # as the report reads it
    for table in (shown["accuracy"], *shown["aspects"], *shown["principles"]):
        _show(replace(table, rows=[[label(name, _NAME), *cells] for name, *cells in table.rows]))
    for table in shown["candidates"]:
        _show(turned(table) if table.rows else table)  # a terminal has room for few columns
    for text in (shown["lead"], *shown["checks"], *found["notes"]):
        say(text)
    for text in found["warnings"]:
        out.print(Text(text, style="yellow"), soft_wrap=True)


def show_written(run_dir: Path) -> None:
    """Print which files a signal was written to."""
    files = [run_dir / name for name in ("signal.json", "report.html") if (run_dir / name).is_file()]
    say(f"written  {', '.join(map(str, files))}")


def _show(table: Table) -> None:
    say(f"\n{table.caption}" if table.rows else table.missing)
    if table.rows:
        stacked = [[cell.replace(" (", "\n(") for cell in row] for row in table.rows]  # intervals below their figures
        out.print(as_rich(replace(table, rows=stacked)))
