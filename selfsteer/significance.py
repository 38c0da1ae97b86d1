"""Differences between two models on the same items: paired intervals, p-values, and what a number of items can show.

Items are only independent between clusters (the turns of one conversation, the instructions of one prompt), so whole
clusters are resampled, and the same ones for both models: what an item adds to both scores, such as its difficulty,
leaves the difference. Resampling seeds are fixed: the same scores give the same figures, in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from selfsteer.confidence_intervals import Interval

RESAMPLES = 10_000
POWER = 0.8
_LEVEL = 0.05
_COUNTED_AT_ONCE = 2_000_000
"""Resamples x clusters in memory: 64 MB for their picks, counts and products."""


@dataclass(frozen=True)
class Difference:
    """A difference between two models.

    Attributes:
        value: Second minus first.
        interval: 95 %, percentile bootstrap.
        error: Its standard error, the standard deviation over the resamples.
        p: Two-sided p-value of no difference: below 0.05 exactly where the interval leaves 0 out.
    """

    value: float
    interval: Interval
    error: float
    p: float


def resampled_means(
    values: np.ndarray,
    clusters: Sequence[str],
    *,
    weights: np.ndarray | None = None,
    strata: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """Return (K, resamples) weighted means of K models, whose clusters are drawn with replacement, the same for all.

    Args:
        values: (K, N) scores of N items.
        clusters: (N,) what is drawn as a whole.
        weights: (K, N) weight of each item in its model's mean, None for equal ones.
        strata: (N,) groups whose numbers of clusters are fixed, such as the subjects of an exam; each is resampled by
            itself. A cluster is inside one stratum.

    A resample in which all weights of a model are 0 has NaN.
    """
    values = np.asarray(values, dtype=float)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    groups = np.zeros(values.shape[1], dtype=int) if strata is None else np.unique(strata, return_inverse=True)[1]
    names = np.unique(np.asarray(clusters), return_inverse=True)[1]
    # Rows in an order of their own, so that sums round the same way in whatever order the rows came.
    order = np.lexsort((*weights, *values, names, groups))
    values, weights, names, groups = values[:, order], weights[:, order], names[order], groups[order]
    firsts = np.flatnonzero(np.append(True, (np.diff(names) != 0) | (np.diff(groups) != 0)))
    size = np.add.reduceat(weights, firsts, axis=1)
    total = np.add.reduceat(weights * values, firsts, axis=1)
    means = []
    for counts in _cluster_counts(np.bincount(groups[firsts]), resamples):
        totals, sizes = (np.array([(counts * own).sum(axis=1) for own in parts]) for parts in (total, size))
        with np.errstate(invalid="ignore"):
            means.append(totals / sizes)
    return np.concatenate(means, axis=1)


def _cluster_counts(sizes: np.ndarray, resamples: int) -> Iterator[np.ndarray]:
    """Yield (chunk, C) how often each cluster is drawn; ``sizes`` are the numbers of clusters of the strata."""
    rng, clusters = np.random.default_rng(0), int(sizes.sum())
    starts = np.cumsum(sizes) - sizes
    most = max(1, _COUNTED_AT_ONCE // clusters)
    for begin in range(0, resamples, most):
        chunk = min(most, resamples - begin)
        picks = np.concatenate(
            [start + rng.integers(size, size=(chunk, size)) for start, size in zip(starts, sizes, strict=True)], axis=1
        )
        picks += clusters * np.arange(chunk)[:, None]
        yield np.bincount(picks.ravel(), minlength=chunk * clusters).reshape(chunk, clusters)


def difference(value: float, resampled: np.ndarray) -> Difference | None:
    """Return a difference with what its values on (R,) resamples tell; None where it is undefined in all of them.

    Interval and p-value are made of the same order statistics, so that they never contradict each other.
    """
    known = np.sort(resampled[~np.isnan(resampled)])
    n = len(known)
    if n < 2:
        return None
    place = max(1, int(_LEVEL / 2 * (n + 1)))
    fewer = min(int((known <= 0).sum()), int((known >= 0).sum()))
    interval = float(known[place - 1]), float(known[n - place])
    return Difference(value, interval, float(known.std(ddof=1)), min(1.0, 2 * (1 + fewer) / (n + 1)))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Return the exact two-sided p-value of McNemar's test for (N,) scores of 0 or 1 of the same independent items."""
    better, worse = int((second > first).sum()), int((second < first).sum())
    n, ways, term = better + worse, 0, 1
    for k in range(min(better, worse) + 1):
        ways += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * ways / 2**n)  # of whole numbers: n choose k is far above the largest float


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for their number by Holm's step-down method: below 0.05, the family's error is."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def smallest_difference(error: float) -> float:
    """Return the true difference that a two-sided test at 5 % finds with a power of 80 %, given its standard error."""
    normal = NormalDist()
    return (normal.inv_cdf(1 - _LEVEL / 2) + normal.inv_cdf(POWER)) * error
