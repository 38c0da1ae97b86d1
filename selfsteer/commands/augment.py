"""What `selfsteer augment` does and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfsteer.config import growth_from
from selfsteer.experimental.augment import Grown
from selfsteer.experimental.augment import augment as grow
from selfsteer.runs.progress import Display


def augment(
    overrides: Sequence[str],
    output: Path,
    run_dir: Path | None,
    *,
    count: int,
    overwrite: bool,
    quiet: bool,
    out: Console,
) -> Grown:
    """Grow a query set and print what came of it.

    Args:
        overrides: Settings of :class:`selfsteer.config.Growth` as "key=value".
        output: The file to write.
        run_dir: Where answers and dropped queries are kept; None takes a folder beside the output.
        count: How many new queries are wanted.
        overwrite: Replace an output that was not written here.
        quiet: Print nothing.
        out: Where the tables go.
    """
    folder = run_dir or output.with_name(f"{output.name}.run")
    display = Display(quiet=quiet)
    found = grow(growth_from(overrides), output, folder, count=count, overwrite=overwrite, display=display)
    if not quiet:
        show(found, output, folder, out)
    return found


def show(found: Grown, output: Path, folder: Path, out: Console) -> None:
    """Print what became of the answers and of the queries in them."""
    unused = f"; not used: {_listed(found.unused_seeds)}" if found.unused_seeds else ""
    kept = "any language" if found.languages is None else f"languages kept: {', '.join(found.languages)}"
    _say(out, f"{found.seeds} seeds{unused}; {kept}")
    _say(out, f"{found.requests} requests in {found.rounds} rounds; answers: {_listed(found.outcomes)}")
    table = Table("new queries", "count", "share", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.columns[1].justify = table.columns[2].justify = "right"
    total = found.kept + sum(found.dropped.values())
    counts = {"kept": found.kept, **dict(sorted(found.dropped.items(), key=lambda item: (-item[1], item[0])))}
    for name, count in counts.items():
        label = name if name == "kept" else f"dropped: {name}"
        table.add_row(Text(label), str(count), f"{count / total:.0%}" if total else "-")
    out.print(table)
    _say(out, f"kept by operation: {_listed(found.operations)}")
    _say(out, f"written  {output}\ndropped  {folder / 'dropped.jsonl'}")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def _say(out: Console, text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)
