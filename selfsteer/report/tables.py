"""The smaller tables: queries, aspects, quality thresholds, training, time and log-probs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from selfsteer.report.formatting import Form, duration, label, maybe, number, percent, plain, rate
from selfsteer.report.read_run import Json, dig, dig_dict, dig_number, dig_rows

MOST_DROPS = 20


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: its first column heads the rows. ``missing`` is one sentence where there is nothing to show."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    missing: str = ""
    foot: list[str] = dataclasses.field(default_factory=list)


def turned(table: Table) -> Table:
    """Return a table with its rows as columns, for few rows of many figures."""
    head, *rows = (list(cells) for cells in zip(table.head, *table.rows, strict=True))
    return dataclasses.replace(table, head=head, rows=rows)


def query_table(rounds: Sequence[Json]) -> Table:
    """Queries read, used and dropped, a round a row."""
    rows = [
        [_round(row), *(_number(row, "queries", key) for key in ("read", "used")), _dropped_count(row)]
        for row in rounds
        if dig_dict(row, "queries")
    ]
    return _table("Queries", ["Round", "Read", "Used", "Dropped"], rows, "No query counts were written for this run.")


def dropped_table(rounds: Sequence[Json]) -> Table:
    """Each query that was dropped: where it stood, and why; the first :data:`MOST_DROPS` of them."""
    drops = [(row, drop) for row in rounds for drop in dig_rows(row, "queries", "dropped")]
    count = sum(_dropped(row) or 0 for row in rounds)
    rows = [
        [_round(row), label(drop.get("where"), 120), label(drop.get("reason"), 200)] for row, drop in drops[:MOST_DROPS]
    ]
    if count > len(rows):
        rows.append(["…", f"{number(count - len(rows))} more", "listed in the folders of the stages"])
    return _table("Dropped queries", ["Round", "Where", "Why"], rows, "No query was dropped.")


def aspect_table(rounds: Sequence[Json]) -> Table:
    """How often each aspect was chosen; most often chosen first."""
    names = {name for row in rounds for name in dig_dict(row, "aspects")}
    totals = {name: sum(dig_number(row, "aspects", name) or 0 for row in rounds) for name in names}
    ordered = {name: name for name in sorted(names, key=lambda name: (-totals[name], name))}
    missing = "No aspects were chosen in this run."
    return _by_round("How often each aspect was chosen", "Aspect", rounds, ("aspects",), ordered, missing)


def choice_table(rounds: Sequence[Json]) -> Table:
    """Who chose the aspects: the model's own answer, or the fallback."""
    words = {
        "model": "the model's own choice",
        "filled": "the model, and others at random: it named too few",
        "fallback": "the fallback: the model named none",
        "cut": "the fallback: the answer was cut off",
        "all": "all aspects",
        "none": "no aspects: a guideline was written",
    }
    missing = "It wasn't recorded who chose the aspects."
    return _worded("Who chose the aspects", "Chosen by", rounds, "choices", words, missing)


def writing_table(rounds: Sequence[Json]) -> Table:
    """Where the principles come from: the set, or what the writer answered."""
    words = {
        "fixed": "the set's own",
        "ok": "written as asked",
        "repaired": "written, read out of another form",
        "fallback": "written in part or not at all: the set's in its place",
        "cut": "the answer was cut off: the set's in its place",
    }
    missing = "It wasn't recorded where the principles come from."
    return _worded("Where the principles come from", "Principles", rounds, "writings", words, missing)


def _worded(caption: str, head: str, rounds: Sequence[Json], key: str, words: dict[str, str], missing: str) -> Table:
    """Return how often each outcome under ``key`` was met, in the order of ``words``."""
    names = {name for row in rounds for name in dig_dict(row, key)}
    ordered = {name: words.get(name, name) for name in [*words, *sorted(names - set(words))] if name in names}
    return _by_round(caption, head, rounds, (key,), ordered, missing)


def kept_tables(rounds: Sequence[Json]) -> list[Table]:
    """Of the rows of each aspect, how many were kept and which filter dropped the others; a table a round."""
    return [_kept_table(row) for row in rounds if dig_dict(row, "quality", "aspects")]


