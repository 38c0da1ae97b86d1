"""What `selfsteer reward` does and prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from selfsteer.loop.display import Display
from selfsteer.loop.reward import reward
from selfsteer.loop.reward_results import NOTES, Results, table
from selfsteer.reward.recipe import load_reward_recipe


def train_rewards(
    recipe: str, overrides: Sequence[str], run_dir: Path | None, *, quiet: bool, command: str, out: Console
) -> Results:
    """Train the reward models of a recipe, score them, and print the table.

    Args:
        recipe: A file, or the name of a shipped one.
        overrides: "key=value".
        run_dir: Where everything goes; None is runs/NAME.
        quiet: Say nothing but errors.
        command: As it was given, for the record.
        out: Where the table goes.

    Raises:
        InputError, WorkFailed: As :func:`selfsteer.loop.reward.reward`.
    """
    settings = load_reward_recipe(recipe, overrides)
    folder = run_dir or Path("runs") / settings.name
    results = reward(settings, folder, display=Display(quiet=quiet), command=command)
    if not quiet:
        shown = table(results)
        if shown is not None:
            out.print(shown)
            out.print(NOTES, soft_wrap=True)
        out.print(f"{folder / 'results.md'}, {folder / 'models'}", markup=False, soft_wrap=True)
    return results
