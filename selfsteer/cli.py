"""The command line: the subcommands in the order of the story. Importing this needs neither torch nor pydantic."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from selfsteer.commands.augment import augment
from selfsteer.commands.compare import compare
from selfsteer.commands.console import explain_failure, handled_signals, interruptible, say, show_warning
from selfsteer.commands.estimate import estimate
from selfsteer.commands.evaluate_data import evaluate_data
from selfsteer.commands.evaluate_judge import evaluate_judge
from selfsteer.commands.evaluate_model import evaluate_model
from selfsteer.commands.evaluate_reward import evaluate_reward
from selfsteer.commands.evaluate_signal import evaluate_signal
from selfsteer.commands.export import export
from selfsteer.commands.filter import filter_rows
from selfsteer.commands.judge import judge
from selfsteer.commands.models import models_fetch, models_list, models_merge
from selfsteer.commands.options import from_options
from selfsteer.commands.parsing import CommandGroup, RecipeCommand
from selfsteer.commands.principles import principles_list, principles_show
from selfsteer.commands.principles_check import principles_check
from selfsteer.commands.principles_invent import principles_invent
from selfsteer.commands.recipes import recipes_list, recipes_schema, recipes_show
from selfsteer.commands.report import report
from selfsteer.commands.reproduce import reproduce
from selfsteer.commands.reward import train_rewards
from selfsteer.commands.run import generate, run
from selfsteer.commands.score import score
from selfsteer.commands.sweep import sweep
from selfsteer.commands.train import train
from selfsteer.version import __version__

STORY: dict[str, Callable[..., Any]] = {
    "run": run,
    "augment": augment,
    "generate": generate,
    "sweep": sweep,
    "reproduce": reproduce,
    "train": train,
    "estimate": estimate,
    "filter": filter_rows,
    "reward": train_rewards,
    "score": score,
    "report": report,
    "judge": judge,
    "export": export,
    "evaluate signal": evaluate_signal,
    "evaluate reward": evaluate_reward,
    "evaluate judge": evaluate_judge,
    "evaluate model": evaluate_model,
    "evaluate data": evaluate_data,
    "compare": compare,
    "recipes list": recipes_list,
    "recipes show": recipes_show,
    "recipes schema": recipes_schema,
    "models list": models_list,
    "models fetch": models_fetch,
    "models merge": models_merge,
    "principles list": principles_list,
    "principles show": principles_show,
    "principles check": principles_check,
    "principles invent": principles_invent,
}
"""The commands by name, in the order of `selfsteer --help`. A new one is its file in commands/ and a line here."""

OF_RECIPES = ("run", "generate", "estimate", "reproduce")
"""Those whose settings are a recipe's, and may be given as options too."""

GROUPS = {
    "evaluate": "Measure models and the results of a run.",
    "models": "The model catalogue, and merging adapters.",
    "principles": "Principle sets.",
    "recipes": "The shipped recipes, and the schema of recipe files.",
}


def _app() -> typer.Typer:
    app = typer.Typer(
        help="Align a chat model with no human labels, by Self-Steering Optimization (arXiv 2410.17131).",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        cls=CommandGroup,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_main)
    groups = {"": app}
    for name, summary in GROUPS.items():
        groups[name] = typer.Typer(help=summary, no_args_is_help=True, cls=CommandGroup)
        app.add_typer(groups[name], name=name)
    for name, command in STORY.items():
        group, _, own = name.rpartition(" ")
        kind = RecipeCommand if name in OF_RECIPES else None
        groups[group].command(own, cls=kind)(interruptible()(from_options(command)))
    return app


def _show_version(asked: bool) -> None:
    if asked:
        say(f"selfsteer {__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app = _app()


def main() -> None:
    """Run the command line; every failure is one message and its exit code."""
    # torch reads this at its first allocation. Tensors in huge pages cost far fewer page faults on CPU, which on some
    # virtual machines take longer than the arithmetic (docs/decisions.md has the figures).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    warnings.showwarning = show_warning
    with handled_signals():
        try:
            app(prog_name="selfsteer")
        except Exception as error:  # noqa: BLE001 - no traceback reaches a terminal
            sys.exit(explain_failure(error))


if __name__ == "__main__":
    main()
