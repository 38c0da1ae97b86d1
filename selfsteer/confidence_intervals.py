"""95 % intervals: Wilson's for shares, the percentile bootstrap for means and other statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Interval = tuple[float, float]
_Z = 1.959963984540054
_RESAMPLES = 2000
_MOST_RESAMPLED = 5000  # values; times _RESAMPLES, 80 MB of indices


def wilson(successes: float, n: float) -> Interval:
    """Return Wilson's score interval of a share; n must be positive, and may be an effective number of trials."""
    share = successes / n
    centre = share + _Z**2 / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + _Z**2 / n), (centre + half) / (1 + _Z**2 / n)
    return max(round(low, 15), 0.0), min(round(high, 15), 1.0)  # 0 of 21 gave -9e-18


def bootstrap(values: Sequence[float] | np.ndarray) -> Interval:
    """Return the percentile bootstrap interval of a mean. The resampling seed is fixed: same values, same interval.

    Of very many values it is the normal interval: there the two agree, and the resamples would fill the memory.
    """
    data = np.asarray(values, dtype=float)
    if len(data) > _MOST_RESAMPLED:
        mean, half = data.mean(), _Z * data.std() / math.sqrt(len(data))
        return float(mean - half), float(mean + half)
    picks = np.random.default_rng(0).integers(len(data), size=(_RESAMPLES, len(data)))
    low, high = np.percentile(data[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def bootstrap_statistic(statistic: Callable[[np.ndarray], float], n: int) -> Interval | None:
    """Return the percentile bootstrap interval of any statistic of n items; the resampling seed is fixed.

    ``statistic`` takes the (n,) indices of the resampled items and returns the value, NaN where it is undefined; such
    resamples are left out. None where it is in none.
    """
    values = resampled_statistic(statistic, n)
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def resampled_statistic(statistic: Callable[[np.ndarray], float], n: int, resamples: int = _RESAMPLES) -> np.ndarray:
    """Return the (resamples,) values of a statistic on resamples of n items, drawn with a fixed seed.

    Two statistics of the same n items are thus computed on the same resamples: the values of their difference are the
    differences of their values. ``statistic`` is that of :func:`bootstrap_statistic`.
    """
    rng = np.random.default_rng(0)
    return np.array([statistic(rng.integers(n, size=n)) for _ in range(resamples)])


def share_text(share: float | None, interval: Interval | None) -> str:
    """Return a share with its interval, "74 % (60-84)", or "-" where there is none."""
    if share is None or interval is None:
        return "-"
    low, high = (f"{100 * end:.0f}" for end in interval)
    return f"{100 * share:.0f} % ({low}-{high})"


def value_text(value: float | None, interval: Interval | None) -> str:
    """Return a number with its interval, "0.52 (0.31 to 0.70)", or "-" where there is none."""
    if value is None or interval is None:
        return "-"
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"
