"""The smaller tables: queries, aspects, quality thresholds, training, time and log-probs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from selfsteer.report.formatting import NOT_MEASURED, Form, duration, label, maybe, nats, number, percent, plain, rate
from selfsteer.report.read_run import Json, dig, dig_dict, dig_number, dig_rows

MOST_DROPS = 20


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first column has the names of the rows. ``missing`` is a sentence in place of an empty table."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    missing: str = ""
    foot: list[str] = dataclasses.field(default_factory=list)


def turned(table: Table) -> Table:
    """Return a table with its rows as columns, for few rows with many figures."""
    head, *rows = (list(cells) for cells in zip(table.head, *table.rows, strict=True))
    return dataclasses.replace(table, head=head, rows=rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.replace("|", r"\|").split()) for cell in line) + " |" for line in lines
    )


def query_table(rounds: Sequence[Json]) -> Table:
    """Queries read, used and dropped, a round a row."""
    rows = [
        [_round(row), _number(row, "queries", "read"), _number(row, "queries", "used"), maybe(_dropped(row), number)]
        for row in rounds
        if dig_dict(row, "queries")
    ]
    return Table("Queries", ["Round", "Read", "Used", "Dropped"], rows, "No query counts were recorded for this run.")


def dropped_table(rounds: Sequence[Json]) -> Table:
    """The first :data:`MOST_DROPS` dropped queries: their place, and the reason."""
    drops = [(row, drop) for row in rounds for drop in dig_rows(row, "queries", "dropped")]
    count = sum(_dropped(row) or 0 for row in rounds)
    rows = [
        [_round(row), label(drop.get("where"), 120), label(drop.get("reason"), 200)] for row, drop in drops[:MOST_DROPS]
    ]
    if count > len(rows):
        rows.append(["…", f"{number(count - len(rows))} more", "listed in the folders of the stages"])
    return Table("Dropped queries", ["Round", "Where", "Why"], rows, "No query was dropped.")


def aspect_table(rounds: Sequence[Json]) -> Table:
    """How often each aspect was chosen; most often chosen first."""
    names = {name for row in rounds for name in dig_dict(row, "aspects")}
    totals = {name: sum(dig_number(row, "aspects", name) or 0 for row in rounds) for name in names}
    ordered = {name: name for name in sorted(names, key=lambda name: (-totals[name], name))}
    missing = "No aspects were chosen in this run."
    return _counts("How often each aspect was chosen", "Aspect", rounds, "aspects", ordered, missing)


_CHOICES = {
    "model": "the model's own choice",
    "filled": "the model, and others at random: it named too few",
    "fallback": "the fallback: the model named none",
    "cut": "the fallback: the answer was cut off",
    "all": "all aspects",
    "none": "no aspects: a guideline was written",
}
_WRITINGS = {
    "fixed": "the set's own",
    "ok": "written as asked",
    "repaired": "written, parsed from another form",
    "fallback": "written in part or not at all: the set's instead",
    "cut": "the answer was cut off: the set's instead",
}


def outcome_tables(rounds: Sequence[Json]) -> list[Table]:
    """How the aspects were chosen, and where the principles come from."""
    found = []
    for caption, head, key, words, missing in (
        ("How the aspects were chosen", "Chosen by", "choices", _CHOICES, "It wasn't recorded how they were chosen."),
        ("Where the principles come from", "Principles", "writings", _WRITINGS,
         "It wasn't recorded where the principles come from."),
    ):  # fmt: skip
        names = {name for row in rounds for name in dig_dict(row, key)}
        ordered = {name: words.get(name, name) for name in [*words, *sorted(names - set(words))] if name in names}
        found.append(_counts(caption, head, rounds, key, ordered, missing))
    return found


def kept_tables(rounds: Sequence[Json]) -> list[Table]:
    """Of the rows of each aspect, how many were kept and which filter dropped the others; a table a round."""
    tables = []
    for row in rounds:
        aspects = dig_dict(row, "quality", "aspects")
        filters = [key for key in dig_dict(row, "quality", "dropped") if any(dig(own, key) for own in aspects.values())]
        rows = []
        for name, own in aspects.items():
            counts = {key: dig_number(own, key) or 0 for key in own} if isinstance(own, dict) else {}
            cells = [sum(counts.values()), *(counts.get(key, 0) for key in ["kept", *filters])]
            rows.append([label(name), *map(number, cells)])
        caption = f"{_round_name(_round(row))}: kept and dropped by aspect (a pair counts under each of its aspects)"
        if rows:
            tables.append(Table(caption, ["Aspect", "Pairs", "Kept", *map(label, filters)], rows))
    return tables


def threshold_table(rounds: Sequence[Json]) -> Table:
    """Thresholds that the filters used."""
    names = dict.fromkeys(name for row in rounds for name in dig_dict(row, "quality", "thresholds"))
    rows = [[label(name), *(_setting(dig(row, "quality", "thresholds", name)) for row in rounds)] for name in names]
    return Table("Thresholds the filters used", _rounds_head("Threshold", rounds), rows)


def round_table(rounds: Sequence[Json], policies: Sequence[Json]) -> Table:
    """Figures of each round's data before the filters, and of the policy trained on them.

    A generator's data have a row of their own, before the data that it wrote.
    """
    accuracy = {_round(policy): dig_number(policy, "implicit", "accuracy") for policy in policies}
    rows = []
    for row in rounds:
        if dig_dict(row, "generator"):
            rows.append([f"{_round(row)}, for the generator", *_data_cells(dig_dict(row, "generator")), ""])
        rows.append([_round(row), *_data_cells(row), maybe(accuracy.get(_round(row)), percent)])
    scales = sorted({label(dig(one, "implicit", "scale")) for one in policies if dig(one, "implicit", "scale")})
    head = [*_DATA_HEAD, ", ".join(["Implicit accuracy, held-out", *scales])]
    known = [row for row in rounds if dig_dict(row, "data")]
    return Table("What each round trained on", head, rows if known else [], "The rounds' data were not measured.")


_DATA_HEAD = ("Round", "Pairs kept", "Length of y⁺", "Length of y⁻", "On-policyness of y⁺", "On-policyness of y⁻",
              "Steering margin")  # fmt: skip


def data_table(rounds: Sequence[Json]) -> Table:
    """Figures of each round's data before the filters, those that were measured: nothing is trained on them."""
    rows = [[_round(row), *_data_cells(row)] for row in rounds if dig_dict(row, "data")]
    known = [place for place in range(len(_DATA_HEAD)) if any(row[place] != NOT_MEASURED for row in rows)]
    head, cells = [_DATA_HEAD[place] for place in known], [[row[place] for place in known] for row in rows]
    return Table("The rows of each round, before the filters", head, cells)


