"""Paired differences: known values, the coverage of the interval, and the recorded preferences of AlpacaEval."""

from __future__ import annotations

import csv
import gzip
import math
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from selfsteer.significance import difference, holm, mcnemar, resampled_means, smallest_difference

RECORDED = Path(__file__).parents[2] / "shared" / "data/alpaca_eval/derived/preferences_weighted_gpt4_turbo.csv.gz"


def names(n: int) -> list[str]:
    return [f"item-{place}" for place in range(n)]


def compared(first, second, clusters, **options):
    means = resampled_means(np.array([first, second]), clusters, **options)
    return difference(float(np.mean(second) - np.mean(first)), means[1] - means[0])


def test_a_model_against_itself_differs_by_exactly_nothing():
    scores = np.random.default_rng(3).random(301)
    weights = np.random.default_rng(4).random((1, 301)).repeat(2, axis=0)
    for options in ({}, {"weights": weights}, {"strata": [str(place % 3) for place in range(301)]}):
        found = compared(scores, scores, names(301), **options)
        assert (found.value, found.interval, found.error, found.p) == (0.0, (0.0, 0.0), 0.0, 1.0)


def test_the_order_of_the_rows_changes_nothing():
    rng = np.random.default_rng(5)
    values, weights = rng.random((2, 200)), rng.random((2, 200))
    clusters, strata = np.array([f"c{place // 3}" for place in range(200)]), np.array(["a"] * 99 + ["b"] * 101)
    order = rng.permutation(200)
    here = resampled_means(values, clusters, weights=weights, strata=strata, resamples=500)
    there = resampled_means(
        values[:, order], clusters[order], weights=weights[:, order], strata=strata[order], resamples=500
    )
    assert (here == there).all()


def test_the_bootstrap_has_the_error_of_the_mean_of_clusters():
    rng = np.random.default_rng(6)
    of_cluster = rng.normal(size=100)
    values = np.repeat(of_cluster, 4) + 0.1 * rng.normal(size=400)
    clusters = np.repeat(names(100), 4)
    error = of_cluster.std(ddof=1) / 10
    assert resampled_means(values[None], clusters)[0].std() == pytest.approx(error, rel=0.03)
    assert resampled_means(values[None], names(400))[0].std() < 0.6 * error, "as if the items were independent"


def test_strata_are_resampled_by_themselves():
    """Two subjects that differ by 1: their numbers of questions are fixed, so that the difference adds no error."""
    rng = np.random.default_rng(7)
    values = np.concatenate([rng.normal(0, 0.1, 150), rng.normal(1, 0.1, 50)])
    strata = ["easy"] * 150 + ["hard"] * 50
    error = math.sqrt(150 * values[:150].var() + 50 * values[150:].var()) / 200
    assert resampled_means(values[None], names(200), strata=strata)[0].std() == pytest.approx(error, rel=0.03)
    assert resampled_means(values[None], names(200))[0].std() > 0.025


def test_a_model_counts_its_items_by_its_own_weights():
    first, second = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    weights = np.array([[3.0, 1.0], [1.0, 1.0]])
    means = resampled_means(np.array([first, second]), ["a", "b"], weights=weights, resamples=50)
    assert set(means[0]) == {0.0, 0.75, 1.0} and set(means[1]) == {0.0, 0.5, 1.0}
    empty = resampled_means(first[None], ["a", "b"], weights=np.array([[1.0, 0.0]]), resamples=50)
    assert set(empty[0][~np.isnan(empty[0])]) == {1.0} and np.isnan(empty).any()


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1, 0.13, 0.16, 0.2])
def test_the_p_value_is_below_a_twentieth_where_the_interval_leaves_0_out(shift):
    for seed in range(20):
        values = np.random.default_rng(seed).normal(shift, 0.5, 50)
        for n in (999, 1000):
            found = difference(shift, resampled_means(values[None], names(50), resamples=n)[0])
            low, high = found.interval
            assert (found.p <= 0.05) == (low > 0 or high < 0)


