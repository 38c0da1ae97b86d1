"""Benchmarks, one file each: of labelled pairs for judges and reward models, and of chat models.

A new one of labelled pairs is its file and a line of :data:`BENCHMARKS`.
"""

from selfsteer.evaluation.benchmarks.base import Benchmark, Right, Section, own_subset
from selfsteer.evaluation.benchmarks.judgebench import JUDGEBENCH
from selfsteer.evaluation.benchmarks.rewardbench import REWARDBENCH
from selfsteer.evaluation.benchmarks.rewardbench2 import REWARDBENCH2
from selfsteer.evaluation.benchmarks.rm_bench import RM_BENCH

BENCHMARKS: dict[str, Benchmark] = {
    "rewardbench": REWARDBENCH,
    "rewardbench2": REWARDBENCH2,
    "rm_bench": RM_BENCH,
    "judgebench": JUDGEBENCH,
}
"""By their key in the JSON of `selfsteer evaluate reward`."""

__all__ = ["BENCHMARKS", "Benchmark", "Right", "Section", "own_subset"]
