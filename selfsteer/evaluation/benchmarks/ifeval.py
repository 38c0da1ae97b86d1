"""IFEval: instructions that a program can check, by lm-eval's checkers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from selfsteer.evaluation.benchmarks.harness import HarnessBenchmark, HarnessData, HarnessTask, Item, logged
from selfsteer.evaluation.benchmarks.judged import read_rows

RANDOM_LETTER = (
    "The checker of prompts 1122 and 1129 draws a letter in place of # and !; here it is the same in every run."
)


def _read(files: Mapping[str, Path], scores: bool) -> HarnessData:
    rows = read_rows(files["prompts"], ("key", "prompt", "instruction_id_list", "kwargs"))
    items = [Item(str(row["key"]), "ifeval", place) for place, row in enumerate(rows)]
    notes = [RANDOM_LETTER] if any(row["key"] in (1122, 1129) for row in rows) else []
    return HarnessData([HarnessTask("ifeval", "ifeval/ifeval.yaml")], {"default": {"train": rows}}, items, notes)


IFEVAL = HarnessBenchmark(
    "ifeval",
    _read,
    {
        "prompt_level_strict": logged("prompt_level_strict_acc"),
        "instruction_level_strict": logged("inst_level_strict_acc"),
        "prompt_level_loose": logged("prompt_level_loose_acc"),
        "instruction_level_loose": logged("inst_level_loose_acc"),
    },
)
