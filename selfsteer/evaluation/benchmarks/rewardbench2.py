"""RewardBench 2's scores (arXiv 2506.01937): best of four, and the margins of equally good answers.

A judge that scores each answer ranks a prompt's answers by the differences of their scores, which are the log-odds of
pairs; so the same formulas hold for any judge that gives log-odds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from selfsteer.confidence_intervals import bootstrap, bootstrap_statistic
from selfsteer.evaluation.benchmarks.base import Benchmark, Section, mean_score, own_subset
from selfsteer.judges.base import Judgement

_TIES = "Ties"
_PROMPTS = {"Factuality": 475, "Precise IF": 160, "Math": 183, "Safety": 450, "Focus": 495, _TIES: 102}


class _Margins(NamedTuple):
    """Of a prompt of Ties: the smallest lead of a right answer over a wrong one, the spread of the right ones."""

    lead: float
    spread: float


def sections(judgements: Sequence[Judgement]) -> list[Section]:
    """Return the six domains. Ties has a share only where the judge gives log-odds."""
    prompts: dict[str, dict[str, list[Judgement]]] = {name: defaultdict(list) for name in _PROMPTS}
    for one in judgements:
        if (name := own_subset(one)) in prompts and one.pair.group:
            prompts[name][one.pair.group].append(one)
    found = []
    for name, groups in prompts.items():
        share, interval = None, None
        if groups and name == _TIES:
            share, interval = _ties(groups)
        elif groups:
            credits = [credit(own) for own in groups.values()]
            share, interval = fmean(credits), bootstrap(credits)
        there, missing = ((name,), ()) if groups else ((), (name,))
        found.append(Section(name, there, missing, len(groups), _PROMPTS[name] if groups else 0, share, interval))
    return found


def credit(judgements: Sequence[Judgement]) -> float:
    """Return 1 where the right answer beats all others, 1 / k where k answers share the first place with it, else 0."""
    leads = [_lead(one) for one in judgements]
    return 0.0 if min(leads) < 0 or not all(map(_valid, judgements)) else 1 / (1 + leads.count(0))


def _valid(judgement: Judgement) -> bool:
    return judgement.outcome != "invalid"


def _lead(judgement: Judgement) -> float:
    """Return the log-odds for the labelled answer, or the debiased verdict for it of a judge without log-odds."""
    label = judgement.pair.label or 1
    return label * (judgement.debiased if judgement.log_odds is None else judgement.log_odds)


def _ties(groups: Mapping[str, Sequence[Judgement]]) -> tuple[float | None, tuple[float, float] | None]:
    """Return the score of Ties: 60 % accuracy, 40 % margins, and one hundredth for how wide they are.

    A prompt is "ref:N", with one right answer, or "tied:N", the same with several; resampled are the N. A prompt with
    an invalid answer of the judge has no margin. None for a judge without log-odds.
    """
    found: dict[str, dict[str, _Margins]] = {"ref": {}, "tied": {}}
    for group, own in groups.items():
        kind, _, number = group.rpartition("/")[2].partition(":")
        if kind not in found:
            continue
        if not all(map(_valid, own)):
            found[kind][number] = _Margins(-math.inf, 0.0)
            continue
        if any(one.log_odds is None for one in own):
            return None, None
        labelled = [_lead(one) for one in own if one.pair.label]
        spread = max((abs(one.log_odds or 0.0) for one in own if not one.pair.label), default=0.0)
        found[kind][number] = _Margins(min(labelled), spread)
    numbers = sorted(found["ref"].keys() & found["tied"].keys())
    if not numbers:
        return None, None
    ref, tied = (np.array([found[kind][number] for number in numbers]) for kind in ("ref", "tied"))

    def score(places: np.ndarray) -> float:
        return _ties_score(ref[places, 0], tied[places, 0], tied[places, 1])

    return score(np.arange(len(numbers))), bootstrap_statistic(score, len(numbers))


def _ties_score(ref: np.ndarray, tied: np.ndarray, spread: np.ndarray) -> float:
    """Return the score from the leads of both kinds of prompt and the spread of the right answers, each (N,)."""
    smaller = np.minimum(ref, tied)
    # Equal scores all over are a margin of 0, which the reference's formula divides by 0.
    ratio = np.divide(smaller, spread, out=np.copysign(np.inf, smaller), where=spread > 0)
    wide = np.tanh(np.where((smaller == 0) & (spread == 0), 0.0, ratio) - 1)
    parts = (0.30, tied > 0), (0.30, ref > 0), (0.20, tied > spread), (0.20, smaller > spread), (0.01, wide)
    return sum(weight * float(np.mean(values)) for weight, values in parts)


REWARDBENCH2 = Benchmark(
    "RewardBench 2",
    "A domain is the share of prompts whose right answer beats the three others (1/k where k are equal), Ties combines "
    "accuracy and margins of scores, the score is the mean of the six. By chance a judge has 25 %.",
    _PROMPTS.__contains__,
    sections,
    mean_score,
)
