"""`selfsteer reward`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column
from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.options import DryRun, Quiet, RunDir


@dataclass(frozen=True)
class RewardArguments:
    """The options of `selfsteer reward`."""

    recipe: Annotated[str, typer.Argument(help="A reward recipe, or the name of a shipped one.")]
    overrides: Annotated[
        list[str], typer.Argument(help="Settings, e.g. sets.annotated.source=FILE options.learning_rate=1e-5.")
    ] = field(default_factory=list)
    run_dir: RunDir = None
    dry_run: DryRun = False
    quiet: Quiet = False


def train_rewards(arguments: RewardArguments) -> None:
    """Train reward models on preference pairs, self-made or annotated, and compare them. The same command resumes."""
    from selfsteer.commands.dry_run import show_steps
    from selfsteer.commands.tables import plain_table
    from selfsteer.reward.recipe import load_reward_recipe
    from selfsteer.runs.progress import Display
    from selfsteer.workflows.reward import planned_rewards, reward
    from selfsteer.workflows.reward_results import NOTES, accuracy_table

    recipe = load_reward_recipe(arguments.recipe, arguments.overrides)
    folder = arguments.run_dir or Path("runs") / recipe.name
    if arguments.dry_run:
        show_steps(planned_rewards(recipe, folder))
        return
    named = [] if arguments.run_dir is None else ["--run-dir", str(arguments.run_dir)]
    command = shlex.join(["selfsteer", "reward", arguments.recipe, *arguments.overrides, *named])
    results = reward(recipe, folder, display=Display(quiet=arguments.quiet), command=command)
    if arguments.quiet:
        return
    head, rows = accuracy_table(results)
    if rows:
        out.print(plain_table(*(Column(Text(name), overflow="fold") for name in head), rows=rows))
        say(NOTES)
    say(f"{folder / 'results.md'}, {folder / 'models'}")