def _kept_table(round_: Json) -> Table:
    aspects = dig_dict(round_, "quality", "aspects")
    dropped = dig_dict(round_, "quality", "dropped")
    filters = [name for name in dropped if any(dig(own, name) for own in aspects.values())]
    rows = []
    for name, own in aspects.items():
        counts = {key: dig_number(own, key) or 0 for key in own} if isinstance(own, dict) else {}
        cells = [sum(counts.values()), *(counts.get(key, 0) for key in ["kept", *filters])]
        rows.append([label(name), *map(number, cells)])
    head = ["Aspect", "Pairs", "Kept", *(label(name) for name in filters)]
    caption = f"{_round_name(_round(round_))}: kept and dropped by aspect (a pair counts under each of its aspects)"
    return Table(caption, head, rows)


def threshold_table(rounds: Sequence[Json]) -> Table:
    """Thresholds that the filters used."""
    names = {name: name for row in rounds for name in dig_dict(row, "quality", "thresholds")}
    table = _by_round("Thresholds the filters used", "Threshold", rounds, (), {}, "")
    rows = [[label(name), *(_setting(dig(row, "quality", "thresholds", name)) for row in rounds)] for name in names]
    return dataclasses.replace(table, rows=rows)


def round_table(rounds: Sequence[Json], policies: Sequence[Json]) -> Table:
    """What each round's data are like, before the filters, and what the policy trained on them has learnt.

    A generator's data stand in a row of their own, before those that it made.
    """
    accuracy = {_round(policy): dig_number(policy, "implicit", "accuracy") for policy in policies}
    rows = []
    for row in rounds:
        if dig_dict(row, "generator"):
            rows.append([f"{_round(row)}, for the generator", *_data_cells(dig_dict(row, "generator")), ""])
        rows.append([_round(row), *_data_cells(row), maybe(accuracy.get(_round(row)), percent)])
    scales = sorted({label(dig(one, "implicit", "scale")) for one in policies if dig(one, "implicit", "scale")})
    head = ["Round", "Pairs kept", "Length of y⁺", "Length of y⁻", "On-policyness of y⁺", "On-policyness of y⁻",
            "Steering margin", ", ".join(["Implicit accuracy, held-out", *scales])]  # fmt: skip
    known = [row for row in rounds if dig_dict(row, "data")]
    return _table("What each round trained on", head, rows if known else [], "The rounds' data were not measured.")


def _data_cells(made: Json) -> list[str]:
    kept, total = (dig_number(made, "quality", name) for name in ("kept", "total"))
    share = None if kept is None or not total else kept / total
    lengths = [maybe(dig_number(made, "data", "length", role), lambda n: number(n, 1)) for role in _PAIR]
    chances = [_nats(made, "data", "onpolicyness", f"{role}_response") for role in _PAIR]
    return [
        f"{maybe(kept, number)} ({maybe(share, percent)})",
        *lengths,
        *chances,
        _nats(made, "data", "steering_margin"),
    ]


_PAIR = ("positive", "negative")

_TRAINING: dict[str, Form] = {
    "examples": number,
    "steps": number,
    "epochs": plain,
    "learning_rate": rate,
    "seconds": duration,
    "peak_memory_gb": lambda value: f"{number(value, 1)} GB",
}


def training_table(rounds: Sequence[Json]) -> Table:
    """Settings and cost of training, a round a row; a generator's training has a row of its own."""
    rows = []
    for row in rounds:
        for made, name in ((dig_dict(row, "generator"), f"{_round(row)}, the generator"), (row, _round(row))):
            if dig_dict(made, "training"):
                rows.append([name, *_training_cells(dig_dict(made, "training"))])
    head = ["Round", "Examples", "Steps", "Epochs", "Base loss", "Learning rate", "Precision", "Time", "Peak memory"]
    return _table("What was trained", head, rows, "Nothing was trained in this run.")


def _training_cells(training: Json) -> list[str]:
    cells = {key: maybe(dig_number(training, key), form) for key, form in _TRAINING.items()}
    loss, precision = (label(training.get(key)) for key in ("base_loss", "precision"))
    first, last = ("examples", "steps", "epochs"), ("seconds", "peak_memory_gb")
    start = [*(cells[key] for key in first), loss, cells["learning_rate"], precision]
    return start + [cells[key] for key in last]


