"""`selfsteer reproduce`: a table of the paper with own runs and benchmarks, beside the published figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selfsteer.config import JudgeSettings
from selfsteer.config.paper import Paper
from selfsteer.errors import ConfigError, SelfsteerError
from selfsteer.evaluation.benchmarks.compare import compare
from selfsteer.evaluation.benchmarks.read_results import ModelResult, read_results
from selfsteer.files import atomic_path, storage_errors, write_atomic, write_json
from selfsteer.runs.progress import Display
from selfsteer.runs.store import locked
from selfsteer.workflows.benchmarked_run import evaluate_policy
from selfsteer.workflows.compare import comparison_json
from selfsteer.workflows.evaluate_model import ReadySuite, SuiteOptions, prepare_suite
from selfsteer.workflows.evaluate_signal import evaluate_signal
from selfsteer.workflows.reproduce_plan import Row, TablePlan
from selfsteer.workflows.reproduce_results import Cell, as_markdown, record_of
from selfsteer.workflows.reproduce_reward import reward_rows
from selfsteer.workflows.sweep import check_all, sweep
from selfsteer.workflows.sweep_variants import Sweep


@dataclass(frozen=True)
class ReproduceOptions:
    """How a table is filled.

    Attributes:
        folder: Of its runs, evaluations and results.
        judge: Of the benchmarks and signals that need one; None if none is given.
        data_dir: Folder of the benchmarks' data; None takes the downloaded ones.
        limit: Size of a sample of each benchmark in place of the scale's; None for the scale's.
        seed: Of that sample.
        suite: Benchmarks in place of the table's; None for the table's.
        preferences: A source of annotated pairs in place of the table's.
        labelled: Labelled pairs that reward models are scored on, in place of the table's.
        command: As it was typed.
    """

    folder: Path
    judge: JudgeSettings | None = None
    data_dir: Path | None = None
    limit: int | None = None
    seed: int = 0
    suite: list[str] | None = None
    preferences: str | None = None
    labelled: list[str] = field(default_factory=list)
    command: str = ""


def reproduce(
    plan: TablePlan, options: ReproduceOptions, display: Callable[[], Display] = lambda: Display(quiet=True)
) -> dict[str, Any]:
    """Do all runs of a table, evaluate their policies and return the table, which is also written.

    What can't be run is left out and says why. Finished stages, answers and judgements are reused, so the same command
    continues an interrupted one.

    Raises:
        ConfigError: No row of the table can be run.
        WorkFailed: Another process works in the folder, or it can't be written to.
    """
    folder, say = options.folder, display().say
    with storage_errors(folder), locked(folder, "folder of a table"):
        plan = runnable(plan, folder / "runs")
        if all(row.why for row in plan.rows):
            reasons = "\n".join(f"  - {row.name}: {row.why}" for row in plan.rows)
            raise ConfigError(f"no row of the table can be run:\n{reasons}", where=plan.paper.name)
        suite, lacking = _suite(plan.paper, options, say)
        if plan.variants:
            recipe = plan.paper.table.recipe
            wanted = Sweep(plan.paper.name, recipe, plan.variants)
            swept = sweep(wanted, folder / "runs", display=display, command=options.command)
            plan = _with_failures(plan, swept, folder / "runs")
        cells, results = _evaluated(plan, suite, options, say)
        rewards = reward_rows(plan, folder, options.preferences, options.labelled, display)
        record = record_of(plan, cells, rewards, lacking, options.command)
        record["comparison"] = _comparison(results, folder)
        write_json(folder / "table.json", record)
        write_atomic(folder / "table.md", as_markdown(record))
    return record


def runnable(plan: TablePlan, runs: Path) -> TablePlan:
    """Return a plan whose rows that can't be run say why, and without their runs."""
    why: dict[str, str] = {}
    for variant in plan.variants:
        try:
            check_all(Sweep(plan.paper.name, plan.paper.table.recipe, [variant]), runs, runs_code=False)
        except SelfsteerError as error:
            what = error.what.removeprefix(f"variant {variant.name!r}: ")
            why[variant.name] = f"{what} ({error.where})" if error.where else what
    rows = [replace(row, why=why.get(row.done_by, row.why)) for row in plan.rows]
    return TablePlan(plan.paper, rows, [one for one in plan.variants if one.name not in why])


def _with_failures(plan: TablePlan, record: Mapping[str, Any], runs: Path) -> TablePlan:
    why = {one["name"]: one["reason"] for one in record["runs"] if not (runs / one["name"] / "policy").exists()}
    return replace(plan, rows=[replace(row, why=why.get(row.done_by, row.why)) for row in plan.rows])