def _coverage(simulations: int) -> float:
    """Return how often the 95 % interval holds the true difference of two models on 120 questions of two turns."""
    covered = 0
    clusters = np.repeat(names(120), 2)
    for seed in range(simulations):
        rng = np.random.default_rng(seed)
        difficulty = np.repeat(rng.normal(0, 2, 120), 2)  # the same for both models
        first, second = (difficulty + np.repeat(rng.normal(0, 1, 120), 2) + rng.normal(0, 1, 240) for _ in range(2))
        low, high = compared(first, second + 0.3, clusters, resamples=2000).interval
        covered += low <= 0.3 <= high
    return covered / simulations


def test_the_interval_holds_the_true_difference_in_19_of_20_simulations():
    assert 0.90 <= _coverage(150) <= 0.99  # two standard deviations of 150 draws are 3.6 points


@pytest.mark.slow
def test_the_coverage_of_the_paired_interval_in_1000_simulations():
    assert 0.93 <= _coverage(1000) <= 0.97


def test_mcnemar_gives_the_values_of_the_binomial_distribution():
    def p(better, worse, same=5):
        first = np.array([0] * better + [1] * worse + [1] * same)
        return mcnemar(first, np.array([1] * better + [0] * worse + [1] * same))

    assert p(0, 0) == 1.0 and p(4, 4) == 1.0
    assert p(5, 0) == 2 / 2**5 and p(0, 5) == 2 / 2**5
    assert p(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert p(6, 16) == pytest.approx(0.05247, abs=1e-5)  # R: binom.test(6, 22)$p.value
    assert 0 < p(5000, 4600) < 1e-4, "binomial coefficients of 9,600 are beyond floats"


def test_holm_gives_the_values_of_r():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_the_smallest_difference_is_found_in_four_of_five_simulations():
    assert smallest_difference(1.0) == pytest.approx(2.80159, abs=1e-5)
    n, deviation = 200, 1.0
    effect = smallest_difference(deviation / math.sqrt(n))
    rng = np.random.default_rng(8)
    means = rng.normal(effect, deviation, (4000, n)).mean(axis=1)
    assert (np.abs(means) > 1.96 * deviation / math.sqrt(n)).mean() == pytest.approx(0.8, abs=0.02)


def test_mmlu_and_its_57_subjects_are_resampled_in_seconds():
    rng = np.random.default_rng(9)
    scores = (rng.random((2, 14_042)) < 0.4).astype(float)
    strata = [f"subject-{place % 57}" for place in range(14_042)]
    started = time.process_time()
    means = resampled_means(scores, names(14_042), strata=strata, resamples=1000)
    assert means.shape == (2, 1000) and time.process_time() - started < 5


def _preferences(model: str) -> np.ndarray:
    with gzip.open(RECORDED, "rt", encoding="utf-8") as stream:
        rows = defaultdict(dict)
        for row in csv.DictReader(stream):
            rows[row["model"]][int(row["index"])] = float(row["preference"]) - 1
    return 100 * np.array([rows[model][place] for place in range(805)])


@pytest.mark.skipif(not RECORDED.exists(), reason="the shared data are not here")
def test_pairing_halves_the_error_of_claude_2_against_claude():
    first, second = _preferences("claude"), _preferences("claude-2")
    found = compared(first, second, names(805))
    assert found.value == pytest.approx(0.2029, abs=1e-4)
    paired = (second - first).std(ddof=1) / math.sqrt(805)
    assert found.error == pytest.approx(paired, rel=0.02) and found.error == pytest.approx(0.77, abs=0.03)
    alone = resampled_means(np.array([first, second]), names(805))
    assert math.hypot(*alone.std(axis=1)) == pytest.approx(1.68, abs=0.03)
    assert found.interval[0] < 0 < found.interval[1] and found.p > 0.7
