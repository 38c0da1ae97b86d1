"""`selfsteer run` and `selfsteer generate`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import typer

from selfsteer.commands.options import DryRun, Quiet, RunDir


@dataclass(frozen=True)
class RunArguments:
    """The options of `selfsteer run` and of `selfsteer generate`."""

    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")]
    overrides: Annotated[list[str], typer.Argument(help="Settings, e.g. queries=my.jsonl model=./my-model.")] = field(
        default_factory=list
    )
    run_dir: RunDir = None
    dry_run: DryRun = False
    quiet: Quiet = False


def run(arguments: RunArguments) -> None:
    """Run a whole recipe, from queries to the report. Interrupted runs resume: run the same command again."""
    _run_recipe("run", arguments)


def generate(arguments: RunArguments) -> None:
    """Make the preference data of a recipe and stop there. Interrupted runs resume: run the same command again."""
    _run_recipe("generate", arguments)


def _run_recipe(action: Literal["run", "generate"], arguments: RunArguments) -> None:
    from selfsteer import loop
    from selfsteer.commands.dry_run import dry_run
    from selfsteer.commands.run_summary import show, show_data
    from selfsteer.config import load_recipe
    from selfsteer.jobs.ranks import node_rank
    from selfsteer.loop.guards import stopped
    from selfsteer.runs.progress import Display
    from selfsteer.workflows import benchmarked_run

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    run_dir = arguments.run_dir or Path("runs") / recipe.name
    if arguments.dry_run:
        dry_run(recipe, run_dir, measure=action == "run")
        return
    command = shlex.join(["selfsteer", action, arguments.recipe, *arguments.overrides, "--run-dir", str(run_dir)])
    do = benchmarked_run.run if action == "run" else loop.generate
    summary = do(recipe, run_dir, display=Display(quiet=arguments.quiet), command=command)
    if not arguments.quiet and not (recipe.train.nodes > 1 and node_rank()):  # node 0 shows it
        (show if action == "run" else show_data)(summary, run_dir)
    if error := stopped(summary, run_dir):
        raise error
