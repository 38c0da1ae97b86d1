"""`selfsteer report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfsteer.commands.console import say


def report(run_dir: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Write a run's report.html again from its run directory."""
    from selfsteer.report import write_report

    say(str(write_report(run_dir)))
