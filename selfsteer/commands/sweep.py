"""`selfsteer sweep`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from selfsteer.commands.console import out, say
from selfsteer.commands.options import Quiet, RunDir


@dataclass(frozen=True)
class SweepArguments:
    """The options of `selfsteer sweep`."""

    source: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a shipped one.")]
    overrides: Annotated[
        list[str], typer.Argument(help="Settings of every variant, e.g. queries.limit=8 model=./my-model.")
    ] = field(default_factory=list)
    run_dir: RunDir = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show which stages of each variant are done, to do or shared; run none.")
    ] = False
    quiet: Quiet = False


def sweep(arguments: SweepArguments) -> None:
    """Run variants of one recipe, computing shared stages once. Ends with one table of all variants."""
    from selfsteer.runs.progress import Display
    from selfsteer.workflows.sweep import failed
    from selfsteer.workflows.sweep import sweep as run_sweep
    from selfsteer.workflows.sweep_variants import read_sweep

    wanted = read_sweep(arguments.source, arguments.overrides)
    folder = arguments.run_dir or Path("runs") / wanted.name
    if arguments.dry_run:
        from selfsteer.commands.dry_run import show_plan
        from selfsteer.runs.plan_step import StepState
        from selfsteer.workflows.sweep import check_all
        from selfsteer.workflows.sweep_variants import naming

        shared = total = 0
        for name, (stages, steps) in check_all(wanted, folder, runs_code=False).items():
            say(f"\nvariant {name}")
            with naming(name):
                show_plan(stages, steps, measure=True)
            shared, total = shared + sum(step.state is StepState.SHARED for step in steps), total + len(steps)
        say(f"\n{shared} of {total} stages are shared with another variant")
        return
    command = shlex.join(["selfsteer", "sweep", arguments.source, *arguments.overrides, "--run-dir", str(folder)])
    record = run_sweep(wanted, folder, display=lambda: Display(quiet=arguments.quiet), command=command)
    if not arguments.quiet:
        from selfsteer.commands.tables import as_rich
        from selfsteer.report.sweep import sweep_notes, sweep_table
        from selfsteer.report.tables import turned

        table = sweep_table(record)
        # A terminal has room for few columns, so the longer side of the table goes down.
        out.print(as_rich(turned(table) if len(table.rows) < len(table.head) else table))
        for note in sweep_notes(record):
            say(note)
        out.print()
        for name, what in {"sweep.html": "page", "sweep.md": "table", "sweep.json": "data"}.items():
            say(f"{what:<8} {folder / name}")
    if error := failed(record, folder):
        raise error
