"""GSM8K: grade-school word problems, by lm-eval's gsm8k_cot with its eight fixed examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from selfsteer.evaluation.benchmarks.harness import HarnessBenchmark, HarnessData, HarnessTask, Item, Samples, logged
from selfsteer.evaluation.benchmarks.judged import read_rows

_FLEXIBLE = "flexible-extract"


def _read(files: Mapping[str, Path], scores: bool) -> HarnessData:
    rows = read_rows(files["test"], ("question", "answer"))
    items = [Item(str(place), "gsm8k_cot", place) for place in range(len(rows))]
    return HarnessData([HarnessTask("gsm8k_cot", "gsm8k/gsm8k-cot.yaml")], {"main": {"test": rows}}, items)


def _numeric(samples: Samples) -> Sequence[float]:
    """Compare the extracted answer as a number: by text, "$20.00" is not 20, which costs good models 3 points."""
    sample = samples[_FLEXIBLE]
    found, right = (_number(str(text)) for text in (sample["filtered_resps"][0], sample["target"]))
    return [float(found is not None and found == right)]


def _number(text: str) -> float | None:
    try:
        return float(text.replace("$", "").replace(",", "").rstrip("."))
    except ValueError:
        return None


GSM8K = HarnessBenchmark(
    "gsm8k",
    _read,
    {
        "flexible_extract": logged("exact_match", _FLEXIBLE),
        "numeric": _numeric,
        "strict_match": logged("exact_match", "strict-match"),
    },
)
