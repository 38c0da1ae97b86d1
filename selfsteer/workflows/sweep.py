"""A sweep: variants of one recipe as sibling runs that take finished stages from each other, and one table of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from selfsteer.errors import SelfsteerError, WorkFailed
from selfsteer.files import storage_errors
from selfsteer.loop.dry_run import plan
from selfsteer.loop.guards import stopped
from selfsteer.loop.run import check, open_stages
from selfsteer.report.sweep import sweep_record, write_sweep
from selfsteer.runs.active import active_records
from selfsteer.runs.ledger import Ledger, check_place
from selfsteer.runs.plan_step import PlanStep
from selfsteer.runs.progress import Display
from selfsteer.runs.store import StageKey, locked
from selfsteer.stages.context import RunContext
from selfsteer.version import __version__
from selfsteer.workflows.benchmarked_run import run as run_variant
from selfsteer.workflows.sweep_variants import Sweep, Variant, naming


def sweep(
    wanted: Sweep, folder: Path, *, display: Callable[[], Display] = lambda: Display(quiet=True), command: str = ""
) -> dict[str, Any]:
    """Run each variant of a sweep in ``folder``/NAME, write the sweep's table, and return its record (sweep.json).

    Finished stages are reused; a stage that a sibling has finished under the same key is taken from there. If a variant
    fails, the others still run, and the record has the reason; :func:`failed` turns the record into an error.

    Args:
        display: Opens a display for each variant.

    Raises:
        InputError: A variant's recipe, queries, principle set or model can't be used; nothing was started.
        WorkFailed: Another process works in the folder, or it can't be written to.
    """
    check_all(wanted, folder, display().say)
    with storage_errors(folder), locked(folder, "sweep's folder"):
        runs = []
        for place, variant in enumerate(wanted.variants, start=1):
            screen = display()
            screen.say(f"variant {variant.name} ({place} of {len(wanted.variants)})")
            runs.append(_run(variant, folder, screen, command))
        about = {"name": wanted.name, "recipe": wanted.recipe, "version": __version__, "command": command}
        record = sweep_record(about, runs)
        write_sweep(folder, record)
    return record


def _run(variant: Variant, folder: Path, display: Display, command: str) -> dict[str, Any]:
    """Run a variant and return its part of the record; the outcome is "done", "stopped" (by a guard) or "failed"."""
    run_dir, summary = folder / variant.name, None
    try:
        summary = run_variant(variant.recipe, run_dir, display=display, command=command, sweep_dir=folder)
        error: SelfsteerError | None = stopped(summary, run_dir)
    except SelfsteerError as failure:
        display.say(f"      {variant.name} failed: {failure.what}; continuing with the other variants")
        error = failure
    records = list(active_records(Ledger(run_dir).entries()).values())
    taken = Counter(record.taken_from for record in records if record.taken_from)
    return {
        "name": variant.name,
        "variant": variant.group,
        "seed": variant.recipe.seed,
        "settings": variant.settings,
        "outcome": "done" if error is None else "failed" if summary is None else "stopped",
        "reason": f"{error.what} ({error.where})" if error else "",
        "stages": {"total": len(records), "taken": sum(taken.values()), "from": dict(taken)},
        "summary": summary,
    }


def failed(record: Mapping[str, Any], folder: Path) -> WorkFailed | None:
    """Return the error for a sweep's record; None where every variant is done."""
    names = [run["name"] for run in record["runs"] if run["outcome"] != "done"]
    if not names:
        return None
    what = f"{len(names)} of {len(record['runs'])} variants are not done: {', '.join(names)}"
    do = "the reasons are listed under the table; fix the sweep or the recipe and run the same command again"
    return WorkFailed(what, where=str(folder / "sweep.md"), do=do)


def check_all(
    wanted: Sweep, folder: Path, say: Callable[[str], None] = lambda text: None, *, runs_code: bool = True
) -> dict[str, tuple[RunContext, list[PlanStep]]]:
    """Return each variant's plan, given the stages of those before it; InputError for one that can't be run."""
    check_place(folder, "sweep")
    claims: dict[StageKey, str] = {}
    plans = {}
    for variant in wanted.variants:
        with naming(variant.name):
            place = folder / variant.name
            stages = open_stages(variant.recipe, place, Display(quiet=True), sweep_dir=folder, runs_code=runs_code)
            check(stages)
            steps = plan(stages, measure=True, say=say, claims=claims)
        for step in steps:
            if step.key:
                claims.setdefault(step.claim, variant.name)
        plans[variant.name] = stages, steps
    return plans
