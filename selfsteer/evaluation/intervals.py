"""95 % intervals: Wilson's for shares, the percentile bootstrap for means."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float]
_Z = 1.959963984540054
_RESAMPLES = 2000


def wilson(successes: float, n: int) -> Interval:
    """Return Wilson's score interval of a share; n must be positive."""
    share = successes / n
    centre = share + _Z**2 / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return (centre - half) / (1 + _Z**2 / n), (centre + half) / (1 + _Z**2 / n)


def bootstrap(values: Sequence[float]) -> Interval:
    """Return the percentile bootstrap interval of a mean. The resampling seed is fixed: same values, same interval."""
    data = np.asarray(values, dtype=float)
    picks = np.random.default_rng(0).integers(len(data), size=(_RESAMPLES, len(data)))
    low, high = np.percentile(data[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
