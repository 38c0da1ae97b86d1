"""What a benchmark of labelled pairs is: subsets that are averaged into sections, and sections into a score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from selfsteer.confidence_intervals import Interval
from selfsteer.judges.base import Judgement


@dataclass(frozen=True)
class Right:
    """How many pairs of a subset were judged right, of how many."""

    right: int
    n: int


def own_subset(judgement: Judgement) -> str:
    """Return the name of a pair's subset without that of its set."""
    return judgement.pair.subset.rpartition("/")[2]


def right_by_subset(judgements: Sequence[Judgement]) -> dict[str, Right]:
    """Return how many pairs of each subset were judged right, whichever files they came from."""
    right, total = Counter[str](), Counter[str]()
    for judgement in judgements:
        if judgement.pair.label:
            subset = own_subset(judgement)
            total[subset] += 1
            right[subset] += judgement.debiased == judgement.pair.label
    return {name: Right(right[name], n) for name, n in total.items()}


def mean_score(sections: Sequence[Section]) -> float | None:
    """Return the mean of the sections, None where one is not whole or has no share."""
    shares = [section.share for section in sections if section.whole and section.share is not None]
    return fmean(shares) if len(shares) == len(sections) else None


@dataclass(frozen=True)
class Section:
    """A section of a benchmark.

    Attributes:
        found, missing: Its subsets that are there, in its order, and those that are not.
        n: Pairs, or prompts, that are there.
        expected: How many the subsets that are there have in the benchmark.
        share: Mean of the subsets' shares by their weights; None where no subset is there.
        interval: Wilson's, for the effective number of pairs under these weights (Kish).
    """

    name: str
    found: tuple[str, ...]
    missing: tuple[str, ...]
    n: int
    expected: int
    share: float | None
    interval: Interval | None

    @property
    def whole(self) -> bool:
        """Whether each of its pairs is there, once."""
        return not self.missing and self.n == self.expected

    @property
    def state(self) -> str:
        """How much of it there is, in words."""
        if not self.found:
            return "not run"
        if not self.missing and len(self.found) == 1:
            return "whole" if self.n == self.expected else f"partial: {self.n} of {self.expected}"
        total = len(self.found) + len(self.missing)
        subsets = f"all {total} subsets" if not self.missing else f"partial: {len(self.found)} of {total} subsets"
        return subsets if self.n == self.expected else f"{subsets}, {self.n} pairs in place of {self.expected}"


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark turns judged pairs into figures.

    Attributes:
        title: Its name in tables.
        averaging: One sentence on how sections and score are averaged.
        is_subset: Whether it has a subset of that name; pairs of such a subset belong to it, whatever file they are in.
        sections: All sections, those without a pair too, from the judgements; those of other subsets are ignored.
        score: The score of these sections, None where one is not whole.
    """

    title: str
    averaging: str
    is_subset: Callable[[str], bool]
    sections: Callable[[Sequence[Judgement]], list[Section]]
    score: Callable[[Sequence[Section]], float | None]
