"""The table of a sweep, a run a row, from the summaries of its runs; as JSON, Markdown and a page."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfsteer.files import write_atomic, write_json
from selfsteer.report.comparison import tokens
from selfsteer.report.formatting import Form, count, maybe, nats, number, percent
from selfsteer.report.guards import handed_out
from selfsteer.report.page import environment
from selfsteer.report.read_run import Json, clean, dig, dig_dict, dig_number, dig_rows
from selfsteer.report.tables import Table, markdown_table

SWEEP_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Column:
    """A figure: its name, its form, and its path in a policy's entry of a summary, or else in a round's data."""

    head: str
    show: Form
    path: tuple[str, ...]
    of_data: tuple[str, ...] = ()


COLUMNS = {
    "length_positive": Column("Length of y⁺", tokens, ("length", "positive", "mean_tokens"), ("length", "positive")),
    "length_negative": Column("Length of y⁻", tokens, ("length", "negative", "mean_tokens"), ("length", "negative")),
    "onpolicyness": Column("On-policyness", nats, ("onpolicyness", "mean"), ("onpolicyness", "mean")),
    "steering_margin": Column("Steering margin", nats, ("steering_margin", "mean"), ("steering_margin",)),
    "implicit_accuracy": Column("Implicit accuracy", percent, ("implicit", "accuracy")),
    "implicit_margin": Column("Implicit margin", nats, ("implicit", "margin")),
    "direction": Column("y⁺ right, by program", percent, ("direction", "share")),
}
"""Figures of the policy that a run hands out, on the held-out queries; without those, of its last round's data."""

_KEPT = Column("Kept", percent, ())
_BEFORE = Column("Plain length before", tokens, ("length", "original", "mean_tokens"))
_AFTER = dataclasses.replace(_BEFORE, head="Plain length after")
_ALL = {"kept": _KEPT, **COLUMNS, "plain_before": _BEFORE, "plain_after": _AFTER}


def sweep_record(about: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Json:
    """Return the content of sweep.json: the sweep's name, recipe, command and version, and a record of each run."""
    rows = []
    for run in runs:
        summary = clean(run["summary"]) or {}
        findings = dig_rows(summary, "guards", "findings")
        fired = [f"{row['guard']} (round {row['round']})" for row in findings if row.get("standing") == "fired"]
        own = {key: value for key, value in run.items() if key != "summary"}
        rows.append(own | {"figures": _figures(summary), "guards": fired if dig_dict(summary, "guards") else None})
    shared = {key: sum(run["stages"][key] for run in rows) for key in ("taken", "total")}
    return {"schema_version": SWEEP_VERSION, **about, "runs": rows, "means": _means(rows), "shared": shared}


def write_sweep(folder: Path, record: Json) -> None:
    """Write sweep.json, sweep.md and sweep.html; the page links the report of each run."""
    write_json(folder / "sweep.json", record)
    shown = clean(record)  # names and reasons are the user's; sweep.json keeps them as they are
    table, notes = sweep_table(shown), sweep_notes(shown)
    listed = "\n".join(f"- {note}" for note in notes)
    text = f"# {shown['name']}\n\n    {shown['command']}\n\n{markdown_table(table.head, table.rows)}\n\n{listed}\n"
    write_atomic(folder / "sweep.md", text)
    reports = [run["name"] for run in shown["runs"] if (folder / run["name"] / "report.html").exists()]
    page = environment().get_template("sweep.html.jinja")
    texts = {key: shown[key] for key in ("name", "recipe", "command", "version")}
    page_text = page.render(table=table, notes=notes, reports=reports, **texts)
    write_atomic(folder / "sweep.html", page_text)


def sweep_table(record: Json) -> Table:
    """Return the table: a row a run, then one a variant with several seeds; columns without a figure are left out."""
    known = [key for key in _ALL if any(run["figures"].get(key) is not None for run in record["runs"])]
    rows = []
    for run in record["runs"]:
        guards = "none" if run["guards"] is None else "; ".join(run["guards"]) or "quiet"
        cells = [maybe(run["figures"].get(key), _ALL[key].show) for key in known]
        rows.append([run["name"], *cells, guards, run["outcome"]])
    for mean in record["means"]:
        cells = []
        for key in known:
            figure, show = mean["figures"].get(key) or {}, _ALL[key].show
            deviation = figure.get("deviation")
            cells.append(maybe(figure.get("mean"), show) + ("" if deviation is None else f" ± {show(deviation)}"))
        rows.append([f"{mean['variant']}, mean of {count(mean['runs'], 'run')}", *cells, "", ""])
    return Table("The variants", ["Variant", *(_ALL[key].head for key in known), "Guards", "Outcome"], rows)


def sweep_notes(record: Json) -> list[str]:
    """Return notes on shared stages, on the scale of implicit rewards, and on variants that are not done."""
    taken, total = record["shared"]["taken"], record["shared"]["total"]
    notes = [f"{number(taken)} of {number(total)} stages taken from a sibling."]
    scales: dict[str, list[str]] = {}
    for run in record["runs"]:
        if scale := run["figures"].get("implicit_scale"):
            scales.setdefault(scale, []).append(run["name"])
    if scales:
        listed = "; ".join(f"{scale} in {', '.join(names)}" for scale, names in scales.items())
        notes.append(f"Implicit rewards: {listed}.")
    return notes + [f"{run['name']} {run['outcome']}: {run['reason']}" for run in record["runs"] if run["reason"]]


def _figures(summary: Json) -> Json:
    """Return a run's figures by the names of :data:`COLUMNS`; None for what was not measured."""
    policies, rounds = dig_rows(summary, "policies"), dig_rows(summary, "rounds")
    last: Json = rounds[-1] if rounds else {}
    # A training that left no policy has no figures; a run of data alone has those of its start.
    trained = len(policies) > 1 or dig(summary, "mode") == "data-only"
    policy: Json = (handed_out(summary) if trained else None) or {}
    kept, total = (dig_number(last, "quality", name) for name in ("kept", "total"))
    found: Json = {"kept": kept / total if kept is not None and total else None}
    for key, column in COLUMNS.items():
        own = dig_number(policy, *column.path)
        found[key] = dig_number(last, "data", *column.of_data) if not policies and column.of_data else own
    found["implicit_scale"] = dig(policy, "implicit", "scale")
    found["plain_before"] = dig_number(policies[0], *_BEFORE.path) if policies else None
    found["plain_after"] = dig_number(policy, *_BEFORE.path) if len(policies) > 1 else None
    return found


def _means(runs: Sequence[Json]) -> list[Json]:
    """Return mean and sample standard deviation over the seeds of each variant that has several finished runs."""
    groups: dict[str, list[Json]] = {}
    for run in runs:
        if run["outcome"] == "done":
            groups.setdefault(run["variant"], []).append(run["figures"])
    means = []
    for name, group in groups.items():
        figures: Json = {}
        for key in _ALL:
            values = [own[key] for own in group if own[key] is not None]
            deviation = statistics.stdev(values) if len(values) > 1 else None
            mean = {"mean": statistics.fmean(values), "deviation": deviation, "n": len(values)} if values else None
            figures[key] = mean
        if len(group) > 1:
            means.append({"variant": name, "runs": len(group), "figures": figures})
    return means
