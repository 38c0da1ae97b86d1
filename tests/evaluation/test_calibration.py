"""Scores against the truth: figures worked by hand, scores that tie, and what is said of them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from selfsteer.evaluation.calibration import _auc, calibrate, keep_best, worth

SCORES = [0.9, -0.2, 0.5, 0.1, -0.7, 0.3, -0.1, 0.8, -0.4, 0.2]
RIGHT = [True, False, True, False, False, True, True, True, False, True]


def test_figures_are_those_worked_by_hand():
    figures = calibrate(SCORES, RIGHT)
    assert (figures["n"], figures["accuracy"]) == (10, 0.6)
    # of 6 x 4 pairs of a right and a wrong one, only (-0.1, 0.1) is the wrong way round
    assert figures["auc"] == pytest.approx(23 / 24)
    # by its sign: wrong at 0.1 (above 0, not right) and at -0.1 (below 0, right)
    assert figures["accuracy_as_judge"] == 0.8
    # the best first: 0.9 ok, 0.8 ok, 0.5 ok | 0.3 ok, 0.2 ok | 0.1 x, -0.1 ok, -0.2 x | -0.4 x, -0.7 x
    assert [tuple(kept.values()) for kept in keep_best(SCORES, RIGHT)] == [
        (0.25, 3, 1.0), (0.5, 5, 1.0), (0.75, 8, 0.75), (1.0, 10, 0.6)
    ]  # fmt: skip


def test_the_order_of_the_pairs_changes_nothing_but_the_resamples():
    """Scores tie in many ways here."""
    scores = [0.0] * 9 + [0.5, 0.5, 1.0, 1.0, 1.0, 2.0, -1.0]
    pairs = list(zip(scores, [True, False] * 8, strict=True))
    columns = list(zip(*pairs, strict=True))
    random.Random(3).shuffle(pairs)
    shuffled = list(zip(*pairs, strict=True))
    figures = calibrate(*columns)
    assert calibrate(*shuffled) | {"auc_interval": figures["auc_interval"]} == figures
    assert keep_best(*columns) == keep_best(*shuffled)


def test_pairs_that_tie_at_a_threshold_are_all_kept():
    kept = keep_best([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [True, False, False] + [True] * 7)
    assert [one["n"] for one in kept] == [3, 10, 10, 10] and kept[0]["accuracy"] == 1 / 3


def test_every_share_keeps_at_least_one_pair():
    assert [kept["n"] for kept in keep_best([1.0, 2.0], [False, True])] == [1, 1, 2, 2]


def test_a_score_of_0_is_not_above_0():
    assert calibrate([0.0, 0.0, 0.0], [True, False, False])["accuracy_as_judge"] == 2 / 3


def test_the_auc_is_scikit_learns():
    rng = np.random.default_rng(1)
    for n in (2, 5, 50):
        scores, right = rng.integers(0, 6, n).astype(float), np.arange(n) % 2 == 0
        rng.shuffle(right)
        assert _auc(scores, right) == pytest.approx(roc_auc_score(right, scores), abs=1e-12)
    assert np.isnan(_auc(np.ones(2), np.array([True, True])))
    assert np.isnan(_auc(np.ones(2), np.array([False, False])))


def test_the_auc_interval_comes_near_hanley_and_mcneils():
    """Their large-sample error of an AUC: sqrt([A(1-A) + (n1-1)(Q1-A^2) + (n0-1)(Q2-A^2)] / (n1 n0))."""
    rng = np.random.default_rng(0)
    right = np.arange(400) % 2 == 0
    figures = calibrate(rng.exponential(np.where(right, 2.0, 1.0)), right)
    area, n = figures["auc"], 200
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = ((area * (1 - area) + (n - 1) * (q1 + q2 - 2 * area**2)) / n**2) ** 0.5
    assert figures["auc_interval"] == pytest.approx((area - 1.96 * error, area + 1.96 * error), abs=0.01)


def test_what_is_said_follows_the_interval():
    rng = np.random.default_rng(0)
    right = rng.random(300) < 0.7
    noise = rng.normal(size=300)
    good, bad, none = (calibrate(noise + shift * right, right) for shift in (1.0, -1.0, 0.0))
    assert good["auc_interval"][0] > 0.5 > bad["auc_interval"][1]
    assert none["auc_interval"][0] < 0.5 < none["auc_interval"][1]
    assert [worth(figures).partition(":")[0] for figures in (good, bad, none)] == [
        "worth filtering by",
        "misleading",
        "no evidence that it is worth filtering by",
    ]
    told = good | {"n": 300, "auc": 0.714, "auc_interval": (0.6512, 0.789)}
    assert worth(told) == "worth filtering by: AUC 0.71 (95 % interval 0.65 to 0.79) over 300 pairs"
    # an interval that touches 0.5 shows nothing, either way
    assert worth(good | {"auc_interval": (0.5, 0.7)}).startswith("no evidence")
    assert worth(good | {"auc_interval": (0.3, 0.5)}).startswith("no evidence")


@pytest.mark.parametrize(("wrong", "said"), [(4, "too few to tell (4 wrong)"), (5, "worth filtering by")])
def test_perfect_separation_of_a_few_pairs_is_no_verdict(wrong, said):
    right = [False] * wrong + [True] * 20
    assert worth(calibrate(range(len(right)), right)).partition(":")[0] == said
    turned = worth(calibrate(range(len(right)), [not one for one in right])).partition(":")[0]
    assert turned == (said.replace("wrong", "right") if wrong < 5 else "misleading")


@pytest.mark.parametrize("right", [True, False])
def test_pairs_that_are_all_right_or_all_wrong_have_no_auc(right):
    figures = calibrate([1.0, 2.0], [right, right])
    assert figures["auc"] is figures["auc_interval"] is None and figures["accuracy"] == right
    said = f"no evidence that it is worth filtering by: all of the 2 pairs are {'right' if right else 'wrong'}"
    assert worth(figures) == said
