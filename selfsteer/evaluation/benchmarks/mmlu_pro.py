"""MMLU-Pro: 14 subjects with up to ten options, by lm-eval's mmlu_pro with five worked examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfsteer.evaluation.benchmarks.harness import HarnessBenchmark, HarnessData, HarnessTask, Item, logged
from selfsteer.evaluation.benchmarks.judged import read_rows

_COLUMNS = ("question_id", "question", "options", "answer", "answer_index", "category", "src")
_NO_LETTER = 'An answer without "answer is (X)" is wrong here; the published figures draw a letter at random for it.'


def _read(files: Mapping[str, Path], scores: bool) -> HarnessData:
    rows = [{name: row[name] for name in _COLUMNS} | {"cot_content": ""} for row in read_rows(files["test"], _COLUMNS)]
    places: dict[str, int] = {}
    items = []
    for row in rows:
        category = row["category"]
        places[category] = place = places.get(category, -1) + 1
        items.append(Item(str(row["question_id"]), _task(category), place, category))
    examples = [_example(row) for row in read_rows(files["examples"], ("category", "question", "options", "solution"))]
    tasks = [HarnessTask(_task(name), f"mmlu_pro/{_task(name)}.yaml") for name in sorted(places)]
    return HarnessData(tasks, {"default": {"test": rows, "validation": examples}}, items, [_NO_LETTER])


def _task(category: str) -> str:
    return f"mmlu_pro_{category.replace(' ', '_')}"


def _example(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a worked example in the form of the data set's validation split, with the columns of the test split."""
    options = [line.partition(". ")[2] for line in row["options"].split("\n")]
    return {
        "question_id": -1, "question": row["question"], "options": options, "answer": "", "answer_index": -1,
        "category": row["category"], "src": "", "cot_content": f"A: Let's think step by step. {row['solution']}",
    }  # fmt: skip


MMLU_PRO = HarnessBenchmark("mmlu_pro", _read, {"exact_match": logged("exact_match", "custom-extract")})
