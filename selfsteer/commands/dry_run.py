"""`--dry-run`: the stages of a run, done or to do and why, with their time and disk space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from selfsteer.commands.console import out, say, warn
from selfsteer.commands.tables import plain_table
from selfsteer.config import Recipe
from selfsteer.estimate.costs import Cost, Costs, Sizes
from selfsteer.estimate.forecast import costs_of, disk_needed, free_disk, knowing, start_of
from selfsteer.estimate.prompt_lengths import sizes_of
from selfsteer.estimate.throughput import machine
from selfsteer.loop.dry_run import plan
from selfsteer.loop.run import check, open_stages
from selfsteer.models.gpus import assumed_gpus
from selfsteer.runs.plan_step import PlanStep, StepState
from selfsteer.runs.progress import Display, clock, size
from selfsteer.stages.context import RunContext
from selfsteer.stages.model_pool import ModelPool

_STYLE = {
    StepState.DONE: "green",
    StepState.SHARED: "cyan",
    StepState.TODO: "",
    StepState.REDO: "yellow",
    StepState.AFTER: "dim",
}
_SYMBOLS = {"positive": "y+", "negative": "y-", "original": "yo"}


def dry_run(recipe: Recipe, run_dir: Path, *, measure: bool) -> list[PlanStep]:
    """Print what a run would do, and why; nothing is written. Raises what the run would raise, where that is known."""
    stages = open_stages(recipe, run_dir, Display(quiet=True), runs_code=False)
    check(stages)
    start_of(stages.models)  # raises where the model would have to be fetched
    steps = plan(stages, measure=measure)
    show_plan(stages, steps, measure=measure)
    return steps


def show_plan(context: RunContext, steps: Sequence[PlanStep], *, measure: bool) -> None:
    """Print the stages of a run with their states, time and disk space."""
    recipe = context.recipe
    known = next((step.entry.info for step in steps if step.slot[0] == "queries" and step.entry), None)
    sizes = Sizes(known["train"], known["heldout"] if measure else 0) if known else sizes_of(recipe.queries)
    costs = knowing(costs_of(context, sizes), steps)
    table = plain_table("stage", "", "time", "disk", "why", right=("time", "disk"))
    for step in steps:
        one = costs.of(step.slot[0], heldout=step.slot[2])
        cells = (time_text(one.seconds), size(one.disk)) if step.todo else ("-", "-")
        table.add_row(step.title, Text(step.state, _STYLE[step.state]), *cells, Text(step.why))
    table.add_section()
    todo = [costs.of(step.slot[0], heldout=step.slot[2]) for step in steps if step.todo]
    table.add_row(f"{len(todo)} to do", "", total_time(todo), size(sum(one.disk for one in todo)))
    out.print(table)
    show_disk(costs, steps, context.store.run_dir)
    show_assumptions(costs, context.models)


def show_steps(steps: Sequence[PlanStep]) -> None:
    """Print the stages with their states, without costs."""
    table = plain_table("stage", "", "why")
    for step in steps:
        table.add_row(Text(step.title), Text(step.state, _STYLE[step.state]), Text(step.why))
    table.add_section()
    table.add_row(f"{sum(step.todo for step in steps)} to do", "", "")
    out.print(table)


def show_disk(costs: Costs, steps: Sequence[PlanStep], folder: Path) -> None:
    """Print the largest disk space in use at any time of the run, and what is free in the folder."""
    needed, free = disk_needed(costs, steps), free_disk(folder)
    passing = max((costs.of(step.slot[0], heldout=step.slot[2]).passing for step in steps), default=0.0)
    checkpoints = f" with the checkpoints ({size(passing)}, removed after each round)" if passing else ""
    there = "" if assumed_gpus() else f"; {size(free)} are free"
    say(f"peak disk use {size(needed)}{checkpoints}{there}")


def show_assumptions(costs: Costs, models: ModelPool) -> None:
    """Print what the figures are computed from; guesses are warnings."""
    sample, limit = costs.sample, costs.recipe.generation.max_new_tokens
    lengths = ", ".join(f"{symbol} {costs.responses[role]:.0f}" for role, symbol in _SYMBOLS.items())
    say(
        f"for {costs.sizes.train:,} queries a round and {costs.sizes.heldout:,} held out; prompts of "
        f"{costs.prompts.plain:.0f} / {costs.prompts.positive:.0f} / {costs.prompts.negative:.0f} tokens (x, x+, x-); "
        f"responses of {lengths} tokens; {costs.kept(costs.sizes.train) / costs.sizes.train:.0%} of the rows kept"
    )
    if costs.rates and not costs.rates.measured:
        what = f"times are guesses for {machine(models.device)}"
        how = "from its published figures" if assumed_gpus() else "--calibrate measures it (one to three minutes)"
        warn(f"{what}: {how}")
    if costs.shape and not sample.rows and (not sample.ends or sample.kept == 1):
        length = "" if sample.ends else f"every response for {limit} tokens long"
        kept = "every row for kept" if sample.kept == 1 else ""
        warn(f"nothing was sampled, so the figures take {' and '.join(filter(None, (length, kept)))}")
    if costs.shape and sample.rows and not sample.kept:
        what = f"none of the {sample.rows} rows sampled was kept"
        if sample.kept is None:
            what = f"the responses sampled were cut off before {limit} tokens"
        warn(f"{what}, so the figures take every row for kept")


def total_time(costs: Sequence[Cost]) -> str:
    """Return the sum of the times, "at least ..." where one is unknown."""
    known = [one.seconds for one in costs if one.seconds is not None]
    return ("" if len(known) == len(costs) else "at least ") + clock(sum(known))


def time_text(seconds: float | None) -> str:
    """Return a time in words, "?" where it is unknown."""
    return "?" if seconds is None else clock(seconds)
