"""The guards on hand-made figures: each fires, keeps quiet, stands just at its threshold, and can't tell."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from selfsteer.config import GuardSettings
from selfsteer.evaluation.guards import FEWEST, GUARDS, Compared, RoundFigures, best_round, check_round, rejects
from tests.guard_figures import N, figures


def standing(guard: str, now: RoundFigures, *, start: Any = None, before: Any = None, **settings: Any) -> str:
    start = start or figures(0)
    found = check_round(GuardSettings.model_validate(settings), Compared(start, before or start, now, (16, 32)))
    (one,) = [finding for finding in found if finding.guard == guard]
    assert one.round == now.round and one.detail
    return one.standing


def test_a_round_like_its_start_fires_nothing():
    found = check_round(GuardSettings(), Compared(figures(0), figures(0), figures(drops=[0.1] * N), (24, 32)))
    assert {one.guard: one.standing for one in found} == dict.fromkeys(GUARDS, "quiet")
    assert not rejects(found)


CASES = [
    # 3 times the start's length is allowed, 1.75 times that of the round before
    ("length", figures(2, lengths=[300] * N), "quiet"),
    ("length", figures(2, lengths=[301] * N), "fired"),
    ("length", figures(2, lengths=[100, 700] * 8), "quiet"),  # 4 times on average, but 2.5 to 5.5
    ("length", figures(2, lengths=[25] * N), "quiet"),
    ("length", figures(2, lengths=[24] * N), "fired"),
    # the lower end of 11 of 16 is 0.44, that of 12 of 16 0.505
    ("length", figures(2, cut=11), "quiet"),
    ("length", figures(2, cut=12), "fired"),
    # exp(-1) halved is exp(-1.693)
    ("onpolicyness", figures(positive=[-1.69] * N), "quiet"),
    ("onpolicyness", figures(positive=[-1.70] * N), "fired"),
    ("onpolicyness", figures(negative=[-1.70] * N), "fired"),
    ("onpolicyness", figures(negative=[-9.0, -1.0] * 8), "quiet"),  # half the start's on average, surely no less
    ("steering_margin", figures(margins=[0.05] * N), "quiet"),
    ("steering_margin", figures(margins=[0.049] * N), "fired"),
    ("steering_margin", figures(margins=[-0.2, 0.25] * 8), "quiet"),
    # the start's 14 of 16 less 0.25 is 0.625; the upper end of 6 of 16 is 0.61, that of 7 of 16 0.67
    ("signal_accuracy", figures(right=7), "quiet"),
    ("signal_accuracy", figures(right=6), "fired"),
    ("signal_accuracy", figures(right=5, tied=4), "quiet"),  # as good as 7
    # half of the first round's 16 of 32; the upper end of 3 of 32 is 0.242, that of 4 of 32 0.281
    ("kept", figures(2, kept=(4, 32)), "quiet"),
    ("kept", figures(2, kept=(3, 32)), "fired"),
    ("kept", figures(1, kept=(1, 32)), "quiet"),  # nothing to compare with yet
    # the lower end of 7 of 16 is 0.23, that of 8 of 16 0.28
    ("repetition", figures(looping=7), "quiet"),
    ("repetition", figures(looping=8), "fired"),
    ("divergence", figures(drops=[1.0] * N), "quiet"),
    ("divergence", figures(drops=[1.01] * N), "fired"),
    ("divergence", figures(drops=[0.0, 3.0] * 8), "quiet"),  # 1.5 on average, but 0.75 to 2.25
    ("not_finite", figures(), "quiet"),
    ("not_finite", figures(margins=[0.2] * 15 + [math.nan]), "fired"),
    ("not_finite", figures(positive=[-1.0] * 15 + [-math.inf]), "fired"),
]


@pytest.mark.parametrize(("guard", "now", "expected"), CASES)
def test_each_guard_at_its_threshold(guard, now, expected):
    # Half way up, so that the step of a round is within its own limit.
    longer = now.measured["length"]["original"]["values"][-1] > 100
    before = figures(1, lengths=[180 if longer else 100] * N) if now.round == 2 else None
    assert standing(guard, now, before=before) == expected


@pytest.mark.parametrize(("now", "expected"), [(210, "quiet"), (211, "fired")])
def test_the_length_of_a_round_is_compared_with_the_one_before_too(now, expected):
    """1.75 times 120 is 210, and 2.1 times the start's 100 is allowed."""
    assert standing("length", figures(2, lengths=[now] * N), before=figures(1, lengths=[120] * N)) == expected


def test_the_published_lengths_of_three_rounds():
    """v1 Table 1: PBAA's answers grew from 967 to 9160 characters, SSO's to 2274; evenly, 2.1 and 1.3 times a round."""
    for last, expected in ((9160, "fired"), (2274, "quiet")):
        per_round = (last / 967) ** (1 / 3)
        grown = [figures(number, lengths=[round(967 * per_round**number)] * N) for number in range(4)]
        for number in (1, 2, 3):
            assert standing("length", grown[number], start=grown[0], before=grown[number - 1]) == expected


def test_what_the_start_did_already_is_not_held_against_a_round():
    start = figures(0, looping=6, right=4, cut=12)
    for guard in ("repetition", "signal_accuracy", "length"):
        assert standing(guard, figures(looping=9, right=4, cut=16), start=start) == "quiet"
    assert standing("repetition", figures(looping=15), start=start) == "fired"


def test_a_start_whose_prompts_do_not_matter_gives_no_margin_to_lose():
    assert (
        standing("steering_margin", figures(margins=[0.0] * N), start=figures(0, margins=[-0.2, 0.2] * 8)) == "silent"
    )


