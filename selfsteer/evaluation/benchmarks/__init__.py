"""Benchmarks of labelled pairs, one file each. A new one is its file and a line of :data:`BENCHMARKS`."""

from selfsteer.evaluation.benchmarks.base import Benchmark, Right, Section
from selfsteer.evaluation.benchmarks.rewardbench import REWARDBENCH

BENCHMARKS: dict[str, Benchmark] = {"rewardbench": REWARDBENCH}
"""By their key in the JSON of `selfsteer evaluate reward`."""

__all__ = ["BENCHMARKS", "Benchmark", "Right", "Section"]
