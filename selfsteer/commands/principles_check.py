"""What `selfsteer principles check` does and prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfsteer.config import Recipe, recipe_from
from selfsteer.errors import ConfigError
from selfsteer.evaluation.steerability import WORDS, AspectProbe, Direction, Margin, Probe
from selfsteer.files import fingerprint
from selfsteer.judges.tables import percent
from selfsteer.models import cache_folder
from selfsteer.runs.progress import Display
from selfsteer.sanitize import escape_controls
from selfsteer.workflows.principles_check import probe

_SHOWN = 160
_STYLE = {"steers": "bold green", "below chance": "bold red", "unclear": "bold yellow", "unknown": "bold yellow"}
_DEFAULTS: dict[str, Any] = {
    "mode": "data-only",  # nothing is trained, so every backend serves
    "generation": {"max_new_tokens": 96, "batch_size": 24},
    "train": {"max_length": 1024},
}
_SECTIONS = ("model.", "generation.", "judge.")
_ACTING = {
    "model", "judge", "seed", "principles.set", "principles.steering", "queries", "queries.source", "queries.field",
    "queries.dataset_split", "queries.limit", "evaluation.direction", "quality.clean", "train.max_length",
    "train.precision",
}  # fmt: skip
"""Settings of a run that trials along single aspects go by: no filters, no training."""


def check(
    name: str, model: str, overrides: Sequence[str], *, pairs: int, folder: Path | None, out: Console, examples: int
) -> Probe:
    """Probe a set with a model and print what was found.

    Args:
        name: A shipped set or a YAML file.
        model: A catalogue name, a folder or a hub name.
        overrides: Further settings, as a run takes them ("judge=...", "queries=...", "generation.temperature=...").
        pairs: About how many pairs to make.
        folder: Where everything goes; None takes one in the cache folder, named by what is probed.
        out: Where the tables go.
        examples: How many aspects to show a pair of.
    """
    recipe = trial_recipe("probe", [f"model={model}", f"principles.set={name}", *overrides])
    found = probe(recipe, folder or _own_folder(recipe, pairs), pairs=pairs, display=Display())
    show(found, recipe, out, examples)
    return found


def trial_recipe(name: str, overrides: Sequence[str]) -> Recipe:
    """Return the recipe of trials along single aspects, with ``key=value`` overrides.

    Raises:
        ConfigError: A setting is wrong, or is one that trials don't go by.
    """
    keys = [override.partition("=")[0].strip() for override in overrides]
    # A judge is asked about the row's only aspect unless told otherwise.
    by = ["judge.by=aspects"] if {"judge", "judge.name"} & set(keys) and "judge.by" not in keys else []
    recipe = recipe_from({"name": name, **_DEFAULTS}, [*overrides, *by])
    for key in keys:
        if key not in _ACTING and not key.startswith(_SECTIONS):
            known = ", ".join([*(f"{section}*" for section in _SECTIONS), *sorted(_ACTING)])
            what = f"{key} has no effect here: principles are tried out without filters and without training"
            raise ConfigError(what, where="command line", do=f"leave it out; these act: {known}")
    return recipe


def show(found: Probe, recipe: Recipe, out: Console, examples: int) -> None:
    """Print the figures of each aspect, some pairs, and the verdict."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("aspect", "pairs", "margin,\nnats/token", "y+ is better", "told by", "verdict"):
        table.add_column(column)
    for aspect in found.aspects:
        table.add_row(*map(Text, (aspect.aspect, str(aspect.n), *cells(aspect.margin, aspect.direction))))
    table.add_section()
    table.add_row(*map(Text, ("all", str(found.n), *cells(found.margin, found.direction))))
    out.print(table)
    for aspect in found.aspects[:examples]:
        _show_example(aspect, out)
    out.print(f"[{_STYLE[found.standing]}]{_headline(found)}[/] ", end="")
    out.print(_advice(found, recipe), markup=False, soft_wrap=True)


def cells(margin: Margin | None, direction: Direction | None) -> list[str]:
    """Return what a table says of margin and direction: margin, share of the right pairs, who says it, verdict."""
    told = f"{margin.mean:+.3f}\n({margin.interval[0]:+.3f} to {margin.interval[1]:+.3f})" if margin else "-"
    if direction is None:
        return [told, "-", "-", WORDS["unknown"]]
    share = percent(direction.accuracy, direction.interval).replace(" (", "\n(") + f" of {direction.n}"
    share += f",\n{direction.tied} tied" if direction.tied else ""
    return [told, share, direction.by, WORDS[direction.standing]]


def _show_example(aspect: AspectProbe, out: Console) -> None:
    if aspect.example is None:
        return
    out.print(f"[bold]{aspect.aspect}[/]")
    for label, text in (
        ("x ", aspect.example.query),
        ("y+", aspect.example.positive_response),
        ("y-", aspect.example.negative_response),
    ):
        short = " ".join(escape_controls(text).split())
        out.print(f"  {label}  {short[:_SHOWN]}{'...' if len(short) > _SHOWN else ''}", markup=False, soft_wrap=True)


def _headline(found: Probe) -> str:
    if found.refused:
        return "Not with this set." if found.standing == "below chance" else "No sign that it can be steered."
    return {"steers": "It can be steered.", "unknown": "Direction unknown."}.get(found.standing, "Unclear.")


def _advice(found: Probe, recipe: Recipe) -> str:
    matters = "" if found.margin is None or found.margin.matters else " The prompts do not even change its answers."
    if found.direction is None:
        return (
            "No program can tell which answer is better, and no judge is named: the margin shows that the prompts "
            "matter, not that they steer the right way. Name a judge with --judge." + matters
        )
    share = f"{percent(found.direction.accuracy, found.direction.interval)} of {found.direction.n} pairs"
    if found.direction.n < found.n:
        matters += f" About the other {found.n - found.direction.n} nobody here can tell: name a judge with --judge."
    if found.refused:
        return (
            f"y+ is better in {share}, which is below chance: `selfsteer run` refuses this model with "
            f"this set unless principles.below_chance=warn. Try the set 'brief', or a larger model.{matters}"
        )
    if found.standing == "steers":
        return f"y+ is better in {share}.{matters}"
    return f"y+ is better in {share}; more pairs (--pairs) would tell.{matters}"


def _own_folder(recipe: Recipe, pairs: int) -> Path:
    """A folder for this probe alone, so that probes of other models and sets lie beside it."""
    return cache_folder() / "probes" / fingerprint([recipe.model.model_dump(), recipe.principles.set, pairs])
