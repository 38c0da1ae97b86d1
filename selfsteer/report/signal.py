"""The section "Is the data right?": results of `selfsteer evaluate signal`, as a figure, tables and plain sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from selfsteer.report.figures.signal import signal_figure
from selfsteer.report.formatting import label, maybe, nats, number, percent, with_interval
from selfsteer.report.read_run import Json, dig, dig_dict, dig_number, dig_numbers, dig_rows
from selfsteer.report.tables import Table

MOST_PRINCIPLES = 20
_AGAIN = "run `selfsteer evaluate signal` again."


def signal_section(signal: Json) -> Json:
    """Return everything that the section prints."""
    if signal.get("problem"):
        return {"problem": f"{label(signal['problem'])}: {_AGAIN}"}
    return {
        "problem": "",
        "stale": f"The data was made again with other settings since: {_AGAIN}" if signal.get("stale") else "",
        "notes": _texts(signal, "notes"),
        "warnings": _texts(signal, "warnings"),
        "figure": signal_figure(dig_rows(signal, "parts")),
        **signal_tables(signal),
    }


def signal_tables(signal: Json) -> Json:
    """Return the tables of all parts, a sentence above and sentences below them."""
    parts = dig_rows(signal, "parts")
    filtered = any(dig_dict(part, "kept") for part in parts)
    lines = [line for part in parts for line in _lines(part, label(part.get("label")))]
    caption = f"All pairs{', and those that the filters kept' if filtered else ''}"
    return {
        "lead": _lead(signal),
        "checks": [text for part in parts if (text := _check(part))],
        "accuracy": _figures_table(caption, "Pairs of", lines),
        "aspects": [_group_table(part, "aspects", "aspect") for part in parts],
        "candidates": [table for part in parts for table in _candidates_tables(part)],
        "principles": [_group_table(part, "principles", "principle") for part in parts],
    }


def _lead(signal: Json) -> str:
    split = "held-out pairs of each policy" if signal.get("split") == "heldout" else "training pairs of each round"
    judge, by = dig(signal, "judge", "name"), dig(signal, "judge", "by")
    asked = f"judged by {label(judge)} (criterion: {label(by)})" if judge else "no judge was named"
    return (
        f"The {split}; {asked}. Strict counts the pairs judged right in both orders of showing them; debiased uses the "
        "judge's log-odds averaged over the orders, in which a preference for one place cancels. A tie counts as not "
        "right. The steering margin shows only that the prompts matter."
    )


def _texts(signal: Json, name: str) -> list[str]:
    found = signal.get(name)
    return [label(text, 400) for text in found if isinstance(text, str)] if isinstance(found, list) else []


def _check(part: Json) -> str:
    check = dig_dict(part, "judge_check")
    if dig_number(check, "share") is None:
        return ""
    return (
        f"{_title(part)}: the judge agrees with the program ({label(check.get('program'))}) in "
        f"{_share()(check)} of the {maybe(dig_number(check, 'n'), number)} pairs that the program decides."
    )


# --- tables

Line = tuple[str, Json]
Cell = Callable[[Json], str]


def _lines(figures_: Json, name: str) -> list[Line]:
    """Return a line before the filters and, where they have run, one of the rows they kept."""
    if not dig_dict(figures_, "before"):
        return [(name, figures_)]  # too small a group for figures
    kept, counts = dig_dict(figures_, "kept"), {key: figures_.get(key) for key in ("chosen", "passed")}
    return [(name, dig_dict(figures_, "before") | counts), *([(f"{name}, kept", kept)] if kept else [])]


def _group_table(part: Json, groups: str, word: str) -> Table:
    found = dig_rows(part, groups)
    lines = [line for group in found[:MOST_PRINCIPLES] for line in _lines(group, label(group.get("name"), 160))]
    if len(found) > MOST_PRINCIPLES:
        lines.append((f"… {number(len(found) - MOST_PRINCIPLES)} more, in signal.json", {}))
    return _figures_table(f"{_title(part)}, by {word}", word.capitalize(), lines)


def _figures_table(caption: str, head: str, lines: Sequence[Line]) -> Table:
    """Return a table without the columns that no line has a figure for; an empty cell is not measured."""
    rows = [[name, *(cell(figures_) for cell in _COLUMNS.values())] for name, figures_ in lines]
    known = [place for place in range(1 + len(_COLUMNS)) if any(row[place] for row in rows)]
    names = [head, *_COLUMNS]
    shown = [[row[place] for place in known] for row in rows]
    return Table(caption, [names[place] for place in known], shown, "There is nothing to show.")


def _share(*path: str) -> Cell:
    return lambda found: with_interval(
        dig_number(found, *path, "share"), dig_numbers(found, *path, "interval"), percent
    )


def _mean(name: str) -> Cell:
    return lambda found: with_interval(dig_number(found, name, "mean"), dig_numbers(found, name, "interval"), nats)


def _program(found: Json) -> str:
    share, decided, pairs = _share("program")(found), dig_number(found, "program", "n"), dig_number(found, "n")
    of = f" of {number(decided)}" if decided is not None and decided != pairs else ""
    return share and f"{label(dig(found, 'program', 'program'))}: {share}{of}"


def _count(*path: str) -> Cell:
    return lambda found: with_interval(dig_number(found, *path), [], number)


def _outcomes(found: Json) -> str:
    counts = [_count("judge", "outcomes", name)(found) for name in ("inconsistent", "tie", "invalid")]
    return ", ".join(counts) if all(counts) else ""


_COLUMNS: dict[str, Cell] = {
    "Chosen for queries": _count("chosen"),
    "Pairs": _count("n"),
    "Kept": _share("passed"),
    "By program": _program,
    "Strict": _share("judge", "strict"),
    "Debiased": _share("judge", "debiased"),
    "Inconsistent, tie, invalid": _outcomes,
    "On-policyness": _mean("onpolicyness"),
    "Steering margin, nats per token": _mean("steering_margin"),
}


def _candidates_tables(part: Json) -> list[Table]:
    """Return a table for each program or judge that the free scores are compared with."""
    groups: dict[str, list[Json]] = {}
    for row in dig_rows(part, "candidates"):
        groups.setdefault(label(row.get("truth")), []).append(row)
    if not groups:
        why = "neither a program nor a judge says which pairs are right, so no score can be compared with it."
        return [Table("", [], [], f"{_title(part)}: {why}")]
    shares = [f"Best\N{NO-BREAK SPACE}{share}\N{NARROW NO-BREAK SPACE}%" for share in (25, 50, 75, 100)]
    head = ["Score", "Pairs", "Wrong", "AUC", *shares, "As a judge", "Verdict"]
    caption = f"{_title(part)}: share right when only the best by a free score are kept, by "
    return [Table(caption + truth, head, [_candidate(row) for row in rows]) for truth, rows in groups.items()]


def _candidate(row: Json) -> list[str]:
    kept = [dig_number(one, "accuracy") for one in dig_rows(row, "kept")] or [None] * 4
    found = dig_dict(row, "calibration")
    auc = with_interval(dig_number(found, "auc"), dig_numbers(found, "auc_interval"), lambda value: number(value, 2))
    return [
        label(row.get("score")),
        *(maybe(dig_number(row, name), number) for name in ("n", "wrong")),
        auc.replace(" to ", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}"),
        *(maybe(value, percent) for value in kept),
        maybe(dig_number(found, "accuracy_as_judge"), percent),
        label(row.get("worth"), 200).partition(":")[0],
    ]


def _title(part: Any) -> str:
    text = label(part.get("label"))
    return text[:1].upper() + text[1:]
