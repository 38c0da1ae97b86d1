"""RewardBench's averages: subsets into sections by their weights, sections into a score. No torch here.

A section is averaged over the subsets that are there, and says which share of it that is. There is a score only where
every section is whole.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from selfsteer.confidence_intervals import wilson
from selfsteer.evaluation.benchmarks.base import Benchmark, Right, Section, mean_score, right_by_subset

_TABLE = Path(__file__).with_name("rewardbench.yaml")


def sections(subsets: Mapping[str, Right]) -> list[Section]:
    """Return all sections, those without a pair too; subsets with other names than RewardBench's take no part."""
    return [_section(name, weights, subsets) for name, weights in _table()["sections"].items()]


def is_subset(name: str) -> bool:
    """Return whether RewardBench has a subset of that name."""
    return any(name in weights for weights in _table()["sections"].values())


def _section(name: str, weights: Mapping[str, int], subsets: Mapping[str, Right]) -> Section:
    found = tuple(subset for subset in weights if subset in subsets and subsets[subset].n)
    pairs: Mapping[str, int] = _table()["pairs"]
    total = sum(weights[subset] for subset in found)
    parts = [(weights[subset] / total, subsets[subset]) for subset in found]
    share = sum(weight * own.right / own.n for weight, own in parts) if parts else None
    effective = 1 / sum(weight**2 / own.n for weight, own in parts) if parts else 0.0
    return Section(
        name=name,
        found=found,
        missing=tuple(subset for subset in weights if subset not in found),
        n=sum(own.n for _, own in parts),
        expected=sum(pairs.get(subset, weights[subset]) for subset in found),
        share=share,
        interval=None if share is None else wilson(share * effective, effective),
    )


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return table


REWARDBENCH = Benchmark(
    "RewardBench",
    "A section is the mean of its subsets by RewardBench's weights, the score the mean of whole sections.",
    is_subset,
    lambda judgements: sections(right_by_subset(judgements)),
    mean_score,
)
