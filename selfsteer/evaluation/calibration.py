"""How well a score that costs nothing ranks right pairs above wrong ones. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfsteer.confidence_intervals import bootstrap_statistic

FEWEST = 5
"""Right and wrong pairs that a verdict needs of each: with fewer, resampling gives far too narrow intervals."""
SHARES = (0.25, 0.5, 0.75, 1.0)


def calibrate(scores: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray) -> dict[str, Any]:
    """Compare finite scores (B,), higher meaning more likely right, with whether each of the B > 0 pairs is right.

    Returns:
        ``n`` pairs; ``accuracy``, the share of them that is right; ``auc``, the chance that a right pair scores higher
        than a wrong one, ties counting half, with its ``auc_interval`` (percentile bootstrap over pairs, without
        resamples that lack one kind), both None where all pairs are right or all are wrong; ``accuracy_as_judge``, the
        share that the score's own sign gets right: it is above 0 if and only if the pair is right.
    """
    values, truth = np.asarray(scores, dtype=float), np.asarray(right, dtype=bool)
    area = _auc(values, truth)
    known = not math.isnan(area)
    interval = bootstrap_statistic(lambda picks: _auc(values[picks], truth[picks]), len(values)) if known else None
    return {
        "n": len(values),
        "accuracy": float(truth.mean()),
        "auc": area if known else None,
        "auc_interval": interval,
        "accuracy_as_judge": float(np.mean((values > 0) == truth)),
    }


def keep_best(scores: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray) -> list[dict[str, Any]]:
    """Return the accuracy when only the best of :data:`SHARES` are kept, rounded up; pairs tied at the end all stay."""
    values, truth = np.asarray(scores, dtype=float), np.asarray(right, dtype=bool)
    kept = []
    for share in SHARES:
        threshold = np.sort(values)[-math.ceil(len(values) * share)]
        left = truth[values >= threshold]
        kept.append({"share": share, "n": len(left), "accuracy": float(left.mean())})
    return kept


def worth(calibration: Mapping[str, Any]) -> str:
    """Say in one sentence whether the score is worth filtering by; the verdict comes before the colon."""
    n, none = calibration["n"], "no evidence that it is worth filtering by"
    if calibration["auc_interval"] is None:
        return f"{none}: all of the {n} pairs are {'right' if calibration['accuracy'] else 'wrong'}"
    low, high = calibration["auc_interval"]
    right = round(n * calibration["accuracy"])
    fewest, kind = min((n - right, "wrong"), (right, "right"), key=lambda side: side[0])
    if fewest < FEWEST:
        verdict = f"too few to tell ({fewest} {kind})"
    else:
        verdict = "worth filtering by" if low > 0.5 else "misleading" if high < 0.5 else none
    return f"{verdict}: AUC {calibration['auc']:.2f} (95 % interval {low:.2f} to {high:.2f}) over {n} pairs"


def _auc(values: np.ndarray, truth: np.ndarray) -> float:
    """Return the Mann-Whitney form of the area under the ROC curve, NaN unless there are right and wrong pairs."""
    # Not scikit-learn's: its argument checks would take seconds over the resamples of one interval.
    wrong = np.sort(values[~truth])
    if not 0 < len(wrong) < len(values):
        return math.nan
    below, up_to = (np.searchsorted(wrong, values[truth], side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(wrong)))
