"""MATH and MATH-500: competition problems, by lm-eval's minerva_math with its four fixed examples.

The official metric is math_verify. The tasks' own exact_match wants the phrase "Final Answer: The final answer is", so
that a right answer in a box counts as wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from selfsteer.errors import DataError
from selfsteer.evaluation.benchmarks.harness import HarnessBenchmark, HarnessData, HarnessTask, Item, check_math, logged
from selfsteer.evaluation.benchmarks.judged import read_rows

check_math()

_SUBJECTS = {
    "Algebra": ("algebra", "algebra"),
    "Counting & Probability": ("counting_and_prob", "counting_and_probability"),
    "Geometry": ("geometry", "geometry"),
    "Intermediate Algebra": ("intermediate_algebra", "intermediate_algebra"),
    "Number Theory": ("num_theory", "number_theory"),
    "Prealgebra": ("prealgebra", "prealgebra"),
    "Precalculus": ("precalc", "precalculus"),
}
"""Ends of the task's name and the name of its data set's config, by subject."""


def _read_math(files: Mapping[str, Path], scores: bool) -> HarnessData:
    splits: dict[str, dict[str, list[dict[str, str]]]] = {}
    items = []
    for row in read_rows(files["test"], ("problem", "solution", "type", "idx")):
        if row["type"] not in _SUBJECTS:
            raise DataError(f"MATH has no subject {row['type']!r}", where=str(files["test"]), do="get the file again")
        task, config = _SUBJECTS[row["type"]]
        rows = splits.setdefault(config, {"test": []})["test"]
        items.append(Item(str(row["idx"]), f"minerva_math_{task}", len(rows), row["type"]))
        rows.append({"problem": row["problem"], "solution": row["solution"]})
    tasks = [_task(f"minerva_math_{task}") for task, config in _SUBJECTS.values() if config in splits]
    return HarnessData(tasks, splits, items)


def _read_math500(files: Mapping[str, Path], scores: bool) -> HarnessData:
    rows = read_rows(files["test"], ("problem", "solution", "subject", "unique_id"))
    items = [Item(row["unique_id"], "minerva_math500", place, row["subject"]) for place, row in enumerate(rows)]
    test = [{"problem": row["problem"], "solution": row["solution"]} for row in rows]
    return HarnessData([_task("minerva_math500")], {"default": {"test": test}}, items)


def _task(name: str) -> HarnessTask:
    return HarnessTask(name, f"minerva_math/{name}.yaml", {"training_split": None})


_METRICS = {"math_verify": logged("math_verify"), "exact_match": logged("exact_match")}
MATH = HarnessBenchmark("math", _read_math, _METRICS)
MATH500 = HarnessBenchmark("math500", _read_math500, _METRICS)