def stage_table(stages: Sequence[Json]) -> Table:
    """Time a stage, a round a column: what each took when it was done, now or in an earlier run of the same command."""
    rounds = list(dict.fromkeys(_round(row) for row in stages))
    cells: dict[tuple[str, str], list[Json]] = {}
    for row in stages:
        cells.setdefault((label(row.get("stage")), _round(row)), []).append(row)
    names = list(dict.fromkeys(name for name, _ in cells))
    rows = [[name, *(_time(cells.get((name, round_), [])) for round_ in rounds)] for name in names]
    sums = [total_seconds([row for row in stages if _round(row) == round_]) for round_ in rounds]
    foot = ["Sum", *(maybe(seconds, duration) for seconds in sums)]
    table = _table("Time per stage", ["Stage", *map(_round_name, rounds)], rows, "No stage times were written.")
    return dataclasses.replace(table, foot=foot if rows else [])


def total_seconds(stages: Sequence[Json]) -> float | None:
    """Return the time that ``stages`` took when they were done; None where nothing was measured."""
    times = [dig_number(row, "seconds") for row in stages]
    known = [seconds for seconds in times if seconds is not None]
    return sum(known) if known else None


def logps_table(policies: Sequence[Json]) -> Table:
    """The mean log-probs that the figure draws, as numbers."""
    signs = {"positive_response": "y⁺", "original_response": "yₒ", "negative_response": "y⁻"}
    prompts = {"positive_prompt": "x⁺", "prompt": "x", "negative_prompt": "x⁻"}
    rows = [
        [f"{sign} under {name}", *(_nats(policy, "mean_logps", response, prompt, "mean") for policy in policies)]
        for response, sign in signs.items()
        for prompt, name in prompts.items()
    ]
    head = ["Response and prompt", *(label(policy.get("label")) for policy in policies)]
    return Table("Mean log-probs, nats per token", head, rows)


def _table(caption: str, head: list[str], rows: list[list[str]], missing: str) -> Table:
    return Table(caption, head, rows, "" if rows else missing)


def _round(row: Json) -> str:
    return label(row.get("round"))


def _number(row: Json, *path: str) -> str:
    return maybe(dig_number(row, *path), number)


def _nats(policy: Json, *path: str) -> str:
    return maybe(dig_number(policy, *path), lambda value: number(value, 3))


def _by_round(
    caption: str, head: str, rounds: Sequence[Json], path: tuple[str, ...], names: dict[str, str], missing: str
) -> Table:
    """Return a table of counts: ``names`` (key to shown name) down, rounds across.

    A round that has counts but not this one counts 0; where a round has no counts at all, nobody knows.
    """
    rows = []
    for name, shown in names.items():
        counted = [dig_dict(row, *path) for row in rounds]
        cells = ["0" if counts and name not in counts else _number(counts, name) for counts in counted]
        rows.append([label(shown), *cells])
    return _table(caption, [head, *(_round_name(_round(row)) for row in rounds)], rows, missing)


def _round_name(round_: str) -> str:
    return f"Round\N{NO-BREAK SPACE}{round_}"


def _time(rows: Sequence[Json]) -> str:
    """Return how long a stage of a round took: "" where the round has no such stage."""
    seconds = [dig_number(row, "seconds") for row in rows]
    known = [value for value in seconds if value is not None]
    reused = " (reused)" if any(row.get("reused") for row in rows) else ""
    return maybe(sum(known) if known else None, duration) + reused if rows else ""


def _dropped_count(row: Json) -> str:
    return maybe(_dropped(row), number)


def _dropped(row: Json) -> float | None:
    """Return how many queries were left out; those that are named may be fewer."""
    drops = dig(row, "queries", "dropped")
    return dig_number(row, "queries", "left_out") or (len(drops) if isinstance(drops, list) else None)


def _setting(value: Any) -> str:
    found = dig_number({"value": value}, "value")
    if found is not None or value is None:
        return maybe(found, plain)
    return label(json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict | bool) else value, 120)
