"""What `selfsteer sweep` does and prints."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from selfsteer.commands.dry_run import dry_run
from selfsteer.commands.tables import as_rich
from selfsteer.report.sweep import sweep_notes, sweep_table
from selfsteer.report.tables import turned
from selfsteer.runs.plan_step import StepState
from selfsteer.runs.progress import Display
from selfsteer.runs.store import StageKey
from selfsteer.workflows.sweep import check_all, claim, failed, sweep
from selfsteer.workflows.sweep_variants import Sweep, naming, read_sweep


def do_sweep(
    source: str,
    overrides: Sequence[str],
    folder: Path | None,
    *,
    only_plan: bool,
    quiet: bool,
    out: Console,
    errors: Console,
) -> None:
    """Run a sweep and show its table, or show what it would do.

    Args:
        source: A sweep file, or the name of a shipped one.
        overrides: Settings that act on every variant.
        folder: Where everything goes (default: runs/NAME).
        only_plan: Do nothing, say what is done, to do and shared.
        quiet: Say nothing but errors.
        out: Where tables go.
        errors: Where warnings go.

    Raises:
        InputError: The sweep or a variant's recipe is wrong; nothing was begun.
        WorkFailed: A variant is not done.
    """
    wanted = read_sweep(source, overrides)
    folder = folder or Path("runs") / wanted.name
    if only_plan:
        _show_plans(wanted, folder, out, errors)
        return
    command = shlex.join(["selfsteer", "sweep", source, *overrides, "--run-dir", str(folder)])
    record = sweep(wanted, folder, display=lambda: Display(quiet=quiet), command=command)
    if not quiet:
        _show(record, folder, out)
    error = failed(record, folder)
    if error:
        raise error


def _show_plans(wanted: Sweep, folder: Path, out: Console, errors: Console) -> None:
    check_all(wanted, folder)  # all of them before a table is shown
    claims: dict[StageKey, str] = {}
    shared = total = 0
    for variant in wanted.variants:
        out.print(f"\nvariant {variant.name}", markup=False)
        with naming(variant.name):
            steps = dry_run(
                variant.recipe,
                folder / variant.name,
                measure=True,
                out=out,
                errors=errors,
                sweep_dir=folder,
                claims=claims,
            )
        claim(claims, steps, variant.name)
        shared, total = shared + sum(step.state is StepState.SHARED for step in steps), total + len(steps)
    out.print(f"\n{shared} of {total} stages are shared with a sibling")


def _show(record: dict[str, Any], folder: Path, out: Console) -> None:
    table = sweep_table(record)
    # Few variants and many figures: they stand the other way round than on the page.
    out.print(as_rich(turned(table) if len(table.rows) < len(table.head) else table))
    for note in sweep_notes(record):
        out.print(note, markup=False, soft_wrap=True)
    out.print()
    for name, what in {"sweep.html": "page", "sweep.md": "table", "sweep.json": "data"}.items():
        out.print(f"{what:<8} {folder / name}", markup=False, soft_wrap=True)
