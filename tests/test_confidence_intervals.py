"""95 % intervals against known values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selfsteer.confidence_intervals import bootstrap, bootstrap_statistic, resampled_statistic, wilson


@pytest.mark.parametrize(
    ("successes", "n", "interval"),
    [
        (8, 10, (0.4902, 0.9433)),
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (81, 263, (0.2553, 0.3662)),  # Newcombe 1998, table I, method 3
        (15, 148, (0.0624, 0.1605)),  # the same
        (1, 29, (0.0061, 0.1718)),  # the same
    ],
)
def test_wilson_gives_the_published_values(successes, n, interval):
    assert wilson(successes, n) == pytest.approx(interval, abs=6e-5)


def test_wilson_stays_between_0_and_1_and_around_the_share():
    for n in (1, 2, 7, 1000):
        for successes in range(0, n + 1, max(1, n // 7)):
            low, high = wilson(successes, n)
            assert 0 <= round(low, 9) <= round(successes / n, 9) <= round(high, 9) <= 1


def test_the_bootstrap_comes_near_the_normal_interval_of_a_large_sample():
    values = [0.0] * 200 + [1.0] * 200
    half = 1.96 * 0.5 / math.sqrt(400)
    assert bootstrap(values) == pytest.approx((0.5 - half, 0.5 + half), abs=0.006)


def test_the_bootstrap_is_the_same_each_time_and_moves_with_the_values():
    values = [0.3, -1.0, 2.0, 0.7]
    low, high = bootstrap(values)
    assert bootstrap(values) == (low, high) and low < 0.5 < high
    assert bootstrap([value + 3 for value in values]) == pytest.approx((low + 3, high + 3))


def test_values_without_spread_have_an_interval_without_width():
    assert bootstrap([0.25]) == bootstrap([0.25] * 5) == (0.25, 0.25)


def test_the_bootstrap_of_any_statistic_is_that_of_the_mean_where_it_is_the_mean():
    values = np.random.default_rng(1).normal(2, 3, 200)
    interval = bootstrap_statistic(lambda picks: values[picks].mean(), 200)
    assert interval == pytest.approx(bootstrap(values), abs=0.05)
    assert interval == bootstrap_statistic(lambda picks: values[picks].mean(), 200)


def test_resamples_in_which_a_statistic_is_undefined_are_left_out():
    def share_of_two(picks):
        return math.nan if len({*picks}) == 1 else picks.mean()

    assert bootstrap_statistic(share_of_two, 2) == (0.5, 0.5)
    assert bootstrap_statistic(lambda picks: math.nan, 3) is None


def test_two_statistics_of_the_same_items_are_computed_on_the_same_resamples():
    first, second = np.random.default_rng(1).normal(size=(2, 50))
    difference = resampled_statistic(lambda picks: (first - second)[picks].mean(), 50, 100)
    parts = [resampled_statistic(lambda picks, own=own: own[picks].mean(), 50, 100) for own in (first, second)]
    assert difference == pytest.approx(parts[0] - parts[1]) and len(difference) == 100
