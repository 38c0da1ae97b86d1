"""GPQA: graduate-level questions with four options, by lm-eval's gpqa_*_cot_zeroshot."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from selfsteer.evaluation.benchmarks.harness import HarnessBenchmark, HarnessData, HarnessTask, Item, logged
from selfsteer.evaluation.benchmarks.judged import read_rows

_COLUMNS = ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def _read(name: str, files: Mapping[str, Path], scores: bool) -> HarnessData:
    rows = read_rows(files["questions"], _COLUMNS)
    task = f"{name}_cot_zeroshot"
    items = [
        Item(str(row.get("Record ID") or place), task, place, str(row.get("High-level domain") or ""))
        for place, row in enumerate(rows)
    ]
    train = [{column: str(row[column]) for column in _COLUMNS} for row in rows]
    return HarnessData([HarnessTask(task, f"gpqa/cot_zeroshot/{task}.yaml")], {name: {"train": train}}, items)


_METRICS = {
    "flexible_extract": logged("exact_match", "flexible-extract"),
    "strict_match": logged("exact_match", "strict-match"),
}
GPQA_DIAMOND = HarnessBenchmark("gpqa_diamond", partial(_read, "gpqa_diamond"), _METRICS)
GPQA_MAIN = HarnessBenchmark("gpqa_main", partial(_read, "gpqa_main"), _METRICS)
