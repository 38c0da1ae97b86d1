"""MMLU: 57 subjects with four options, by lm-eval's mmlu with five examples: the log-probs of A, B, C and D.

A model without log-probs (an endpoint) is asked to write the letter, by lm-eval's mmlu_generative, and the result says
so.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfsteer.errors import DataError
from selfsteer.evaluation.benchmarks.harness import HarnessBenchmark, HarnessData, HarnessTask, Item, Samples

_GENERATED = "The letter is read from a written answer (mmlu_generative): the model gives no log-probs."
_EXAMPLES = {"num_fewshot": 5}  # lm-eval's default is none


def _read(files: Mapping[str, Path], scores: bool) -> HarnessData:
    splits: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with zipfile.ZipFile(files["archive"]) as archive:
        for name in sorted(archive.namelist()):
            _, _, last = name.rpartition("/")
            subject, _, split = last.removesuffix(".csv").rpartition("_")
            if last.endswith(".csv") and split in ("dev", "test"):
                rows = csv.reader(io.StringIO(archive.read(name).decode("utf-8")))
                splits.setdefault(subject, {})[split] = [_row(row, subject, name) for row in rows]
    kind, folder = ("", "default") if scores else ("_generative", "generative")
    tasks = [HarnessTask(f"mmlu_{name}{kind}", f"mmlu/{folder}/mmlu_{name}.yaml", _EXAMPLES) for name in splits]
    items = [
        Item(f"{subject}/{place}", f"mmlu_{subject}{kind}", place, subject)
        for subject, own in splits.items()
        for place in range(len(own["test"]))
    ]
    return HarnessData(tasks, splits, items, [] if scores else [_GENERATED])


def _row(row: Sequence[str], subject: str, name: str) -> dict[str, Any]:
    if len(row) != 6 or row[5] not in "ABCD":
        raise DataError("a row is no question with four options and a letter", where=name, do="get the file again")
    return {"question": row[0], "subject": subject, "choices": row[1:5], "answer": "ABCD".index(row[5])}


def _right(samples: Samples) -> Sequence[float]:
    (sample,) = samples.values()
    return [float(sample["acc" if "acc" in sample else "exact_match"])]


MMLU = HarnessBenchmark("mmlu", _read, {"acc": _right})
