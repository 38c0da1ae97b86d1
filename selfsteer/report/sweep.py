"""The table and charts of a sweep, a run a row, from the summaries of its runs; as JSON, Markdown and a page."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from selfsteer.confidence_intervals import bootstrap, wilson
from selfsteer.files import write_atomic, write_json
from selfsteer.report.comparison import tokens
from selfsteer.report.formatting import Form, count, maybe, nats, number, percent
from selfsteer.report.guards import handed_out
from selfsteer.report.inspector import content_policy, styles
from selfsteer.report.interval_chart import Chart, chart
from selfsteer.report.page import environment
from selfsteer.report.read_run import Json, clean, dig, dig_dict, dig_number, dig_numbers, dig_rows
from selfsteer.report.tables import Table, markdown_table

SWEEP_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Column:
    """A figure: its name, its form, and its path in a policy's entry of a summary, or else in a round's data.

    ``interval`` is the path of its 95 % interval in a policy's entry, or of the values that it is the mean of.
    """

    head: str
    show: Form
    path: tuple[str, ...]
    of_data: tuple[str, ...] = ()
    interval: tuple[str, ...] = ()


def _length(head: str, role: str, of_data: tuple[str, ...] = ()) -> Column:
    return Column(head, tokens, ("length", role, "mean_tokens"), of_data, ("length", role, "values"))


COLUMNS = {
    "length_positive": _length("Length of y⁺", "positive", ("length", "positive")),
    "length_negative": _length("Length of y⁻", "negative", ("length", "negative")),
    "onpolicyness": Column(
        "On-policyness", nats, ("onpolicyness", "mean"), ("onpolicyness", "mean"), ("onpolicyness", "interval")
    ),
    "steering_margin": Column(
        "Steering margin", nats, ("steering_margin", "mean"), ("steering_margin",), ("steering_margin", "interval")
    ),
    "implicit_accuracy": Column(
        "Implicit accuracy", percent, ("implicit", "accuracy"), interval=("implicit", "accuracy_interval")
    ),
    "implicit_margin": Column(
        "Implicit margin", nats, ("implicit", "margin"), interval=("implicit", "margin_interval")
    ),
    "direction": Column("y⁺ right, by program", percent, ("direction", "share"), interval=("direction", "interval")),
}
"""Figures of the policy that a run hands out, on the held-out queries; without those, of its last round's data."""

_KEPT = Column("Kept", percent, ())
_BEFORE = _length("Plain length before", "original")
_AFTER = dataclasses.replace(_BEFORE, head="Plain length after")
_ALL = {"kept": _KEPT, **COLUMNS, "plain_before": _BEFORE, "plain_after": _AFTER}


def sweep_record(about: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Json:
    """Return the content of sweep.json: the sweep's name, recipe, command and version, and a record of each run."""
    rows = []
    for run in runs:
        own = {key: value for key, value in run.items() if key != "summary"}
        rows.append(own | figures_of(clean(run["summary"]) or {}))
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
    names = [run["name"] for run in shown["runs"]]
    reports = {name: f"{quote(name)}/report.html" for name in names if (folder / name / "report.html").exists()}
    texts = {key: shown[key] for key in ("name", "recipe", "command", "version")}
    page = runs_page(shown["runs"], kind="sweep", table=table, notes=notes, reports=reports, **texts)
    write_atomic(folder / "sweep.html", page)


def runs_page(runs: Sequence[Json], **values: Any) -> str:
    """Return the page of several runs: charts of their figures, and what else ``sweep.html.jinja`` shows."""
    style = styles("report.css", "runs.css")
    page = environment().get_template("sweep.html.jinja")
    return page.render(charts=_charts(runs), style=style, policy=content_policy(style), **values)


def _charts(runs: Sequence[Json]) -> list[Chart]:
    """Return a chart of each figure that two runs or more have."""
    charts = []
    for key, column in _ALL.items():
        values = {run["name"]: run["figures"][key] for run in runs if run["figures"].get(key) is not None}
        intervals = {run["name"]: run.get("intervals", {}).get(key) for run in runs}
        if len(values) > 1:
            charts.append(chart(column.head, column.show, values, intervals))
    return charts


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
    notes += scale_notes(record["runs"])
    return notes + [f"{run['name']} {run['outcome']}: {run['reason']}" for run in record["runs"] if run["reason"]]


def scale_notes(runs: Sequence[Json]) -> list[str]:
    """Return a note on whether implicit rewards are per token or summed, and in which runs."""
    scales: dict[str, list[str]] = {}
    for run in runs:
        if scale := run["figures"].get("implicit_scale"):
            scales.setdefault(scale, []).append(run["name"])
    listed = "; ".join(f"{scale} in {', '.join(names)}" for scale, names in scales.items())
    return [f"Implicit rewards: {listed}."] if scales else []


def figures_of(summary: Json) -> Json:
    """Return a run's figures by the names of :data:`COLUMNS`, their intervals, and its guards that fired.

    A figure that was not measured, and an interval that is not known, is None; so are the guards of a run without any.
    """
    policies, rounds = dig_rows(summary, "policies"), dig_rows(summary, "rounds")
    last: Json = rounds[-1] if rounds else {}
    # A training that left no policy has no figures; a run of data alone has those of its start.
    trained = len(policies) > 1 or dig(summary, "mode") == "data-only"
    policy: Json = (handed_out(summary) if trained else None) or {}
    kept, total = (dig_number(last, "quality", name) for name in ("kept", "total"))
    figures: Json = {"kept": kept / total if kept is not None and total else None}
    intervals: Json = {"kept": list(wilson(kept, total)) if kept is not None and total else None}
    for key, column in COLUMNS.items():
        own = dig_number(policy, *column.path)
        figures[key] = dig_number(last, "data", *column.of_data) if not policies and column.of_data else own
        intervals[key] = _interval(policy, column)
    figures["implicit_scale"] = dig(policy, "implicit", "scale")
    before, after = policies[0] if policies else {}, policy if len(policies) > 1 else {}
    for key, of in (("plain_before", before), ("plain_after", after)):
        figures[key], intervals[key] = dig_number(of, *_BEFORE.path), _interval(of, _BEFORE)
    findings = dig_rows(summary, "guards", "findings")
    fired = [f"{row['guard']} (round {row['round']})" for row in findings if row.get("standing") == "fired"]
    return {"figures": figures, "intervals": intervals, "guards": fired if dig_dict(summary, "guards") else None}


def _interval(policy: Json, column: Column) -> list[float] | None:
    """Return the 95 % interval of a policy's figure, of a mean of values their bootstrap; None where it is unknown."""
    found = [value for value in dig_numbers(policy, *column.interval) if value is not None]
    if column.interval[-1] == "values":
        return list(bootstrap(found)) if len(found) > 1 else None
    return found if len(found) == 2 else None


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
