"""The content of table.json and table.md: the paper's figures beside own ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from selfsteer.report.tables import markdown_table
from selfsteer.version import __version__
from selfsteer.workflows.reproduce_plan import TablePlan

SCHEMA_VERSION = 1


class Cell(NamedTuple):
    """A figure with its 95 % interval, None where there is none, and of how many items it is."""

    value: float
    low: float | None
    high: float | None
    n: int
    expected: int


@dataclass(frozen=True)
class RewardRow:
    """A reward model of the table: its figures by source, or why there are none."""

    model: str
    run: str
    paper: Mapping[str, float]
    cells: Mapping[str, Cell]
    why: str = ""


def record_of(
    plan: TablePlan,
    cells: Mapping[str, Mapping[str, Cell]],
    rewards: Sequence[RewardRow],
    lacking: Mapping[str, str],
    command: str,
) -> dict[str, Any]:
    """Return the record of a table.

    Args:
        cells: By row and source.
        lacking: By benchmark, why it was not run.
    """
    paper = plan.paper
    columns = dict(paper.table.columns)
    if not rewards:  # what is evaluated besides the paper's columns, by its official metric, which comes first
        sources = {source: None for own in cells.values() for source in own if not source.endswith(".length")}
        known = {source.partition(".")[0] for source in columns.values()}
        for source in sources:
            benchmark = source.partition(".")[0]
            if benchmark not in known and not source.startswith("signal."):
                columns[benchmark] = source
                known.add(benchmark)
    rows = [
        {
            "model": row.model, "run": row.run, "label": row.label, "done_by": row.done_by, "why": row.why,
            "paper": dict(row.paper), "ours": _figures(columns, cells.get(row.name, {})),
        }
        for row in plan.rows
    ]  # fmt: skip
    if rewards:
        rows = [
            {
                "model": row.model, "run": row.run, "label": f"reward model: {row.run}", "done_by": "", "why": row.why,
                "paper": dict(row.paper), "ours": _figures(columns, row.cells),
            }
            for row in rewards
        ]  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION,
        "version": __version__,
        "table": paper.name,
        "title": paper.table.title,
        "scale": {"name": paper.scale_name, "about": paper.scale.about, "model": paper.scale.stand_in},
        "command": command,
        "columns": columns,
        "rows": rows,
        "not_run": dict(lacking),
        "notes": paper.table.notes,
        "runs": {one.name: one.settings for one in plan.variants},
    }


def _figures(columns: Mapping[str, str], own: Mapping[str, Cell]) -> dict[str, Any]:
    return {name: own[source]._asdict() for name, source in columns.items() if source in own}


def table_rows(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows: in each column the paper's figure, then the own one with its interval."""
    columns = [
        name
        for name in record["columns"]
        if any(name in row[part] for row in record["rows"] for part in ("paper", "ours"))
    ]
    head = ["model", "run", *(part for name in columns for part in (f"{name}, paper", "ours"))]
    rows = []
    for row in record["rows"]:
        cells = [row["model"], row["label"]]
        for name in columns:
            published, own = row["paper"].get(name), row["ours"].get(name)
            cells += ["-" if published is None else f"{published:g}", "-" if own is None else _text(own)]
        rows.append(cells)
    return head, rows


def _text(own: Mapping[str, Any]) -> str:
    value = f"{own['value']:,.0f}" if own["value"] >= 200 else f"{own['value']:.2f}"
    interval = "" if own["low"] is None else f" [{own['low']:.2f}, {own['high']:.2f}]"
    count = "" if own["n"] == own["expected"] else f" ({own['n']:,} of {own['expected']:,})"
    return value + interval + count


def notes_of(record: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know: what was not run and why, the scale, and the table's own notes."""
    scale = record["scale"]
    notes = []
    if scale["model"]:
        notes.append(
            f"Scale {scale['name']}: {scale['about']}, in place of every model of the table. Its figures say nothing "
            "about the paper's; equal runs are done once."
        )
    notes += [f"not run: {row['model']}, {row['label']}: {row['why']}" for row in record["rows"] if row["why"]]
    notes += [f"not run: {name}: {why}" for name, why in record["not_run"].items()]
    return [*notes, *record["notes"]]


def as_markdown(record: Mapping[str, Any]) -> str:
    """Return the page of a table."""
    lines = [f"# {record['title']}", "", f"    {record['command']}", "", markdown_table(*table_rows(record)), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes_of(record))]) + "\n"
