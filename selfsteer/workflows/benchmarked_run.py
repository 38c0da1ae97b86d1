"""A run whose recipe names benchmarks: its first policy is evaluated before the rounds, the last one after them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from selfsteer.config import LocalModelSettings, Recipe
from selfsteer.errors import StorageError
from selfsteer.evaluation.benchmarks.compare import compare
from selfsteer.evaluation.benchmarks.evaluated_model import EvaluatedModel, ModelOptions
from selfsteer.evaluation.benchmarks.read_results import read_results
from selfsteer.files import is_inside, write_json
from selfsteer.jobs.ranks import node_rank
from selfsteer.loop.run import check, open_stages
from selfsteer.loop.run import run as run_stages
from selfsteer.report import write_report
from selfsteer.report.figures.benchmarks import change_text, digits_of, official
from selfsteer.runs.events import Callback
from selfsteer.runs.progress import Display
from selfsteer.runs.store import locked
from selfsteer.workflows.compare import comparison_json
from selfsteer.workflows.evaluate_model import ReadySuite, SuiteOptions, evaluate_model, prepare_suite


def run(
    recipe: Recipe,
    run_dir: Path,
    *,
    display: Display | None = None,
    command: str = "",
    callbacks: Sequence[Callback] = (),
    sweep_dir: Path | None = None,
) -> dict[str, Any]:
    """Run a recipe as :func:`selfsteer.loop.run.run` does, and its policies on the benchmarks of ``evaluation.suites``.

    Answers, judgements and results are in ``benchmarks/`` of the run directory, the comparison in ``benchmarks.json``
    and in the report. A second call asks nothing again, and an interrupted one repeats a batch at most. Where the
    guards rejected every round there is no policy to compare.

    Raises:
        ConfigError, DataError: As :func:`prepare_suite`, before anything is computed.
        StorageError: The folder of benchmarks leads out of the run directory.
    """
    shown = display or Display(quiet=True)
    go = partial(run_stages, recipe, run_dir, display=shown, command=command, callbacks=callbacks, sweep_dir=sweep_dir)
    # With several nodes, the first one evaluates.
    if not recipe.evaluation.suites or (recipe.train.nodes > 1 and node_rank()):
        return go()
    check(open_stages(recipe, run_dir, Display(quiet=True), sweep_dir=sweep_dir))
    folder = _own_folder(run_dir)
    with locked(folder, "folder of benchmarks"):
        suite = prepare_suite(_suite_options(recipe, folder))
        before = evaluate_policy("before", recipe.model.name, recipe.model.revision, recipe, suite, shown)
        summary = go()
        best = (summary["guards"] or {}).get("best")
        if not best:
            return summary
        after = evaluate_policy("after", str(run_dir / "policy"), None, recipe, suite, shown)
        comparison = _compared(run_dir, {"before": before, f"after round {best}": after})
        write_json(run_dir / "benchmarks.json", {"run": summary["created"], **comparison})
        for line in _changes(comparison):
            shown.say(f"benchmarks: {line}")
        write_report(run_dir)
    return summary


def _own_folder(run_dir: Path) -> Path:
    folder = run_dir / "benchmarks"
    for name in ("answers", "judgements", "results"):
        if not is_inside(run_dir, f"benchmarks/{name}"):  # a run directory may come from someone else
            do = "replace the symbolic link by a folder of its own"
            raise StorageError("this folder is outside of the run directory", where=str(folder / name), do=do)
    return folder


def _suite_options(recipe: Recipe, folder: Path) -> SuiteOptions:
    settings = recipe.evaluation
    data = Path(settings.data_dir) if settings.data_dir else None
    judge = recipe.judge if recipe.judge.name else None
    return SuiteOptions(",".join(settings.suites), data, judge, settings.limit, recipe.seed, folder)


def _compared(run_dir: Path, results: Mapping[str, Path]) -> dict[str, Any]:
    found = [
        replace(read_results([path])[0], label=name, source=str(path.relative_to(run_dir)))  # a run can be moved
        for name, path in results.items()
    ]
    return comparison_json(compare(found))


def _changes(comparison: Mapping[str, Any]) -> Iterator[str]:
    """Yield what has changed in each benchmark's official figure."""
    for one in comparison["benchmarks"]:
        metric, (old, new) = official(one)
        digits = digits_of(one)
        if old and new:
            values = f"{old['value']:.{digits}f} -> {new['value']:.{digits}f}"
            yield f"{one['title']}, {metric}: {values}, difference {change_text(new['change'], digits)}"


def evaluate_policy(
    what: str,
    name: str,
    revision: str | None,
    recipe: Recipe,
    suite: ReadySuite,
    display: Display,
    system_prompt: str = "",
) -> Path:
    """Evaluate a policy and return its result file, called by ``what``: a run may have the name of its model."""
    settings, generation = recipe.model, recipe.generation
    loading = LocalModelSettings(
        device=settings.device, precision=generation.precision, revision=revision,
        trust_remote_code=settings.trust_remote_code, chat_template_kwargs=settings.chat_template_kwargs,
    )  # fmt: skip
    backend = "vllm" if generation.backend == "vllm" else "transformers"
    options = ModelOptions(backend, loading, batch_size=generation.batch_size, system_prompt=system_prompt)
    model = EvaluatedModel(name, options)
    model.name = model.about["name"] = what
    said: set[str] = set()

    def progress(title: str, done: int, total: int) -> None:
        if title not in said:
            said.add(title)
            display.say(f"benchmarks: {title}")

    try:
        _, path = evaluate_model(model, suite, progress)
    finally:
        model.free()
    return path
