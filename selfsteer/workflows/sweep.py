"""A sweep: variants of one recipe as sibling runs that take finished stages from each other, and one table of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsteer.errors import SelfsteerError, WorkFailed
from selfsteer.files import storage_errors
from selfsteer.loop.dry_run import plan
from selfsteer.loop.guards import stopped
from selfsteer.loop.run import check, open_stages
from selfsteer.loop.run import run as run_variant
from selfsteer.report.sweep import sweep_record, write_sweep
from selfsteer.runs.active import active_records
from selfsteer.runs.ledger import Ledger
from selfsteer.runs.plan_step import PlanStep
from selfsteer.runs.progress import Display
from selfsteer.runs.store import StageKey, locked
from selfsteer.version import __version__
from selfsteer.workflows.sweep_variants import Sweep, Variant, naming


@dataclass(frozen=True)
class Result:
    """What came of a variant.

    Attributes:
        variant: Which.
        summary: As of a run; None where it failed before there was one.
        error: Why it failed, or which guard ended it; None where it is done.
    """

    variant: Variant
    summary: dict[str, Any] | None
    error: SelfsteerError | None

    @property
    def outcome(self) -> str:
        """ "done", "stopped" (by a guard; there are figures) or "failed"."""
        if self.error is None:
            return "done"
        return "failed" if self.summary is None else "stopped"


def sweep(
    wanted: Sweep, folder: Path, *, display: Callable[[], Display] = lambda: Display(quiet=True), command: str = ""
) -> dict[str, Any]:
    """Do whatever of a sweep is not done yet in ``folder``, and return what its table shows: the record in sweep.json.

    Each variant is a run of its own in ``folder``/NAME. A stage that another one has done, by the ledger's key, is
    taken from there. A variant that fails stands in the table with the reason, and the others go on;
    :func:`failed` makes an error of the record.

    Args:
        wanted: What to do.
        folder: Where everything goes.
        display: Opens a display, one a variant.
        command: What the pages say made them.

    Raises:
        InputError: A variant's recipe, queries, principle set or model can't be used; nothing was begun.
        WorkFailed: Another process works in the folder, or it can't be written to.
    """
    check_all(wanted, folder, display().say)
    with storage_errors(folder), locked(folder, "sweep's folder"):
        results = [_run(variant, folder, display(), command, place) for place, variant in _placed(wanted)]
        record = _record(wanted, folder, results, command)
        write_sweep(folder, record)
    return record


def failed(record: Mapping[str, Any], folder: Path) -> WorkFailed | None:
    """Return the error that a sweep's record amounts to; None where every variant is done."""
    names = [run["name"] for run in record["runs"] if run["outcome"] != "done"]
    if not names:
        return None
    what = f"{len(names)} of {len(record['runs'])} variants are not done: {', '.join(names)}"
    do = "their reasons stand under the table; mend the sweep or the recipe and run the same command again"
    return WorkFailed(what, where=str(folder / "sweep.md"), do=do)


def check_all(wanted: Sweep, folder: Path, say: Callable[[str], None] = lambda text: None) -> dict[str, list[PlanStep]]:
    """Return each variant's plan, given what those before it will have done; checks what can be checked beforehand.

    Raises:
        InputError: A variant can't be run as it is.
    """
    claims: dict[StageKey, str] = {}
    plans = {}
    for variant in wanted.variants:
        with naming(variant.name):
            stages = open_stages(variant.recipe, folder / variant.name, Display(quiet=True), sweep_dir=folder)
            check(stages)
            plans[variant.name] = plan(stages, measure=True, say=say, claims=claims)
        claim(claims, plans[variant.name], variant.name)
    return plans


def claim(claims: dict[StageKey, str], steps: list[PlanStep], name: str) -> None:
    """Note the stages that a variant will have done, for the plans of those behind it."""
    for step in steps:
        if step.key:
            claims.setdefault(step.claim, name)


def _placed(wanted: Sweep) -> list[tuple[str, Variant]]:
    count = len(wanted.variants)
    return [(f"{place} of {count}", variant) for place, variant in enumerate(wanted.variants, start=1)]


def _run(variant: Variant, folder: Path, display: Display, command: str, place: str) -> Result:
    run_dir = folder / variant.name
    display.say(f"variant {variant.name} ({place})")
    try:
        summary = run_variant(variant.recipe, run_dir, display=display, command=command, sweep_dir=folder)
    except SelfsteerError as error:
        display.say(f"      {variant.name} failed: {error.what}; the others go on")
        return Result(variant, None, error)
    return Result(variant, summary, stopped(summary, run_dir))


def _record(wanted: Sweep, folder: Path, results: list[Result], command: str) -> dict[str, Any]:
    about = {"name": wanted.name, "recipe": wanted.recipe, "version": __version__, "command": command}
    runs = [
        {
            "name": one.variant.name,
            "variant": one.variant.group,
            "seed": one.variant.recipe.seed,
            "settings": one.variant.settings,
            "outcome": one.outcome,
            "reason": f"{one.error.what} ({one.error.where})" if one.error else "",
            "stages": _stages(folder / one.variant.name),
            "summary": one.summary,
        }
        for one in results
    ]
    return sweep_record(about, runs)


def _stages(run_dir: Path) -> dict[str, Any]:
    """Return how many stages of a run are in force, and how many of them were taken from which sibling."""
    entries = list(active_records(Ledger(run_dir).entries()).values())
    taken = Counter(entry.taken_from for entry in entries if entry.taken_from)
    return {"total": len(entries), "taken": sum(taken.values()), "from": dict(taken)}
