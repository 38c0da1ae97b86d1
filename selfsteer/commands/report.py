"""`selfsteer report`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from selfsteer.commands.console import say
from selfsteer.errors import ConfigError


@dataclass(frozen=True)
class ReportArguments:
    """The options of `selfsteer report`."""

    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A run directory, or several to compare on one page.")
    ]
    output: Annotated[
        Path | None,
        typer.Option(
            help="The page that compares several runs.", show_default="comparison.html beside the first run directory"
        ),
    ] = None


def report(arguments: ReportArguments) -> None:
    """Write a run's report.html again from its run directory; of several runs, a page that compares them.

    Raises:
        ConfigError: ``--output`` is given for one run, which has a place for its page, or a run is named twice.
    """
    from selfsteer.report import write_report
    from selfsteer.report.several import write_runs_report

    first, *others = arguments.run_dirs
    if not others:
        if arguments.output:
            what, do = "the page of one run is the report.html in its directory", "leave --output out"
            raise ConfigError(what, where="--output", do=do)
        say(str(write_report(first)))
        return
    target = arguments.output or first.resolve().parent / "comparison.html"
    named = ["--output", str(arguments.output)] if arguments.output else []
    command = shlex.join(["selfsteer", "report", *map(str, arguments.run_dirs), *named])
    say(str(write_runs_report(arguments.run_dirs, target, command)))
