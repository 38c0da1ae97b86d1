"""Figures of a judge, worked by hand, and GPT-4's recorded verdicts on LLMBar against its published accuracies."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from selfsteer.confidence_intervals import wilson
from selfsteer.judges import Answer, Judgement, Pair
from selfsteer.judges.agreement import _kappa, agreement, by_subset, distinct, kappa, pooled

VERDICTS = Path(__file__).parents[3] / "shared" / "data" / "preferences" / "llmbar" / "gpt4_vanilla_verdicts.jsonl"


def judged(label, forward, backward, *, odds=(None, None), valid=(True, True), subset="") -> Judgement:
    """A judgement; votes are for the response shown first (1) or second (-1), as judges give them."""
    pair = Pair("x", [{"role": "user", "content": "Q"}], "A", "B", label, subset)
    one, other = (Answer(*cells) for cells in zip((forward, backward), odds, ("", ""), valid, strict=True))
    return Judgement(pair, one, other)


TEN = [
    judged(1, 1, -1),  # the first in both orders: right
    judged(1, 1, -1),
    judged(-1, -1, 1),  # the second in both orders: right
    judged(-1, 1, -1),  # wrong
    judged(1, 1, 1),  # always the first shown: no winner, debiased none either (words only)
    judged(1, 1, 1, odds=(3.0, 1.0)),  # the same, but surer of the first response: debiased right
    judged(-1, 1, 1, odds=(3.0, 1.0)),  # debiased wrong
    judged(0, 1, -1),  # a tie by its label, called for the first
    judged(1, 0, -1),  # a tie, then the first response: debiased right
    judged(None, 0, -1, valid=(False, True)),  # no label
]


def test_figures_are_those_worked_by_hand():
    figures = agreement(TEN)
    assert (figures.n, figures.n_labelled, figures.n_tied_labels) == (10, 8, 1)
    assert figures.outcomes == {"consistent": 5, "inconsistent": 3, "tie": 1, "invalid": 1}
    # votes for the place: 5 consistent pairs give one each way, 3 give two for the first, then two single -1
    assert figures.first_share == 11 / 18 and figures.first_share_interval == wilson(11, 18)
    # presentations right: 2 + 2 + 2 + 0 + 1 + 1 + 1 + (0 + 1)
    assert figures.per_order_share == 10 / 16
    strict, debiased = figures.strict, figures.debiased
    assert (strict.right, strict.wrong, strict.none) == (3, 1, 4)
    assert (strict.share, strict.interval) == (3 / 8, wilson(3, 8))
    assert (debiased.right, debiased.wrong, debiased.none) == (5, 2, 1)
    assert (debiased.share, debiased.interval) == (5 / 8, wilson(5, 8))
    # 9 labels: 5 first, 3 second, 1 tie. Strict: 4 first, 1 second, 4 none; 3 of 9 agree.
    chance = (5 * 4 + 3 * 1 + 1 * 4) / 81
    assert strict.kappa == pytest.approx((3 / 9 - chance) / (1 - chance))
    # Debiased: 7 first, 1 second, 1 none; 5 of 9 agree.
    chance = (5 * 7 + 3 * 1 + 1 * 1) / 81
    assert debiased.kappa == pytest.approx((5 / 9 - chance) / (1 - chance))
    assert debiased.kappa_interval[0] < debiased.kappa < debiased.kappa_interval[1]


def test_figures_are_json():
    figures = agreement(TEN)
    read = json.loads(json.dumps(asdict(figures)))
    assert read["outcomes"] == figures.outcomes and read["strict"]["interval"] == list(figures.strict.interval)


def test_without_labels_or_votes_nothing_is_claimed():
    figures = agreement([judged(None, 0, 0, valid=(False, False)), judged(None, 0, 0)])
    assert figures.outcomes == {"consistent": 0, "inconsistent": 0, "tie": 1, "invalid": 1}
    assert figures.n_labelled == figures.n_tied_labels == 0
    assert figures.first_share is figures.first_share_interval is figures.per_order_share is None
    verdicts = figures.strict
    assert (verdicts.right, verdicts.wrong, verdicts.none) == (0, 0, 0)
    assert verdicts.share is verdicts.interval is verdicts.kappa is verdicts.kappa_interval is None
    assert agreement([]).n == 0


def test_a_judge_that_always_says_the_first_has_no_strict_verdict_and_a_first_share_of_1():
    figures = agreement([judged(1, 1, 1), judged(-1, 1, 1)])
    assert figures.first_share == 1 and figures.per_order_share == 0.5
    assert figures.strict.none == 2 and figures.strict.share == 0


def test_subsets_are_those_of_the_pairs_in_their_order():
    right, wrong = (1, 1, -1), (1, -1, 1)
    figures = by_subset([judged(*right, subset="b"), judged(*wrong, subset="a"), judged(*wrong, subset="b")])
    assert [(name, own.n, own.strict.share) for name, own in figures.items()] == [("b", 2, 0.5), ("a", 1, 0.0)]


def test_over_several_sets_a_pair_counts_once_whichever_response_is_numbered_first():
    ask = [{"role": "user", "content": "Q"}]
    pair = Pair("x-1", ask, "A", "B", 1, "x")
    same = [Pair("y-1", ask, "B", "A", -1, "y"), Pair("z-1", ask, "A", "B", 1, "z")]
    others = [
        Pair("y-2", ask, "B", "A", 1, "y"),  # labelled the other way
        Pair("y-3", ask, "A", "B", None, "y"),
        Pair("y-4", ask, "A", "C", 1, "y"),
        Pair("y-5", [{"role": "user", "content": "Q2"}], "A", "B", 1, "y"),
        Pair("y-6", ask, "A", "B", 1, "y", criterion="Is it short?"),
    ]
    assert distinct([pair, *same, *others]) == [0, 3, 4, 5, 6, 7]
    unlabelled = [Pair("a", ask, "A", "B"), Pair("b", ask, "B", "A"), Pair("c", ask, "A", "B", 0)]
    assert distinct(unlabelled) == [0, 2]
    right = Answer(1), Answer(-1)
    found = pooled([Judgement(pair, *right), Judgement(same[1], *right), Judgement(others[2], *right[::-1])])
    assert (found.n, found.strict.right, found.strict.interval) == (2, 1, wilson(1, 2))


def test_kappa_of_the_textbook():
    """20 and 15 of 50 agree, marginals 25:25 and 30:20: po 0.7, pe 0.5, kappa 0.4."""
    one, other = [1] * 25 + [-1] * 25, [1] * 20 + [-1] * 5 + [1] * 10 + [-1] * 15
    value, (low, high) = kappa(one, other)
    assert value == pytest.approx(0.4)
    # Fleiss, Cohen and Everitt's large-sample error of this table, worked by hand, is 0.1270
    assert (low, high) == pytest.approx((0.4 - 1.96 * 0.1270, 0.4 + 1.96 * 0.1270), abs=0.03)
    assert kappa(one, other) == (value, (low, high))


def test_kappa_is_none_exactly_where_both_raters_use_one_and_the_same_category():
    assert kappa([], []) is None and kappa([0], [0]) is None and kappa([1, 1], [1, 1]) is None
    assert kappa([1, 1], [-1, -1]) == (0, (0, 0))
    assert kappa([1, 1, 1, 1], [1, -1, 0, 1])[0] == 0
    assert kappa([1, -1], [1, -1]) == (1, (1, 1))  # resamples of one item only are undefined and left out
    with pytest.raises(ValueError, match="1 ratings against 2"):
        kappa([1], [1, 0])


def test_the_kappa_of_resamples_is_scikit_learns():
    rng = np.random.default_rng(5)
    for n in (2, 3, 10, 200):
        one, other = rng.integers(-1, 2, n), rng.integers(-1, 2, n)
        if len({*one, *other}) > 1:
            assert _kappa(one, other) == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)
    assert np.isnan(_kappa(np.array([1, 1]), np.array([1, 1])))


def test_gpt_4s_recorded_verdicts_give_its_published_average_accuracies():
    if not VERDICTS.is_file():
        pytest.skip(f"no verdicts at {VERDICTS}")
    label = {"1": 1, "2": -1}  # winners are in unswapped numbering, so the second vote is turned back
    rows = [json.loads(line) for line in VERDICTS.read_text().split("\n") if line]
    judgements = [
        judged(label[str(row["label"])], label[row["winner"]], -label[row["winner_swapped"]], subset=row["subset"])
        for row in rows
    ]
    figures = by_subset(judgements)
    assert {name: round(100 * own.per_order_share, 1) for name, own in figures.items()} == {
        "Natural": 95.5,
        "Adversarial_Neighbor": 78.7,
        "Adversarial_GPTInst": 86.4,
        "Adversarial_GPTOut": 77.7,
        "Adversarial_Manual": 80.4,
    }
    whole = agreement(judgements)
    assert whole.outcomes == {"consistent": 389, "inconsistent": 30, "tie": 0, "invalid": 0}
    assert whole.first_share == (389 + 2 * 20) / 838  # '1' then '2' in unswapped numbering is "first shown" twice
    right = sum(row["winner"] == row["winner_swapped"] == str(row["label"]) for row in rows)
    assert whole.strict.right == whole.debiased.right == right and whole.strict.none == 30
    # average accuracy is the strict share and half of the inconsistent pairs
    assert whole.per_order_share == pytest.approx((right + 30 / 2) / 419)
