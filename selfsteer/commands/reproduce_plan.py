"""`selfsteer reproduce --dry-run`: the runs of a table, with what is done of each, or what it would cost elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.dry_run import total_time
from selfsteer.commands.tables import plain_table
from selfsteer.runs.plan_step import StepState
from selfsteer.runs.progress import Display, size

if TYPE_CHECKING:
    from selfsteer.commands.reproduce import PlanningArguments
    from selfsteer.workflows.reproduce_plan import TablePlan


def show_states(plan: TablePlan, runs: Path) -> None:
    """Print how many stages of each run are done, to do, or shared with another run."""
    from selfsteer.workflows.reproduce import runnable
    from selfsteer.workflows.sweep import check_all
    from selfsteer.workflows.sweep_variants import Sweep

    plan = runnable(plan, runs)
    plans = check_all(Sweep(plan.paper.name, plan.paper.table.recipe, plan.variants), runs, runs_code=False)
    table = plain_table(
        "model", "run", "stages", "done", "shared", "to do", right=("stages", "done", "shared", "to do")
    )
    for row in plan.rows:
        counts = ("-", "-", "-", "-")
        if row.done_by == row.name and not row.why:
            states = [step.state for _, steps in [plans[row.done_by]] for step in steps]
            done, shared = states.count(StepState.DONE), states.count(StepState.SHARED)
            counts = (f"{len(states)}", f"{done}", f"{shared}", f"{len(states) - done - shared}")
        note = "" if row.done_by in ("", row.name) else f" (as {row.done_by})"
        table.add_row(Text(row.model), Text(f"{row.label}{note}"), *counts)
    out.print(table)
    for row in plan.rows:
        if row.why:
            say(f"not run: {row.model}, {row.label}: {row.why}")


def show_costs(plan: TablePlan, planning: PlanningArguments) -> None:
    """Print time, disk and fit of each run on other GPUs; nothing is asked of a hub."""
    from selfsteer.config.loading import read_recipe
    from selfsteer.errors import SelfsteerError
    from selfsteer.estimate.costs import Sizes
    from selfsteer.estimate.fit import launch_of_recipe, needs
    from selfsteer.estimate.forecast import costs_of, disk_needed, precisions, start_of
    from selfsteer.estimate.throughput import assumed_sample
    from selfsteer.loop.dry_run import plan as plan_of
    from selfsteer.loop.run import open_stages
    from selfsteer.models.gpus import gpu_of, planning_for

    gpu, count = gpu_of(str(planning.gpu)), planning.count or 1
    queries, tokens = planning.queries or 60_000, planning.response_tokens or 400
    kept = planning.kept or (0.95 if plan.paper.table.recipe == "sso-v2" else 0.05)
    table = plain_table("model", "run", "time", "peak disk", "largest need of a GPU", right=("time", "peak disk"))
    times, disks = [], 0.0
    with planning_for(gpu, count):
        for variant in plan.variants:
            row = next(row for row in plan.rows if row.name == variant.name)
            # The real source has to be fetched to be counted; the shipped queries have prompts of like length.
            local = {"queries.source": "builtin:quickstart", "queries.dataset_split": "train", "queries.field": None}
            if variant.recipe.principles.model.kind == "local":
                local |= {"principles.model.name": f"endpoint:{variant.recipe.principles.model.name}"}
            recipe = read_recipe(variant.recipe, local)
            heldout = recipe.queries.heldout if isinstance(recipe.queries.heldout, int) else 0
            if recipe.preferences.source:
                table.add_row(Text(row.model), Text(row.label), "?", "?", "its pairs have to be fetched to be counted")
                continue
            try:
                stages = open_stages(recipe, Path("/dev/null"), Display(quiet=True), runs_code=False)
                sample = assumed_sample(tokens, kept)
                costs = costs_of(stages, Sizes(queries - heldout, heldout), sample)
                steps = plan_of(stages, measure=True, start=start_of(stages.models))
                every = [costs.of(step.slot[0], heldout=step.slot[2]) for step in steps]
                launch = launch_of_recipe(recipe, stages.models.device)
                fits = needs(costs, launch, precisions(stages.models), gpu)
            except SelfsteerError as error:
                table.add_row(Text(row.model), Text(row.label), "?", "?", Text(f"not estimated: {error.what}"))
                continue
            most = max(fits, key=lambda need: need.bytes)
            wrong = next((need for need in fits if need.do), None)
            fit = f"{wrong.what} does not fit: {wrong.do}" if wrong else f"{size(most.bytes)} ({most.what}), fits"
            needed = disk_needed(costs, steps)
            times += every
            disks = max(disks, needed)
            table.add_row(Text(row.model), Text(row.label), total_time(every), size(needed), Text(fit))
    table.add_section()
    table.add_row("all", "", total_time(times), size(disks), "")
    out.print(table)
    say(
        f"{count} x {gpu.title}, {queries:,} queries, responses of {tokens} "
        f"tokens, {kept:.0%} of the rows kept; times are guesses from the GPU's published figures, stages that runs "
        "share count in each, and benchmarks and reward models are not included"
    )
