"""What `selfsteer evaluate signal` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from selfsteer.errors import ConfigError, did_you_mean
from selfsteer.judges.tables import percent
from selfsteer.workflows.evaluate_signal import Signal, evaluate_signal

_SPLITS = ("train", "heldout")
_NAME = 44
Figures = Mapping[str, Any]
Cell = Callable[[Figures], str]


def signal(
    run_dir: Path, overrides: Mapping[str, Any], *, split: str, limit: int | None, out: Console, errors: Console
) -> Signal:
    """Evaluate a run's signal and print what was found.

    Raises:
        ConfigError: There is no such split, or a setting is wrong.
    """
    if split not in _SPLITS:
        raise ConfigError(f"unknown split {split!r}", where="--split", do=did_you_mean(split, _SPLITS))
    with Progress(console=errors, transient=True) as bar:
        task = bar.add_task("reading", total=None)
        found = evaluate_signal(
            run_dir,
            overrides=overrides,
            split="train" if split == "train" else "heldout",
            limit=limit,
            progress=lambda name, done, total: bar.update(task, description=name, completed=done, total=total),
        )
    show(found, run_dir, out)
    return found


def show(found: Signal, run_dir: Path, out: Console) -> None:
    """Print the figures of a signal: each part, its aspects, the candidate scores, and what is not known."""
    parts = found["parts"]
    out.print(_figures_table("rows", [line for part in parts for line in _lines(part, part["label"])]))
    for part in parts:
        for kind in ("aspect", "principle"):
            groups = [line for group in part[f"{kind}s"] for line in _lines(group, _short(group["name"]))]
            out.print(_figures_table(f"{part['label']}, by {kind}", groups))
    programs = {told for part in parts if (told := _dig(part, "before", "program", "program"))}
    named = f" The program: {', '.join(sorted(programs))}." if programs else ""
    legend = "Shares and means with 95 % intervals, the margin in nats per token; a tie counts as not right."
    out.print(legend + named, markup=False, soft_wrap=True)
    if found["judge"]:
        _show_judge(found["judge"]["name"], parts, out)
    for title, candidates in _by_truth(parts).items():
        out.print()
        out.print(_candidates_table(title, candidates))
    for text, style in [*((note, "") for note in found["notes"]), *((text, "yellow") for text in found["warnings"])]:
        out.print(Text(text, style=style), soft_wrap=True)
    files = [run_dir / name for name in ("signal.json", "report.html") if (run_dir / name).is_file()]
    out.print(f"written  {', '.join(map(str, files))}", markup=False, soft_wrap=True)


def _short(name: str) -> str:
    """Return the beginning of a principle, which says whose aspect it is."""
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _show_judge(name: str, parts: Sequence[Figures], out: Console) -> None:
    """Name the judge, and say how its two answers on each pair went together."""
    for part in parts:
        found = _dig(part, "before", "judge")
        if found:
            counts = ", ".join(f"{count} {outcome}" for outcome, count in found["outcomes"].items())
            check = part["judge_check"]
            told = (
                f"; says what the program says in {percent(check['share'], check['interval'])} of {check['n']}"
                if check
                else ""
            )
            line = f"strict, debiased: {name}; {part['label']}, {found['n']} pairs: {counts}{told}"
            out.print(Text(line), soft_wrap=True)


def _by_truth(parts: Sequence[Figures]) -> dict[str, list[Figures]]:
    """Return the candidates by what they are compared with, for a table each."""
    groups: dict[str, list[Figures]] = {}
    for part in parts:
        for one in part["candidates"]:
            groups.setdefault(f"{part['label']}, against {one['truth']}", []).append(one)
    return groups


def _lines(figures: Figures, name: str) -> list[tuple[str, Figures]]:
    """Return the lines of a table: before the filters and, where they have run, of what they kept."""
    told = {key: figures[key] for key in ("chosen", "passed") if figures.get(key) is not None}
    if "before" not in figures:
        return [(name, figures)]  # too small a group for figures
    if figures["kept"] is None:
        return [(name, figures["before"] | told)]
    return [(name, figures["before"] | told), (f"{name}, kept", figures["kept"])]


def _counted(*path: str) -> Cell:
    def cell(figures: Figures) -> str:
        found = _dig(figures, *path)
        return percent(found["share"], found["interval"]).replace(" (", "\n(") if found else "-"

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
    told = _dig(figures, "program", "n")
    return _counted("program")(figures) + (f"\nof {told}" if told and told < figures["n"] else "")


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
    """Return a table with the columns of which something is known."""
    rows = [[name, *(cell(figures) for cell in _COLUMNS.values())] for name, figures in lines]
    known = [place for place in range(1 + len(_COLUMNS)) if any(row[place] != "-" for row in rows)]
    head = [title, *_COLUMNS]
    table = Table(*(head[place] for place in known), box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*(Text(row[place]) for place in known))  # names are the user's: no markup in them
    return table


def _candidates_table(title: str, candidates: Sequence[Figures]) -> Table:
    shares = ", ".join(f"{100 * kept['share']:.0f}" for kept in max((one["kept"] for one in candidates), key=len))
    head = [title, f"right in the best {shares} %" if shares else "right", "as a judge", "is it worth filtering by?"]
    table = Table(*head, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for one in candidates:
        kept = ", ".join(f"{100 * kept['accuracy']:.0f}" for kept in one["kept"])
        as_judge = f"{one['calibration']['accuracy_as_judge']:.0%}" if one["calibration"] else "-"
        table.add_row(*map(Text, (one["score"], f"{kept} %" if kept else "-", as_judge, worth_of(one))))
    return table


def worth_of(candidate: Figures) -> str:
    """Return the sentence on a score's worth, with how many pairs are wrong and how many took no part."""
    left = [f"{count} {reason}" for reason, count in candidate["left_out"].items() if count]
    wrong = [f"{candidate['wrong']} wrong"] if candidate["calibration"] else []
    told = ", ".join([*wrong, *(["left out: " + ", ".join(left)] if left else [])])
    return f"{candidate['worth']}{f' ({told})' if told else ''}"


def _dig(figures: Figures, *path: str) -> Any:
    value: Any = figures
    for name in path:
        value = value.get(name) if value else None
    return value
