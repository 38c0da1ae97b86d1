"""How far a judge agrees with people and with itself. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from selfsteer.confidence_intervals import Interval, bootstrap_statistic, wilson
from selfsteer.files import fingerprint
from selfsteer.judges.base import Judgement, Outcome, Pair


@dataclass(frozen=True)
class Verdicts:
    """One kind of verdict against the labels.

    Attributes:
        right, wrong, none: Over the pairs with a winner by their label: the verdict names the winner, the other
            response, or neither. They add up to ``n_labelled``.
        share: right / n_labelled, so that a missing verdict counts as not right; None without such pairs.
        interval: Wilson's, of the share.
        kappa: Cohen's kappa over all pairs with a label, in three categories: first, second, neither. None where it is
            undefined (:func:`kappa`).
        kappa_interval: Percentile bootstrap over pairs.
    """

    right: int
    wrong: int
    none: int
    share: float | None
    interval: Interval | None
    kappa: float | None
    kappa_interval: Interval | None


@dataclass(frozen=True)
class Figures:
    """The figures of a judge on pairs; ``dataclasses.asdict`` makes JSON of them.

    Attributes:
        n: Pairs, with a label or not; the outcomes add up to it.
        first_share: Of the presentations with a vote, the share that went to the response shown first: 0.5 without
            position bias. None without a vote. In its interval (Wilson's) each presentation is one trial.
        n_labelled: Pairs with a winner by their label.
        n_tied_labels: Pairs that are a tie by their label.
        per_order_share: Of the 2 n_labelled presentations, the share with a vote for the winner: the average
            accuracy over the two orders that papers report. None where n_labelled is 0.
        why_invalid: Number of presentations without a valid answer, by the reason; none of them has a vote.
        strict, debiased: The two verdicts, see :class:`Judgement`.
    """

    n: int
    outcomes: dict[Outcome, int]
    first_share: float | None
    first_share_interval: Interval | None
    n_labelled: int
    n_tied_labels: int
    per_order_share: float | None
    why_invalid: dict[str, int]
    strict: Verdicts
    debiased: Verdicts


def agreement(judgements: Sequence[Judgement], *, kappas: bool = True) -> Figures:
    """Return the figures over all judgements of a judge; ``kappas``, which take resampling, may be left out (None)."""
    outcomes = Counter(judgement.outcome for judgement in judgements)
    votes = [answer.vote for j in judgements for answer in (j.forward, j.backward) if answer.vote]
    labels = [judgement.pair.label for judgement in judgements]
    decided = [judgement for judgement in judgements if judgement.pair.label in (1, -1)]
    rights = [vote == judgement.pair.label for judgement in decided for vote in judgement.votes]
    return Figures(
        n=len(judgements),
        outcomes={outcome: outcomes[outcome] for outcome in get_args(Outcome)},
        first_share=votes.count(1) / len(votes) if votes else None,
        first_share_interval=wilson(votes.count(1), len(votes)) if votes else None,
        n_labelled=len(decided),
        n_tied_labels=labels.count(0),
        per_order_share=sum(rights) / len(rights) if rights else None,
        why_invalid=dict(Counter(a.why for j in judgements for a in (j.forward, j.backward) if not a.valid)),
        strict=_verdicts(labels, [judgement.strict for judgement in judgements], kappas),
        debiased=_verdicts(labels, [judgement.debiased for judgement in judgements], kappas),
    )


def by_subset(judgements: Sequence[Judgement]) -> dict[str, Figures]:
    """Return the figures of each subset, in the order in which the subsets come up."""
    groups: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        groups.setdefault(judgement.pair.subset, []).append(judgement)
    return {subset: agreement(group) for subset, group in groups.items()}


def distinct(pairs: Iterable[Pair]) -> list[int]:
    """Return the indices of the pairs that differ from all before them, for figures over several sets.

    Pairs with the same prompt, criterion, responses and label are one pair, whichever response is numbered first.
    """
    # Counted twice, a pair would make the intervals narrower than the data allow.
    places: dict[str, int] = {}
    for place, pair in enumerate(pairs):
        sides = sorted([(pair.first, pair.label), (pair.second, pair.label and -pair.label)], key=lambda side: side[0])
        places.setdefault(fingerprint([pair.prompt, pair.criterion, sides]), place)
    return list(places.values())


def pooled(judgements: Sequence[Judgement]) -> Figures:
    """Return the figures over several sets; a pair that is in two of them counts once."""
    return agreement([judgements[place] for place in distinct(one.pair for one in judgements)])


def kappa(one: Sequence[int], other: Sequence[int]) -> tuple[float, Interval] | None:
    """Return Cohen's kappa of two raters with its percentile bootstrap interval (items resampled, fixed seed).

    None where it is undefined: without items, or where both raters gave the same single category to all, so that chance
    alone explains the agreement. Such resamples are left out of the interval.

    Both have the category of each item, in the same order; :class:`ValueError` for different numbers of items.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} ratings against {len(other)}")
    if len({*one, *other}) < 2:
        return None
    a, b = np.asarray(one), np.asarray(other)
    interval = bootstrap_statistic(lambda picks: _kappa(a[picks], b[picks]), len(a))
    return None if interval is None else (_kappa(a, b), interval)


def _kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Return Cohen's kappa, NaN where it is undefined."""
    # Not scikit-learn's: its argument checks would take seconds over the resamples of one interval.
    agreed = np.mean(one == other)
    chance = sum(np.mean(one == category) * np.mean(other == category) for category in np.unique(one))
    return float((agreed - chance) / (1 - chance)) if chance < 1 else float("nan")


def _verdicts(labels: Sequence[int | None], verdicts: Sequence[int], kappas: bool) -> Verdicts:
    known = [(label, verdict) for label, verdict in zip(labels, verdicts, strict=True) if label is not None]
    products = [label * verdict for label, verdict in known if label]  # 1 right, -1 wrong, 0 none
    right, n = products.count(1), len(products)
    agreed = kappa([label for label, _ in known], [verdict for _, verdict in known]) if kappas else None
    return Verdicts(
        right=right,
        wrong=products.count(-1),
        none=products.count(0),
        share=right / n if n else None,
        interval=wilson(right, n) if n else None,
        kappa=agreed[0] if agreed else None,
        kappa_interval=agreed[1] if agreed else None,
    )
