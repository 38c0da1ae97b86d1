"""`selfsteer train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from selfsteer.commands.console import say
from selfsteer.commands.options import Quiet


@dataclass(frozen=True)
class TrainArguments:
    """The options of `selfsteer train`."""

    job: Annotated[Path, typer.Argument(help="A training's *-job.json, or a run directory: its unfinished training.")]
    job_folder: Annotated[
        Path | None, typer.Option(hidden=True, help="Where `selfsteer run`, which started this, looks.")
    ] = None
    trust_recipe: Annotated[
        bool, typer.Option("--trust-recipe", help="Run Python code that comes with a model where the job says so.")
    ] = False
    quiet: Quiet = False


def train(arguments: TrainArguments) -> None:
    """Do one training of a run by hand, also under torchrun or accelerate launch. The same command resumes."""
    from selfsteer.jobs.ranks import is_main
    from selfsteer.runs.progress import Display
    from selfsteer.workflows.train import train, train_for

    if arguments.job_folder is not None:
        train_for(arguments.job, arguments.job_folder)
        return
    folder = train(arguments.job, Display(quiet=arguments.quiet or not is_main()), trusted=arguments.trust_recipe)
    if is_main() and not arguments.quiet:
        say(f"trained: {folder}; `selfsteer run` continues with it")