def _data_cells(made: Json) -> list[str]:
    kept, total = (dig_number(made, "quality", name) for name in ("kept", "total"))
    share = None if kept is None or not total else kept / total
    pair = ("positive", "negative")
    return [
        f"{maybe(kept, number)} ({maybe(share, percent)})",
        *(maybe(dig_number(made, "data", "length", role), lambda n: number(n, 1)) for role in pair),
        *(_nats(made, "data", "onpolicyness", f"{role}_response") for role in pair),
        _nats(made, "data", "steering_margin"),
    ]


_TRAINING: dict[str, tuple[str, Form | None]] = {
    "examples": ("Examples", number),
    "steps": ("Steps", number),
    "epochs": ("Epochs", plain),
    "base_loss": ("Base loss", None),
    "learning_rate": ("Learning rate", rate),
    "precision": ("Precision", None),
    "seconds": ("Time", duration),
    "peak_memory_gb": ("Peak memory", lambda value: f"{number(value, 1)} GB"),
}
"""By key, the head of the column and the form of its numbers; None is text."""


def training_table(rounds: Sequence[Json]) -> Table:
    """Settings and cost of training, a round a row; a generator's training has a row of its own."""
    rows = []
    for row in rounds:
        for name, of in ((f"{_round(row)}, the generator", dig_dict(row, "generator")), (_round(row), row)):
            training = dig_dict(of, "training")
            cells = [label(training.get(key)) if form is None else maybe(dig_number(training, key), form)
                     for key, (_, form) in _TRAINING.items()]  # fmt: skip
            rows += [[name, *cells]] if training else []
    head = ["Round", *(name for name, _ in _TRAINING.values())]
    return Table("What was trained", head, rows, "Nothing was trained in this run.")