def test_what_was_not_measured_keeps_a_guard_silent():
    bare = RoundFigures(1, None, None)
    found = check_round(GuardSettings(), Compared(RoundFigures(0), RoundFigures(0), bare, None))
    assert {one.guard: one.standing for one in found} == dict.fromkeys(GUARDS, "silent")
    assert all("can't tell" in one.detail for one in found)


def test_resampled_figures_of_few_queries_keep_their_guards_silent():
    few = FEWEST - 1
    start, now = (figures(number, n=few, right=few, lengths=[size] * few) for number, size in ((0, 1), (1, 50)))
    for guard in ("onpolicyness", "steering_margin", "divergence"):
        assert standing(guard, now, start=start) == "silent"
    assert standing("length", now, start=start) == "quiet"  # the share of cut-off answers has an exact interval


CHANCES = 30  # of 300, signal_accuracy fires in one


def test_chance_fires_nothing():
    """Policies that differ from their start by nothing but what was sampled, with spreads as a small model has them."""
    chance = random.Random(1)
    for _ in range(CHANCES):
        start, now = (by_chance(chance, number) for number in (0, 2))
        found = check_round(GuardSettings(), Compared(start, start, now, (shown(chance, 32, 0.4) or 1, 32)))
        assert [one for one in found if one.standing == "fired"] == []


def by_chance(chance: random.Random, round: int) -> RoundFigures:
    def normal(mean: float, deviation: float) -> list[float]:
        return [chance.gauss(mean, deviation) for _ in range(N)]

    return figures(
        round,
        kept=(shown(chance, 32, 0.4), 32) if round else None,
        lengths=[min(2048, int(chance.lognormvariate(5.0, 0.8))) for _ in range(N)],
        cut=shown(chance, N, 0.2),
        positive=normal(-1.2, 0.4),
        negative=normal(-1.0, 0.4),
        margins=normal(0.16, 0.15),
        right=shown(chance, N, 0.7),
        looping=shown(chance, N, 0.1),
        drops=normal(0.2, 0.3),
    )


def shown(chance: random.Random, n: int, share: float) -> int:
    return sum(chance.random() < share for _ in range(n))


SETTINGS = [
    ("length", {"max_ratio": 4}, figures(2, lengths=[301] * N)),
    ("length", {"max_ratio_per_round": 1.2}, figures(2, lengths=[230] * N)),
    ("length", {"min_ratio": 0.6}, figures(2, lengths=[50] * N)),
    ("length", {"max_cut_rise": 0.1}, figures(2, cut=8)),
    ("onpolicyness", {"min_ratio": 0.9}, figures(2, positive=[-1.3] * N)),
    ("steering_margin", {"min_ratio": 0.9}, figures(2, margins=[0.1] * N)),
    ("signal_accuracy", {"max_drop": 0.05}, figures(2, right=8)),
    ("signal_accuracy", {"min_accuracy": 0.8}, figures(2, right=8)),
    ("kept", {"min_ratio": 0.9}, figures(2, kept=(6, 32))),
    ("repetition", {"max_rise": 0.1}, figures(2, looping=6)),
    ("divergence", {"max_nats": 0.2}, figures(2, drops=[0.5] * N)),
]


@pytest.mark.parametrize(("guard", "setting", "now"), SETTINGS)
def test_every_threshold_acts(guard, setting, now):
    before = figures(1, lengths=[180] * N)
    usual, changed = (standing(guard, now, before=before, **own) for own in ({}, {guard: setting}))
    assert {usual, changed} == {"fired", "quiet"}


def test_actions_are_the_guards_own_or_the_common_one():
    now = figures(lengths=[500] * N, looping=16)
    settings = {"action": "rollback", "length": {"action": "warn"}, "kept": {"action": "ignore"}}
    found = check_round(GuardSettings.model_validate(settings), Compared(figures(0), figures(0), now, None))
    actions = {one.guard: one.action for one in found}
    assert actions.pop("length") == "warn" and "kept" not in actions and set(actions.values()) == {"rollback"}
    assert rejects(found)
    assert not rejects([one for one in found if one.guard == "length"]), "a warning rejects nothing"


def test_a_round_without_a_policy_fires_the_guard_that_it_concerns():
    now = RoundFigures(2, None, (24, 32), {"not_finite": "the loss is not finite (step 3)"})
    found = {one.guard: one for one in check_round(GuardSettings(), Compared(figures(0), figures(1), now, (24, 32)))}
    assert found["not_finite"].standing == "fired" and found["not_finite"].detail == "the loss is not finite (step 3)"
    assert found["kept"].standing == "quiet"


def test_details_tell_figure_interval_and_threshold():
    now = figures(lengths=[500] * N)
    found = {one.guard: one for one in check_round(GuardSettings(), Compared(figures(0), figures(0), now, None))}
    told = "answers are 5.00 times as long as the start's (95 % interval 5.00 to 5.00; fires below 0.25 or above 3)"
    assert told in found["length"].detail
    assert found["repetition"].detail.startswith("the share of answers that loop changed by 0.00 (0 of 16 loop)")


def test_the_best_round():
    good = [figures(1, right=12), figures(3, right=15), figures(4, right=15), figures(5, right=9)]
    assert best_round("last", good) == 5
    assert best_round("signal_accuracy", good) == 4, "of equals the later one"
    assert best_round("implicit_accuracy", good) == 5, "nobody measured it"
    assert best_round("signal_accuracy", [figures(1, right=2), RoundFigures(2)]) == 1
    assert best_round("last", []) is None
