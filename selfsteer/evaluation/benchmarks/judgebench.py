"""JudgeBench's categories (arXiv 2410.12784): pairs by the data set that their question comes from."""

from __future__ import annotations

from collections.abc import Sequence

from selfsteer.confidence_intervals import wilson
from selfsteer.evaluation.benchmarks.base import Benchmark, Section, right_by_subset
from selfsteer.judges.base import Judgement

_CATEGORIES = {
    "livebench-reasoning": "Reasoning",
    "livebench-math": "Math",
    "livecodebench": "Coding",
}
_KNOWLEDGE = "mmlu-pro-"
_SIZES = (350, 270, 620)
"""Pairs of answers of gpt-4o-2024-05-13, of claude-3-5-sonnet-20240620, and of both."""


def category(source: str) -> str | None:
    """Return the category of a source, None for one that is not JudgeBench's."""
    return "Knowledge" if source.startswith(_KNOWLEDGE) else _CATEGORIES.get(source)


def sections(judgements: Sequence[Judgement]) -> list[Section]:
    """Return the accuracy of each category, over all of its pairs."""
    subsets, found = right_by_subset(judgements), []
    for name in ("Knowledge", *_CATEGORIES.values()):
        own = {source: right for source, right in subsets.items() if category(source) == name}
        right, n = sum(one.right for one in own.values()), sum(one.n for one in own.values())
        share, interval = (right / n, wilson(right, n)) if n else (None, None)
        # How the sizes divide into categories is not published for every set of answers.
        found.append(Section(name, tuple(own), () if own else (name,), n, n, share, interval))
    return found


def score(found: Sequence[Section]) -> float | None:
    """Return the share of all pairs, None where they are none of the published sets."""
    n = sum(one.n for one in found)
    return sum(one.n * (one.share or 0) for one in found) / n if n in _SIZES else None


JUDGEBENCH = Benchmark(
    "JudgeBench",
    "A category is the share of its pairs, the score that of all pairs.",
    lambda name: category(name) is not None,
    sections,
    score,
)
