"""How well a score that costs nothing predicts which pairs are right. No torch here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfsteer.confidence_intervals import Interval, bootstrap_statistic, wilson
from selfsteer.errors import ConfigError, DataError


@dataclass(frozen=True)
class Bin:
    """Pairs of neighbouring scores: their mean score, and the share of them that is right with Wilson's interval."""

    n: int
    mean_score: float
    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class Kept:
    """What is left when only the best scores are kept.

    Attributes:
        share: The share that was asked for.
        threshold: The pairs with this score or a higher one are kept.
        n: Pairs kept: more than the share of all where scores tie at the threshold.
        accuracy: Share of the kept pairs that is right.
        interval: Wilson's, of the accuracy.
    """

    share: float
    threshold: float
    n: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class Calibration:
    """A score against the truth; ``dataclasses.asdict`` makes JSON of it.

    Attributes:
        n: Pairs.
        accuracy: Share of all pairs that is right.
        auc: Chance that a right pair scores higher than a wrong one, ties counting half; None where all pairs are right
            or all are wrong.
        auc_interval: Percentile bootstrap over pairs; resamples without both kinds are left out.
        reliability: Bins from the lowest scores to the highest.
        kept: Accuracy when the top 10, 20, ..., 100 % by score are kept.
        accuracy_as_judge: Share of pairs that the score's own sign gets right: it is above 0 if and only if the pair is
            right.
    """

    n: int
    accuracy: float
    auc: float | None
    auc_interval: Interval | None
    reliability: list[Bin]
    kept: list[Kept]
    accuracy_as_judge: float

    @property
    def fewest(self) -> int:
        """How many right or wrong pairs there are, whichever are fewer."""
        right = round(self.n * self.accuracy)
        return min(right, self.n - right)

    @property
    def rarer(self) -> str:
        """Which of them are fewer, "right" or "wrong"."""
        return "right" if self.accuracy < 0.5 else "wrong"


FEWEST = 5
"""Right and wrong pairs that a verdict needs of each: over fewer, resampling gives far too narrow intervals."""


def calibrate(scores: Sequence[float], right: Sequence[bool], *, bins: int = 5) -> Calibration:
    """Compare scores with the truth.

    Nothing depends on the order of the pairs: pairs of equal scores share a bin, and those that tie at a threshold are
    all kept. So bins are of equal size where scores differ, else as nearly as ties allow, and then possibly fewer.

    Args:
        scores: (B,) any unit; higher should mean more likely right.
        right: (B,) whether each pair is right.
        bins: Number of bins of the reliability curve.

    Raises:
        ConfigError: ``bins`` is not positive.
        DataError: There is no pair, or a score is not finite.
        ValueError: The number of scores is not that of the pairs.
    """
    values, truth = _checked(scores, right, bins)
    auc = _auc(values, truth)
    return Calibration(
        n=len(values),
        accuracy=float(truth.mean()),
        auc=auc[0] if auc else None,
        auc_interval=auc[1] if auc else None,
        reliability=_reliability(values, truth, bins),
        kept=[_kept(values, truth, tenths / 10) for tenths in range(1, 11)],
        accuracy_as_judge=float(np.mean((values > 0) == truth)),
    )


def keep_best(scores: Sequence[float], right: Sequence[bool], share: float) -> Kept:
    """Return what is left when only the best ``share`` of the scores, above 0 and at most 1, are kept.

    Raises:
        As :func:`calibrate` does.
    """
    return _kept(*_checked(scores, right, bins=1), share)


def worth(calibration: Calibration) -> str:
    """Say in one sentence whether the score is worth filtering by; the verdict stands before the colon."""
    if calibration.auc is None or calibration.auc_interval is None:
        all_are = "right" if calibration.accuracy else "wrong"
        return f"no evidence that it is worth filtering by: all of the {calibration.n} pairs are {all_are}"
    low, high = calibration.auc_interval
    verdict = "no evidence that it is worth filtering by"
    if calibration.fewest < FEWEST:
        verdict = f"too few to tell ({calibration.fewest} {calibration.rarer})"
    elif low > 0.5:
        verdict = "worth filtering by"
    elif high < 0.5:
        verdict = "misleading"
    return f"{verdict}: AUC {calibration.auc:.2f} (95 % interval {low:.2f} to {high:.2f}) over {calibration.n} pairs"


def _checked(scores: Sequence[float], right: Sequence[bool], bins: int) -> tuple[np.ndarray, np.ndarray]:
    if bins < 1:
        raise ConfigError(f"bins is {bins}", where="bins", do="ask for 1 or more")
    if len(scores) != len(right):
        raise ValueError(f"{len(scores)} scores for {len(right)} pairs")
    if not len(scores):
        raise DataError("there is no pair to compare the scores with", do="give pairs that have a label")
    values = np.asarray(scores, dtype=float)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"a score is {values[bad[0]]}, expected a finite number",
            where=f"pair {bad[0] + 1} of {len(values)}",
            do="leave out the pairs that have no score",
        )
    return values, np.asarray(right, dtype=bool)


def _auc(values: np.ndarray, truth: np.ndarray) -> tuple[float, Interval] | None:
    if truth.all() or not truth.any():
        return None
    from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

    interval = bootstrap_statistic(lambda picks: _resampled_auc(values[picks], truth[picks]), len(values))
    return None if interval is None else (float(roc_auc_score(truth, values)), interval)


def _resampled_auc(values: np.ndarray, truth: np.ndarray) -> float:
    """AUC of one resample, NaN where undefined: scikit-learn's checks would take 3 s an interval."""
    wrong = np.sort(values[~truth])
    if not 0 < len(wrong) < len(values):
        return float("nan")
    below, up_to = (np.searchsorted(wrong, values[truth], side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(wrong)))


def _reliability(values: np.ndarray, truth: np.ndarray, bins: int) -> list[Bin]:
    order = np.argsort(values, kind="stable")
    ordered, n = values[order], len(values)
    edges = sorted({0, n, *(_edge(ordered, n * number // bins) for number in range(1, bins))})
    return [_bin(values[order[a:b]], truth[order[a:b]]) for a, b in itertools.pairwise(edges)]


def _edge(ordered: np.ndarray, at: int) -> int:
    """Return where to cut instead of ``at`` so that equal scores stay together: the nearer end of their run."""
    start, end = (int(np.searchsorted(ordered, ordered[at], side)) for side in ("left", "right"))
    return start if at - start <= end - at else end


def _bin(values: np.ndarray, truth: np.ndarray) -> Bin:
    return Bin(len(values), float(values.mean()), float(truth.mean()), wilson(int(truth.sum()), len(truth)))


def _kept(values: np.ndarray, truth: np.ndarray, share: float) -> Kept:
    wanted = math.ceil(len(values) * share - 1e-9)  # at least one; 10 * 0.7 is more than 7 in floats
    threshold = float(np.sort(values)[-wanted])
    left = truth[values >= threshold]
    return Kept(share, threshold, len(left), float(left.mean()), wilson(int(left.sum()), len(left)))
