"""How far a judge agrees with people and with itself. No torch here."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from selfsteer.confidence_intervals import Interval, bootstrap_statistic, wilson
from selfsteer.judges.base import Judgement, Outcome, Pair
from selfsteer.temp_db import TempDatabase

_UNLABELLED = 2


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


class AgreementTally:
    """Counts of judgements, from which figures come; of each judgement three verdicts of a byte stay."""

    def __init__(self) -> None:
        self.outcomes = Counter[str]()
        self.why_invalid = Counter[str]()
        self.first = self.votes = self.right = 0
        self.labels, self.strict, self.debiased = array("b"), array("b"), array("b")

    def add(self, judgement: Judgement) -> None:
        """Count a judgement."""
        label = judgement.pair.label
        self.outcomes[judgement.outcome] += 1
        for answer in (judgement.forward, judgement.backward):
            self.votes += bool(answer.vote)
            self.first += answer.vote == 1
            if not answer.valid:
                self.why_invalid[answer.why] += 1
        self.right += sum(vote == label for vote in judgement.votes) if label else 0
        self.labels.append(_UNLABELLED if label is None else label)
        self.strict.append(judgement.strict)
        self.debiased.append(judgement.debiased)

    def figures(self, *, kappas: bool = True) -> Figures:
        """Return the figures; ``kappas``, which take resampling, may be left out (None)."""
        labels = np.array(self.labels, dtype=np.int8)
        known = labels != _UNLABELLED
        decided = int((known & (labels != 0)).sum())
        strict, debiased = (
            _verdicts(labels[known], np.array(own, dtype=np.int8)[known], kappas)
            for own in (self.strict, self.debiased)
        )
        return Figures(
            n=len(labels),
            outcomes={outcome: self.outcomes[outcome] for outcome in get_args(Outcome)},
            first_share=self.first / self.votes if self.votes else None,
            first_share_interval=wilson(self.first, self.votes) if self.votes else None,
            n_labelled=decided,
            n_tied_labels=int((labels == 0).sum()),
            per_order_share=self.right / (2 * decided) if decided else None,
            why_invalid=dict(self.why_invalid),
            strict=strict,
            debiased=debiased,
        )


def agreement(judgements: Iterable[Judgement], *, kappas: bool = True) -> Figures:
    """Return the figures over all judgements of a judge; ``kappas`` as of :meth:`AgreementTally.figures`."""
    tally = AgreementTally()
    for judgement in judgements:
        tally.add(judgement)
    return tally.figures(kappas=kappas)


def by_subset(judgements: Iterable[Judgement]) -> dict[str, Figures]:
    """Return the figures of each subset, in the order in which the subsets come up."""
    tallies: dict[str, AgreementTally] = defaultdict(AgreementTally)
    for judgement in judgements:
        tallies[judgement.pair.subset].add(judgement)
    return {subset: tally.figures() for subset, tally in tallies.items()}


def distinct(pairs: Iterable[Pair]) -> list[int]:
    """Return the indices of the pairs that differ from all before them, for figures over several sets.

    Pairs with the same prompt, criterion, responses and label are one pair, whichever response is numbered first.
    """
    # Counted twice, a pair would make the intervals narrower than the data allow.
    return [place for place, new in enumerate(_differ(pairs)) if new]


def _differ(pairs: Iterable[Pair]) -> Iterator[bool]:
    """Yield for each pair whether it differs from all before it; memory does not grow with them."""
    with TempDatabase(["CREATE TABLE seen (content TEXT PRIMARY KEY) WITHOUT ROWID"], "track of the pairs") as seen:
        for pair in pairs:
            yield seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (pair.content,)).rowcount == 1


def pooled(judgements: Sequence[Judgement]) -> Figures:
    """Return the figures over several sets; a pair that is in two of them counts once."""
    return agreement(itertools.compress(judgements, _differ(one.pair for one in judgements)))


def kappa(one: Sequence[int] | np.ndarray, other: Sequence[int] | np.ndarray) -> tuple[float, Interval] | None:
    """Return Cohen's kappa of two raters with its percentile bootstrap interval (items resampled, fixed seed).

    None where it is undefined: without items, or where both raters gave the same single category to all, so that chance
    alone explains the agreement. Such resamples are left out of the interval.

    Both have the category of each item, in the same order; :class:`ValueError` for different numbers of items.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} ratings against {len(other)}")
    a, b = np.asarray(one, dtype=np.int8), np.asarray(other, dtype=np.int8)
    if len(np.union1d(a, b)) < 2:
        return None
    interval = bootstrap_statistic(lambda picks: _kappa(a[picks], b[picks]), len(a))
    return None if interval is None else (_kappa(a, b), interval)


def _kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Return Cohen's kappa, NaN where it is undefined."""
    # Not scikit-learn's: its argument checks would take seconds over the resamples of one interval.
    agreed = np.mean(one == other)
    chance = sum(np.mean(one == category) * np.mean(other == category) for category in np.unique(one))
    return float((agreed - chance) / (1 - chance)) if chance < 1 else float("nan")


def _verdicts(labels: np.ndarray, verdicts: np.ndarray, kappas: bool) -> Verdicts:
    """Return the figures of verdicts on pairs with a label, both (N,)."""
    products = (labels * verdicts)[labels != 0]  # 1 right, -1 wrong, 0 none
    right, wrong, n = int((products == 1).sum()), int((products == -1).sum()), len(products)
    agreed = kappa(labels, verdicts) if kappas else None
    return Verdicts(
        right=right,
        wrong=wrong,
        none=n - right - wrong,
        share=right / n if n else None,
        interval=wilson(right, n) if n else None,
        kappa=agreed[0] if agreed else None,
        kappa_interval=agreed[1] if agreed else None,
    )
