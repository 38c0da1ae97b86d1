"""The tables of `selfsteer evaluate signal`: each part of the data, its aspects, and the candidate scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.tables import dig, plain_table
from selfsteer.confidence_intervals import share_text
from selfsteer.workflows.evaluate_signal import Signal

_NAME = 44
Figures = Mapping[str, Any]
Cell = Callable[[Figures], str]


def show_signal(found: Signal, run_dir: Path) -> None:
    """Print the figures of a signal: each part, its aspects, the candidate scores, and what is unknown."""
    parts = found["parts"]
    out.print(_figures_table("rows", [line for part in parts for line in _lines(part, part["label"])]))
    for part in parts:
        for kind in ("aspect", "principle"):
            groups = [line for group in part[f"{kind}s"] for line in _lines(group, _short(group["name"]))]
            out.print(_figures_table(f"{part['label']}, by {kind}", groups))
    programs = {name for part in parts if (name := dig(part, "before", "program", "program"))}
    named = f" The program: {', '.join(sorted(programs))}." if programs else ""
    say(f"Shares and means with 95 % intervals, the margin in nats per token; a tie counts as wrong.{named}")
    if found["judge"]:
        _show_judge(found["judge"]["name"], parts)
    by_truth: dict[str, list[Figures]] = {}
    for part in parts:
        for one in part["candidates"]:
            by_truth.setdefault(f"{part['label']}, against {one['truth']}", []).append(one)
    for title, candidates in by_truth.items():
        out.print()
        shares = ", ".join(f"{100 * kept['share']:.0f}" for kept in max((one["kept"] for one in candidates), key=len))
        right = f"right in the best {shares} %" if shares else "right"
        table = plain_table(title, right, "as a judge", "is it worth filtering by?")
        for one in candidates:
            kept = ", ".join(f"{100 * kept['accuracy']:.0f}" for kept in one["kept"])
            as_judge = f"{one['calibration']['accuracy_as_judge']:.0%}" if one["calibration"] else "-"
            left_out = ", ".join(f"{count} {reason}" for reason, count in one["left_out"].items() if count)
            counts = [f"{one['wrong']} wrong"] if one["calibration"] else []
            counts += [f"left out: {left_out}"] if left_out else []
            worth = one["worth"] + (f" ({', '.join(counts)})" if counts else "")
            table.add_row(*map(Text, (one["score"], f"{kept} %" if kept else "-", as_judge, worth)))
        out.print(table)
    for text, style in [*((note, "") for note in found["notes"]), *((text, "yellow") for text in found["warnings"])]:
        out.print(Text(text, style=style), soft_wrap=True)
    files = [run_dir / name for name in ("signal.json", "report.html") if (run_dir / name).is_file()]
    say(f"written  {', '.join(map(str, files))}")


def _short(name: str) -> str:
    """Return the beginning of a principle, which tells its aspect."""
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _show_judge(name: str, parts: Sequence[Figures]) -> None:
    """Print how the judge's two answers on each pair went together, and how often it agrees with the program."""
    for part in parts:
        found, check = dig(part, "before", "judge"), part["judge_check"]
        if found:
            counts = ", ".join(f"{count} {outcome}" for outcome, count in found["outcomes"].items())
            line = f"strict, debiased: {name}; {part['label']}, {found['n']} pairs: {counts}"
            if check:
                share = share_text(check["share"], check["interval"])
                line += f"; agrees with the program in {share} of {check['n']}"
            say(line)


def _lines(figures: Figures, name: str) -> list[tuple[str, Figures]]:
    """Return the lines of a table: before the filters and, where they have run, of the rows that they kept."""
    counts = {key: figures[key] for key in ("chosen", "passed") if figures.get(key) is not None}
    if "before" not in figures:
        return [(name, figures)]  # too small a group for figures
    if figures["kept"] is None:
        return [(name, figures["before"] | counts)]
    return [(name, figures["before"] | counts), (f"{name}, kept", figures["kept"])]


def _counted(*path: str) -> Cell:
    def cell(figures: Figures) -> str:
        found = dig(figures, *path)
        return share_text(found["share"], found["interval"]).replace(" (", "\n(") if found else "-"

    return cell


def _mean(name: str, form: str) -> Cell:
    def cell(figures: Figures) -> str:
        found = figures.get(name)
        if not found:
            return "-"
        low, high = found["interval"]
        to = " to " if low < 0 or "+" in form else "-"
        return f"{found['mean']:{form}}\n({low:{form}}{to}{high:{form}})"

    return cell


def _program(figures: Figures) -> str:
    n = dig(figures, "program", "n")
    return _counted("program")(figures) + (f"\nof {n}" if n and n < figures["n"] else "")


_COLUMNS: dict[str, Cell] = {
    "chosen": lambda figures: "-" if figures.get("chosen") is None else str(figures["chosen"]),
    "n": lambda figures: str(figures["n"]),
    "kept": _counted("passed"),
    "by program": _program,
    "strict": _counted("judge", "strict"),
    "debiased": _counted("judge", "debiased"),
    "on-policyness": _mean("onpolicyness", ".2f"),
    "steering margin": _mean("steering_margin", "+.2f"),
}


def _figures_table(title: str, lines: Sequence[tuple[str, Figures]]) -> Table:
    """Return a table with the columns that hold a figure in some row."""
    rows = [[name, *(cell(figures) for cell in _COLUMNS.values())] for name, figures in lines]
    known = [place for place in range(1 + len(_COLUMNS)) if any(row[place] != "-" for row in rows)]
    head = [title, *_COLUMNS]
    table = plain_table(*(head[place] for place in known))
    for row in rows:
        table.add_row(*(Text(row[place]) for place in known))  # names are the user's: no markup in them
    return table
