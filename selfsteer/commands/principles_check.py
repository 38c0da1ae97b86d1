"""`selfsteer principles check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.options import count_option
from selfsteer.errors import ConfigError

if TYPE_CHECKING:
    from selfsteer.config import Recipe
    from selfsteer.evaluation.steerability import Direction, Example, Margin, Probe

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
"""Settings of a run that act on trials along single aspects, which have no filters and no training."""


@dataclass(frozen=True)
class CheckArguments:
    """The options of `selfsteer principles check`."""

    name: Annotated[str, typer.Argument(help="A shipped set or the path of a YAML file.")]
    overrides: Annotated[
        list[str], typer.Argument(help="Settings, e.g. queries=my.jsonl generation.max_new_tokens=128.")
    ] = field(default_factory=list)
    model: Annotated[str, typer.Option("--model", help="The chat model to steer.")] = "smollm2-135m"
    judge: Annotated[str | None, typer.Option("--judge", help="Judge that decides which answer is better.")] = None
    pairs: Annotated[int, count_option(help="About how many pairs to make.")] = 32
    examples: Annotated[int, count_option(least=0, help="Number of aspects to show an example pair of.")] = 3
    run_dir: Annotated[
        Path | None, typer.Option(help="Directory for all files of the check.", show_default="in the cache folder")
    ] = None


def principles_check(arguments: CheckArguments) -> Probe:
    """Test whether a set can steer a model at all: steer along each aspect alone and compare the answers."""
    from selfsteer.commands.tables import plain_table
    from selfsteer.files import fingerprint
    from selfsteer.models import cache_folder
    from selfsteer.runs.progress import Display
    from selfsteer.workflows.principles_check import probe

    named = [f"model={arguments.model}", f"principles.set={arguments.name}", *arguments.overrides]
    judge = [f"judge.name={arguments.judge}"] if arguments.judge else []
    recipe = trial_recipe("probe", [*named, *judge])
    # A folder for this probe alone, so that probes of other models and sets are kept beside it.
    own = fingerprint([recipe.model.model_dump(), recipe.principles.set, arguments.pairs])
    folder = arguments.run_dir or cache_folder() / "probes" / own
    found = probe(recipe, folder, pairs=arguments.pairs, display=Display())
    columns = ("aspect", "pairs", "margin,\nnats/token", "y+ is better", "by", "verdict")
    rows = ((aspect.aspect, str(aspect.n), *cells(aspect.margin, aspect.direction)) for aspect in found.aspects)
    table = plain_table(*columns, rows=rows)
    table.add_section()
    table.add_row(*map(Text, ("all", str(found.n), *cells(found.margin, found.direction))))
    out.print(table)
    for aspect in found.aspects[: arguments.examples]:
        if aspect.example is not None:
            _show_example(aspect.aspect, aspect.example)
    headline = {"steers": "It can be steered.", "unknown": "Direction unknown."}.get(found.standing, "Unclear.")
    if found.refused:
        headline = "Not with this set." if found.standing == "below chance" else "No sign that it can be steered."
    say(f" {_advice(found)}", mark=headline, style=_STYLE[found.standing])
    return found


def trial_recipe(name: str, overrides: Sequence[str]) -> Recipe:
    """Return the recipe of trials along single aspects; ConfigError for a setting that has no effect on them."""
    from selfsteer.config import Recipe, from_values

    keys = [override.partition("=")[0].strip() for override in overrides]
    # A judge is asked about the row's only aspect unless the settings say otherwise.
    by = ["judge.by=aspects"] if {"judge", "judge.name"} & set(keys) and "judge.by" not in keys else []
    recipe = from_values(Recipe, {"name": name, **_DEFAULTS}, [*overrides, *by])
    for key in keys:
        if key not in _ACTING and not key.startswith(_SECTIONS):
            known = ", ".join([*(f"{section}*" for section in _SECTIONS), *sorted(_ACTING)])
            what = f"{key} has no effect here: principles are tried out without filters and without training"
            raise ConfigError(what, where="command line", do=f"leave it out; these act: {known}")
    return recipe


def cells(margin: Margin | None, direction: Direction | None) -> list[str]:
    """Return the cells of margin and direction: margin, share of right pairs, program or judge, verdict."""
    from selfsteer.confidence_intervals import share_text
    from selfsteer.evaluation.steerability import WORDS

    shown = f"{margin.mean:+.3f}\n({margin.interval[0]:+.3f} to {margin.interval[1]:+.3f})" if margin else "-"
    if direction is None:
        return [shown, "-", "-", WORDS["unknown"]]
    share = share_text(direction.accuracy, direction.interval).replace(" (", "\n(") + f" of {direction.n}"
    share += f",\n{direction.tied} tied" if direction.tied else ""
    return [shown, share, direction.by, WORDS[direction.standing]]


def _show_example(aspect: str, example: Example) -> None:
    from selfsteer.sanitize import escape_controls

    out.print(Text(aspect, style="bold"))
    for label, text in (("x ", example.query), ("y+", example.positive_response), ("y-", example.negative_response)):
        short = " ".join(escape_controls(text).split())
        say(f"  {label}  {short[:_SHOWN]}{'...' if len(short) > _SHOWN else ''}")


def _advice(found: Probe) -> str:
    from selfsteer.confidence_intervals import share_text

    matters = "" if found.margin is None or found.margin.matters else " The prompts do not even change its answers."
    if found.direction is None:
        return (
            "No program can decide which answer is better, and no judge is named: the margin shows that the prompts "
            "matter, not that they steer the right way. Name a judge with --judge." + matters
        )
    share = f"{share_text(found.direction.accuracy, found.direction.interval)} of {found.direction.n} pairs"
    if found.direction.n < found.n:
        matters += f" No program decides the other {found.n - found.direction.n}: name a judge with --judge."
    if found.refused:
        return (
            f"y+ is better in {share}, which is below chance: `selfsteer run` refuses this model with "
            f"this set unless principles.below_chance=warn. Try the set 'brief', or a larger model.{matters}"
        )
    if found.standing == "steers":
        return f"y+ is better in {share}.{matters}"
    return f"y+ is better in {share}; more pairs (--pairs) would decide.{matters}"
