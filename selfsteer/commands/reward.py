"""What `selfsteer reward` does and prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from selfsteer.commands.tables import STYLE, plain_table
from selfsteer.reward.recipe import load_reward_recipe
from selfsteer.runs.plan_step import PlanStep
from selfsteer.runs.progress import Display
from selfsteer.workflows.reward import planned_rewards, reward
from selfsteer.workflows.reward_results import NOTES, table


def train_rewards(
    recipe: str,
    overrides: Sequence[str],
    run_dir: Path | None,
    *,
    only_plan: bool = False,
    quiet: bool,
    command: str,
    out: Console,
) -> None:
    """Train the reward models of a recipe, score them, and print the table; or show what would be done.

    Args:
        recipe: A file, or the name of a shipped one.
        overrides: "key=value".
        run_dir: Where everything goes; None is runs/NAME.
        only_plan: Do nothing, say which stages are done, to do or redone.
        quiet: Say nothing but errors.
        command: As it was given, for the record.
        out: Where the table goes.

    Raises:
        InputError, WorkFailed: As :func:`selfsteer.workflows.reward.reward`.
    """
    settings = load_reward_recipe(recipe, overrides)
    folder = run_dir or Path("runs") / settings.name
    if only_plan:
        _show_plan(planned_rewards(settings, folder), out)
        return
    results = reward(settings, folder, display=Display(quiet=quiet), command=command)
    if not quiet:
        shown = table(results)
        if shown is not None:
            out.print(shown)
            out.print(NOTES, soft_wrap=True)
        out.print(f"{folder / 'results.md'}, {folder / 'models'}", markup=False, soft_wrap=True)


def _show_plan(steps: Sequence[PlanStep], out: Console) -> None:
    shown = plain_table("stage", "", "why")
    for step in steps:
        shown.add_row(Text(step.title), Text(step.state, STYLE[step.state]), Text(step.why))
    shown.add_section()
    shown.add_row(f"{sum(step.todo for step in steps)} to do", "", "")
    out.print(shown)