def stage_table(stages: Sequence[Json]) -> Table:
    """Time a stage, a round a column, as measured when it ran, now or in an earlier run of the same command."""
    rounds = list(dict.fromkeys(_round(row) for row in stages))
    cells: dict[tuple[str, str], list[Json]] = {}
    for row in stages:
        cells.setdefault((label(row.get("stage")), _round(row)), []).append(row)
    names = list(dict.fromkeys(name for name, _ in cells))
    rows = [[name] for name in names]
    for line in rows:
        for round_ in rounds:
            own = cells.get((line[0], round_))  # None: the round has no such stage
            reused = " (reused)" if any(one.get("reused") for one in own or ()) else ""
            line.append("" if own is None else maybe(total_seconds(own), duration) + reused)
    sums = [total_seconds([row for row in stages if _round(row) == round_]) for round_ in rounds]
    foot = ["Sum", *(maybe(seconds, duration) for seconds in sums)] if rows else []
    head = ["Stage", *map(_round_name, rounds)]
    return Table("Time per stage", head, rows, "No stage times were recorded.", foot)


def total_seconds(stages: Sequence[Json]) -> float | None:
    """Return the total time of ``stages``; None where nothing was measured."""
    times = [dig_number(row, "seconds") for row in stages]
    known = [seconds for seconds in times if seconds is not None]
    return sum(known) if known else None


def logps_table(policies: Sequence[Json]) -> Table:
    """The mean log-probs of the figure as numbers."""
    signs = {"positive_response": "y⁺", "original_response": "yₒ", "negative_response": "y⁻"}
    prompts = {"positive_prompt": "x⁺", "prompt": "x", "negative_prompt": "x⁻"}
    rows = [
        [f"{sign} under {name}", *(_nats(policy, "mean_logps", response, prompt, "mean") for policy in policies)]
        for response, sign in signs.items()
        for prompt, name in prompts.items()
    ]
    head = ["Response and prompt", *(label(policy.get("label")) for policy in policies)]
    return Table("Mean log-probs, nats per token", head, rows)


def _round(row: Json) -> str:
    return label(row.get("round"))


def _number(row: Json, *path: str) -> str:
    return maybe(dig_number(row, *path), number)


def _nats(policy: Json, *path: str) -> str:
    return maybe(dig_number(policy, *path), nats)


def _counts(caption: str, head: str, rounds: Sequence[Json], key: str, names: dict[str, str], missing: str) -> Table:
    """Return a table of counts: ``names`` (key to shown name) down, rounds across."""
    rows = []
    for name, shown in names.items():
        counted = [dig_dict(row, key) for row in rounds]
        # A round that has counts but not this one counts 0; a round without any counts is not measured.
        rows.append([label(shown), *("0" if own and name not in own else _number(own, name) for own in counted)])
    return Table(caption, _rounds_head(head, rounds), rows, missing)


def _rounds_head(head: str, rounds: Sequence[Json]) -> list[str]:
    return [head, *(_round_name(_round(row)) for row in rounds)]


def _round_name(round_: str) -> str:
    return f"Round\N{NO-BREAK SPACE}{round_}"


def _dropped(row: Json) -> float | None:
    """Return the number of dropped queries; the list of them may be shorter."""
    drops = dig(row, "queries", "dropped")
    return dig_number(row, "queries", "left_out") or (len(drops) if isinstance(drops, list) else None)


def _setting(value: Any) -> str:
    found = dig_number({"value": value}, "value")
    if found is not None or value is None:
        return maybe(found, plain)
    return label(json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict | bool) else value, 120)
