"""What `--dry-run` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from selfsteer.commands.tables import STYLE, plain_table
from selfsteer.config import Recipe
from selfsteer.estimate.costs import Cost, Costs, Sizes
from selfsteer.estimate.forecast import costs_of, disk_needed, free_disk, knowing, start_of
from selfsteer.estimate.memory import Tuning, tuning
from selfsteer.estimate.prompt_lengths import sizes_of
from selfsteer.estimate.throughput import machine
from selfsteer.loop.dry_run import plan
from selfsteer.loop.run import check, open_stages
from selfsteer.runs.plan_step import PlanStep
from selfsteer.runs.progress import Display, clock, size
from selfsteer.runs.store import StageKey
from selfsteer.stages.context import RunContext


def dry_run(
    recipe: Recipe,
    run_dir: Path,
    *,
    measure: bool,
    out: Console,
    errors: Console,
    sweep_dir: Path | None = None,
    claims: Mapping[StageKey, str] | None = None,
) -> list[PlanStep]:
    """Print what a run would do in a run directory, and why; writes nothing and loads no weights.

    Args:
        recipe: The recipe, as the run takes it.
        run_dir: It may be missing.
        measure: Whether the run measures on held-out queries.
        out: Where the plan goes.
        errors: Where warnings go.
        sweep_dir: Of a run in a sweep, the sweep's folder.
        claims: Of a run in a sweep, the stages that the runs before it will have done, with their names.

    Raises:
        InputError, WorkFailed: As the run would, where it can be told beforehand.
    """
    stages = open_stages(recipe, run_dir, Display(quiet=True), sweep_dir=sweep_dir)
    check(stages)
    start_of(stages.models)  # says so where the model would have to be fetched
    steps = plan(stages, measure=measure, claims=claims)
    known = next((step.entry.info for step in steps if step.slot[0] == "queries" and step.entry), None)
    sizes = Sizes(known["train"], known["heldout"] if measure else 0) if known else sizes_of(recipe.queries)
    costs = knowing(costs_of(stages, sizes), steps)
    _show_plan(costs, steps, run_dir, out)
    _show_grounds(costs, stages, out, errors)
    return steps


def _tunings(costs: Costs) -> list[Tuning]:
    """The four ways of tuning; the recipe's adapter, or the default one."""
    from selfsteer.config import LoraSettings

    assert costs.shape is not None
    lora = costs.recipe.train.lora or LoraSettings()
    return [
        tuning(costs.shape, None),
        *(tuning(costs.shape, lora, bits) for bits in (None, 8, 4)),
    ]


def _show_plan(costs: Costs, steps: Sequence[PlanStep], run_dir: Path, out: Console) -> None:
    table = plain_table("stage", "", "time", "disk", "why", right=("time", "disk"))
    for step in steps:
        one = costs.of(step.slot[0], heldout=step.slot[2])
        cells = (_time(one.seconds), size(one.disk)) if step.todo else ("-", "-")
        table.add_row(step.title, Text(step.state, STYLE[step.state]), *cells, Text(step.why))
    table.add_section()
    todo = [costs.of(step.slot[0], heldout=step.slot[2]) for step in steps if step.todo]
    table.add_row(f"{len(todo)} to do", "", _sum(todo), size(sum(one.disk for one in todo)))
    out.print(table)
    _show_disk(costs, steps, run_dir, out)


def _show_disk(costs: Costs, steps: Sequence[PlanStep], folder: Path, out: Console) -> None:
    needed, free = disk_needed(costs, steps), free_disk(folder)
    passing = max((costs.of(step.slot[0], heldout=step.slot[2]).passing for step in steps), default=0.0)
    with_them = f" with the checkpoints ({size(passing)}, removed after each round)" if passing else ""
    out.print(f"disk at its worst {size(needed)}{with_them}; {size(free)} are free", soft_wrap=True)


def _show_grounds(costs: Costs, stages: RunContext, out: Console, errors: Console) -> None:
    """Say what the figures stand on; what is a guess is a warning."""
    sample, limit = costs.sample, costs.recipe.generation.max_new_tokens
    lengths = ", ".join(f"{name} {costs.responses[role]:.0f}" for role, name in _SIGNS.items())
    out.print(
        f"for {costs.sizes.train:,} queries a round and {costs.sizes.heldout:,} held out; prompts of "
        f"{costs.prompts.plain:.0f} / {costs.prompts.positive:.0f} / {costs.prompts.negative:.0f} tokens (x, x+, x-); "
        f"responses of {lengths} tokens; {costs.kept / costs.sizes.train:.0%} of the rows kept",
        soft_wrap=True,
    )
    guesses = []
    if costs.rates and not costs.rates.measured:
        guesses.append(
            f"times are guesses for {machine(stages.models.device)}: --calibrate measures it (one to three minutes)"
        )
    if costs.shape and not sample.rows:
        guesses.append(f"nothing was sampled, so every response is taken for {limit} tokens and every row for kept")
    if costs.shape and sample.rows and not sample.kept:
        what = f"none of the {sample.rows} rows sampled was kept"
        if sample.kept is None:
            what = f"the responses sampled were cut off before {limit} tokens"
        guesses.append(f"{what}, so every row is taken for kept")
    for text in guesses:
        errors.print("[bold yellow]warning:[/] ", end="")
        errors.print(text, markup=False, soft_wrap=True)


_SIGNS = {"positive": "y+", "negative": "y-", "original": "yo"}


def _sum(costs: Sequence[Cost]) -> str:
    """The time of all, at least: what is not known adds nothing."""
    known = [one.seconds for one in costs if one.seconds is not None]
    return ("" if len(known) == len(costs) else "at least ") + _time(sum(known))


def _time(seconds: float | None) -> str:
    return "?" if seconds is None else clock(seconds)