def _suite(
    paper: Paper, options: ReproduceOptions, say: Callable[[str], None]
) -> tuple[ReadySuite | None, dict[str, str]]:
    """Return the benchmarks that can be run, and why the others can't."""
    scale = paper.scale
    wanted = options.suite or list(dict.fromkeys([*paper.table.benchmarks, *scale.extra]))
    settings = SuiteOptions(
        "", options.data_dir, options.judge, options.limit or scale.limit, options.seed, options.folder / "evaluation"
    )
    ready, lacking = list[str](), dict[str, str]()
    for name in wanted:
        if options.suite is None and scale.only is not None and name not in (*scale.only, *scale.extra):
            lacking[name] = f"left out at scale {paper.scale_name}; --suite names the benchmarks to run"
            continue
        try:
            prepare_suite(replace(settings, suite=name))
            ready.append(name)
        except SelfsteerError as error:
            lacking[name] = " ".join(error.what.split())
            say(f"not run: {name}: {lacking[name]}")
    return prepare_suite(replace(settings, suite=",".join(ready))) if ready else None, lacking


def _evaluated(
    plan: TablePlan, suite: ReadySuite | None, options: ReproduceOptions, say: Callable[[str], None]
) -> tuple[dict[str, dict[str, Cell]], list[ModelResult]]:
    """Return by row the figures by source ("gsm8k.flexible_extract"), and the results; equal rows count once."""
    found: dict[str, dict[str, Cell]] = {}
    known: dict[tuple[str, str, str], dict[str, Cell]] = {}
    results = list[ModelResult]()
    sources = plan.paper.table.columns.values()
    for row in plan.rows:
        if row.why or row.recipe is None:
            continue
        key = (row.done_by, "" if row.done_by else row.recipe.model.name, row.system_prompt)
        if key not in known:
            known[key] = {}
            if suite:
                say(f"evaluating {row.name}")
                results += _benchmarked(row, suite, options.folder / "runs")
                known[key] |= _cells(results[-1])
            if row.done_by and any(source.startswith("signal.") for source in sources):
                known[key] |= _signal(options.folder / "runs" / row.done_by, options)
        found[row.name] = known[key]
    return found, results


def _benchmarked(row: Row, suite: ReadySuite, runs: Path) -> list[ModelResult]:
    assert row.recipe is not None
    name, revision = row.recipe.model.name, row.recipe.model.revision
    if row.done_by:
        name, revision = str(runs / row.done_by / "policy"), None
    display = Display(quiet=True)
    return read_results([evaluate_policy(row.name, name, revision, row.recipe, suite, display, row.system_prompt)])


def _cells(result: ModelResult) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    for benchmark, one in result.benchmarks.items():
        for metric, figure in one.metrics.items():
            cells[f"{benchmark}.{metric}"] = Cell(figure.value, figure.low, figure.high, one.scored, one.expected)
        mean = one.length.get("mean")
        if mean is not None:
            cells[f"{benchmark}.length"] = Cell(mean, None, None, one.scored, one.expected)
    return cells


def _signal(run_dir: Path, options: ReproduceOptions) -> dict[str, Cell]:
    """Return accuracy and on-policyness of the pairs of a run's last round, before its filters."""
    judge = {} if options.judge is None else options.judge.model_dump(exclude_defaults=True)
    part = evaluate_signal(run_dir, overrides=judge, limit=options.limit)["parts"][-1]["before"]
    cells: dict[str, Cell] = {}
    onpolicy, verdicts = part["onpolicyness"], (part["judge"] or {}).get("strict") or part["program"]
    if onpolicy:
        cells["signal.onpolicyness"] = _share(onpolicy["mean"], onpolicy["interval"], part["n"])
    if verdicts:
        cells["signal.accuracy"] = _share(verdicts["share"], verdicts["interval"], part["n"])
    return cells


def _share(value: float, interval: tuple[float, float], n: int) -> Cell:
    return Cell(value, interval[0], interval[1], n, n)


def _comparison(results: list[ModelResult], folder: Path) -> dict[str, Any] | None:
    """Compare all results with the first one, item by item, and draw that; None where there is only one."""
    from selfsteer.report.figures.benchmarks import write_picture

    if len(results) < 2:
        return None
    comparison = comparison_json(compare(results))
    with atomic_path(folder / "comparison.png") as temporary:
        write_picture(comparison, temporary)
    return comparison
