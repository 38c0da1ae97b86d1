"""The work of `selfsteer compare`: result files of several models, compared item by item, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from selfsteer.errors import ConfigError, DataError
from selfsteer.evaluation.benchmarks.compare import Comparison, compare
from selfsteer.evaluation.benchmarks.read_results import ModelResult, read_results
from selfsteer.evaluation.benchmarks.table import benchmarks_of_suite

SCHEMA_VERSION = 1


def compare_results(sources: Sequence[Path], suite: str | None = None) -> Comparison:
    """Return the comparison of result files and of all those in folders; the first model is the one compared with.

    Args:
        suite: Suites and benchmarks to compare, separated by commas; None takes all.

    Raises:
        ConfigError: There is only one model, or no benchmark or suite has that name.
        DataError: A file is no result or damaged, results can't be compared, or none has one of the benchmarks.
    """
    results = read_results(sources)
    if len(results) < 2:
        do = "name the results of two models or more, or a folder that has them"
        raise ConfigError(f"there is only one model to compare: {results[0].label}", do=do)
    if suite is not None:
        results = _selected(results, suite)
    return compare(results)


def _selected(results: Sequence[ModelResult], suite: str) -> list[ModelResult]:
    wanted = [one.name for one in benchmarks_of_suite(suite)]
    chosen = [
        replace(one, benchmarks={name: one.benchmarks[name] for name in wanted if name in one.benchmarks})
        for one in results
    ]
    if not any(one.benchmarks for one in chosen):
        raise DataError(f"no result has {', '.join(wanted)}", where="--suite", do="name a benchmark that was evaluated")
    return chosen


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as it is written to a file."""
    return {"schema_version": SCHEMA_VERSION, **asdict(comparison)}
