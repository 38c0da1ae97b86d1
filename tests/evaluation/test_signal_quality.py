"""The figures of a run's signal, worked out by hand on a few rows."""

from __future__ import annotations

import math
from typing import Any

import pytest

from selfsteer.confidence_intervals import bootstrap, wilson
from selfsteer.errors import PrincipleError
from selfsteer.evaluation.row_table import plain_likelihood
from selfsteer.evaluation.signal_quality import (
    IMPLICIT,
    Chosen,
    Implicit,
    Part,
    pairs_of,
    sample_rows,
    signal_quality,
)
from selfsteer.judges import Answer, Judgement, Pair
from selfsteer.principles import load_set
from selfsteer.quality import contrastive_likelihood
from selfsteer.records import Contrast
from tests.chat_templates import user
from tests.example_rows import contrast, scores

BRIEF = load_set("brief")


def row(id: str, positive: str = "One.", negative: str = "One two.", **changes: Any) -> Contrast:
    return contrast(id, positive_response=positive, negative_response=negative, **changes)


def test_a_row_with_a_written_guideline_is_judged_by_it():
    written = row("a", aspects=[], positive_principle="Say Rayleigh.")
    (pair,) = pairs_of([written], by="aspects", principle_set=BRIEF)
    assert pair.criterion == "keeping to this guideline: Say Rayleigh."
    (pair,) = pairs_of([written], by="overall", principle_set=BRIEF)
    assert pair.criterion == ""


def test_principles_that_were_written_for_one_query_each_are_one_group():
    written = [row(f"w{i}", aspects=[], positive_principle=f"P{i}", provenance={"writing": "ok"}) for i in range(3)]
    fixed = [row("f", positive_principle="F", provenance={"writing": "fixed"}), row("o", positive_principle="F")]
    groups = only(*written, *fixed)["principles"]
    assert [(group["name"], group["n"]) for group in groups] == [
        ("written for the query (ok)", 3),
        ("Concision: F", 2),
    ]


def test_principles_of_a_set_count_one_by_one_in_whatever_order_they_were_stated():
    rows = [row("a", aspects=["Wit", "Pace"], positive_principle="W\nP", provenance={"writing": "fixed"})]
    rows.append(row("b", aspects=["Pace", "Wit"], positive_principle="P\nW"))
    rows.append(row("c", aspects=["Pace"], positive_principle="P"))
    rows.append(row("d", aspects=["Pace"], positive_principle="P\nin two lines"))
    groups = only(*rows)["principles"]
    assert [(group["name"], group["n"]) for group in groups] == [("Pace: P", 3), ("Wit: W", 2), ("P\nin two lines", 1)]


def judged(id: str, forward: Answer, backward: Answer) -> dict[str, Judgement]:
    return {id: Judgement(Pair(id, user("x"), "a", "b", label=1), forward, backward)}


def odds(id: str, forward: float, backward: float) -> dict[str, Judgement]:
    """A judge's log-odds for the response shown first, in both orders."""
    answers = [Answer((value > 0) - (value < 0), log_odds=value) for value in (forward, backward)]
    return judged(id, *answers)


def only(*rows: Contrast, program: str | None = "shorter", judge: str = "J", **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"round": 1, "label": "round 1", "rows": rows, "filtered": True} | changes
    return signal_quality(Part(**values), program_of=lambda one: program, judge=judge)


# --- pairs


def test_a_pair_claims_that_the_positive_response_is_better():
    one = row("a", "Yes.", "No way", negative_finish="length")
    (pair,) = pairs_of([one], by="overall", principle_set=BRIEF)
    assert pair == Pair("a", one.prompt, "Yes.", "No way", label=1, second_finish="length")


def test_judged_by_aspects_the_criterion_names_them_with_their_meanings():
    one = row("a", aspects=["Brevity", "Focus"])
    (pair,) = pairs_of([one], by="aspects", principle_set=BRIEF)
    assert pair.criterion == (
        "Brevity (says it in few words and then stops) and Focus (keeps to what was asked and leaves out side topics)"
    )


def test_an_aspect_that_the_set_lacks_is_an_error():
    with pytest.raises(PrincipleError, match="Wit"):
        pairs_of([row("a", aspects=["Wit"])], by="aspects", principle_set=BRIEF)


# --- accuracy


def test_accuracy_by_program_before_the_filters_and_of_what_they_kept():
    rows = [
        row("right"),
        row("tie", "One.", "Two.").drop("direction: a tie"),
        row("wrong", "One two.", "One.").drop("direction: not shorter"),
        row("also right"),
        row("empty", "", "One.").drop("empty"),
    ]
    found = only(*rows)
    assert (found["empty"], found["before"]["n"], found["kept"]["n"]) == (1, 4, 2)
    expected = {"right": 2, "tied": 1, "wrong": 1, "share": 0.5, "interval": wilson(2, 4)}
    assert found["before"]["program"] == {"program": "shorter", "n": 4, **expected}
    assert found["kept"]["program"]["share"] == 1
    assert found["before"]["judge"] is None


def test_each_row_has_its_own_program_and_rows_without_one_are_not_counted():
    programs = {"a": "shorter", "b": "longer", "c": None}
    part = Part(1, "round 1", [row(name) for name in programs], False)
    found = signal_quality(part, program_of=lambda one: programs[one.id])
    told = found["before"]["program"]
    assert (told["program"], told["n"], told["right"], told["wrong"]) == ("shorter, longer", 2, 1, 1)
    assert (found["before"]["n"], found["kept"]) == (3, None)


def test_strict_asks_for_both_orders_and_debiased_for_the_mean_of_the_log_odds():
    judgements = (
        odds("a", 2.0, -1.0)  # y+ in both orders
        | odds("b", 2.0, 1.0)  # the first shown each time, y+ by more: (2 - 1) / 2 > 0
        | odds("c", 1.0, 3.0)  # the first shown each time, y- by more
        | odds("d", -1.0, 2.0)  # y- in both orders
        | judged("e", Answer(0, valid=False), Answer(0, valid=False))
    )
    found = only(*(row(name) for name in "abcde"), judgements=judgements, program=None)["before"]["judge"]
    assert found["strict"] == {"right": 1, "tied": 3, "wrong": 1, "share": 0.2, "interval": wilson(1, 5)}
    assert found["debiased"] == {"right": 2, "tied": 1, "wrong": 2, "share": 0.4, "interval": wilson(2, 5)}
    assert found["outcomes"] == {"consistent": 2, "inconsistent": 2, "tie": 0, "invalid": 1}


def test_the_judge_is_checked_by_the_program_where_the_program_can_tell():
    rows = [row("a"), row("b"), row("wrong", "One two.", "One."), row("tie", "One.", "Two."), row("unread")]
    judgements = odds("a", 1, -1) | odds("b", -1, 1) | odds("wrong", -1, 1) | odds("tie", 1, -1)
    judgements |= judged("unread", Answer(1), Answer(0, valid=False))
    check = only(*rows, judgements=judgements)["judge_check"]
    assert (check["n"], check["right"], check["wrong"], check["share"]) == (3, 2, 1, pytest.approx(2 / 3))
    assert only(*rows)["judge_check"] is None
    assert only(*rows, judgements=judgements, program=None)["judge_check"] is None


# --- log-probs


def logs(*shares: float) -> tuple[float, ...]:
    return tuple(math.log(share) for share in shares)


SCORED = [
    row("a", scores=scores(logs(0.5, 0.8, 0.2), logs(0.25, 0.1, 0.4))),
    row("b", scores=scores(logs(0.1, 0.1, 0.1), logs(0.3, 0.3, 0.6))).drop("near_onpolicy"),
    row("not scored"),
]


def test_onpolicyness_is_that_of_the_rows_before_the_filters():
    found = only(*SCORED)
    assert found["before"]["onpolicyness"]["mean"] == pytest.approx(0.2875)  # (0.5 + 0.25 + 0.1 + 0.3) / 4
    assert found["kept"]["onpolicyness"]["mean"] == pytest.approx(0.375)
    assert found["before"]["onpolicyness"]["interval"] == pytest.approx(bootstrap([0.375, 0.2]))


def test_the_distribution_of_each_response_under_each_prompt():
    values = (-5.0, -1.0, -2.0, -4.0, -3.0)
    rows = [row(str(value), scores=scores((-9, value, -9), (-8, -8, -8))) for value in values]
    cell = only(*rows)["before"]["logps"]["positive_response"]["positive_prompt"]
    assert (cell["n"], cell["mean"]) == (5, -3)
    assert cell["quantiles"] == pytest.approx({"5": -4.8, "25": -4, "50": -3, "75": -2, "95": -1.2})
    assert cell["interval"] == pytest.approx(bootstrap(values))
    assert {len(cells) for cells in only(*rows)["before"]["logps"].values()} == {3}


def test_the_steering_margin_is_a_distribution_of_its_own():
    margin = only(*SCORED)["before"]["steering_margin"]
    values = [math.log(0.8 / 0.2) + math.log(0.4 / 0.1), math.log(0.6 / 0.3)]
    assert (margin["n"], margin["mean"]) == (2, pytest.approx(sum(values) / 2))


def test_without_log_probs_what_needs_them_is_none():
    found = only(row("a"))["before"]
    assert found["onpolicyness"] is found["steering_margin"] is found["logps"] is None
    assert found["program"]["share"] == 1


# --- groups


def test_a_row_counts_under_each_of_its_aspects_and_small_groups_have_a_size_only():
    rows = [row(str(number), aspects=["Wit", "Pace"], positive_principle="W\nP") for number in range(4)]
    rows.append(row("wrong", "One two.", "One.", aspects=["Pace"], positive_principle="Be quick.").drop("direction"))
    pace, wit = only(*rows)["aspects"]
    assert (pace["name"], pace["n"], pace["before"]["program"]["share"], pace["kept"]["n"]) == ("Pace", 5, 0.8, 4)
    assert (wit["name"], wit["n"]) == ("Wit", 4) and "before" not in wit
    assert [(group["name"], group["n"]) for group in only(*rows)["principles"]] == [
        ("Pace: P", 4), ("Wit: W", 4), ("Pace: Be quick.", 1)
    ]  # fmt: skip


def test_groups_say_how_often_they_were_chosen_and_how_much_of_them_was_kept():
    rows = [row(str(number), aspects=["Wit"]) for number in range(3)]
    rows.append(row("dropped", aspects=["Wit", "Pace"]).drop("leak: x"))
    rows.append(row("empty", positive="", aspects=["Wit"]).drop("empty: x"))
    chosen = Chosen({"Wit": 6, "Pace": 1, "Never": 2}, {f"Wit: {rows[0].positive_principle}": 7})
    part = Part(1, "round 1", rows, True, chosen=chosen)
    found = signal_quality(part, program_of=lambda row: None)
    wit, never, pace = (
        next(own for own in found["aspects"] if own["name"] == name) for name in ("Wit", "Never", "Pace")
    )
    assert (wit["chosen"], wit["n"], wit["passed"]["kept"], wit["passed"]["n"]) == (6, 4, 3, 5)
    assert wit["passed"]["share"] == 0.6 and wit["passed"]["interval"] == wilson(3, 5)
    assert (never["chosen"], never["n"], never["passed"]) == (2, 0, None), "its queries gave no row"
    assert (pace["chosen"], pace["passed"]["kept"]) == (1, 0)
    assert found["principles"][0]["chosen"] == 7
    unfiltered = signal_quality(Part(1, "round 1", rows, False), program_of=lambda row: None)
    assert unfiltered["aspects"][0]["chosen"] is unfiltered["aspects"][0]["passed"] is None


# --- candidates


def test_the_contrastive_likelihood_sums_over_tokens_where_the_margin_takes_means():
    ids = {"positive_token_ids": [1] * 3, "negative_token_ids": [1] * 10}
    one = row("a", scores=scores((-1, -0.5, -2), (-1, -3, -2.5)), **ids)
    assert contrastive_likelihood(one) == pytest.approx(3 * 1.5 - 10 * -0.5)
    assert plain_likelihood(row("b", scores=scores((-1, -9, -9), (-3, -9, -9)))) == 2
    assert contrastive_likelihood(row("c", scores=one.scores)) is None
    assert contrastive_likelihood(row("d", **ids)) is plain_likelihood(row("d")) is None


def candidate(found: dict[str, Any], name: str, truth: str = "program shorter") -> dict[str, Any]:
    (one,) = [one for one in found["candidates"] if (one["score"], one["truth"]) == (name, truth)]
    return one


def with_plain(id: str, value: float, positive: str = "One.", negative: str = "One two.", **changes: Any) -> Contrast:
    """A row of a given plain likelihood."""
    return row(id, positive, negative, scores=scores((value, -1, -1), (0, -1, -1)), **changes)


PLAIN = [
    with_plain("a", -0.1),
    with_plain("b", -0.3),
    with_plain("c", -0.2, "One two.", "One."),  # wrong
    with_plain("d", -0.4, "One two.", "One."),  # wrong
    with_plain("tie", -0.5, "One.", "Two."),
    row("not scored"),
]


def test_a_candidate_is_compared_with_the_truth_of_the_rows_that_have_both():
    one = candidate(only(*PLAIN), "plain likelihood")
    assert (one["n"], one["wrong"]) == (4, 2)
    assert one["left_out"] == {"unknown": 0, "tied": 1, "unscored": 1}
    assert one["calibration"]["auc"] == 0.75  # of the four right-wrong pairs only b < c is in the wrong order
    assert one["calibration"]["accuracy_as_judge"] == 0.5  # below zero throughout: says "wrong" of all four
    assert [kept["accuracy"] for kept in one["kept"]] == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert [kept["n"] for kept in one["kept"]] == [1, 2, 3, 4]


def test_program_and_judge_are_truths_of_their_own():
    judgements = odds("a", 1, -1) | odds("b", -1, 1) | odds("c", 1, 1) | judged("d", Answer(1), Answer(0, valid=False))
    found = only(*PLAIN, judgements=judgements)
    one = candidate(found, "plain likelihood", "J, debiased")
    assert (one["n"], one["wrong"]) == (2, 1)
    assert one["left_out"] == {
        "unknown": 3,
        "tied": 1,
        "unscored": 0,
    }  # "unread" is no verdict, evened-out odds are a tie
    assert {one["truth"] for one in found["candidates"]} == {"program shorter", "J, debiased"}


def test_without_any_truth_there_is_nothing_to_compare_with():
    assert only(*PLAIN, program=None)["candidates"] == []


def test_a_score_that_no_row_has_is_said_to_be_unknown():
    one = candidate(only(*PLAIN), "contrastive likelihood (DLMA)")
    assert (one["n"], one["calibration"], one["kept"]) == (0, None, [])
    assert one["worth"].startswith("unknown") and one["left_out"]["unscored"] == 5


def test_the_implicit_reward_is_compared_on_the_starts_held_out_pairs():
    start = [row("h1"), row("h2", "One two.", "One."), row("h3")]
    implicit = Implicit(start, {"h1": 0.5, "h2": -0.1, "h3": 0.0}, "summed")
    one = candidate(only(row("a"), implicit=implicit), f"{IMPLICIT}, summed")
    assert (one["n"], one["wrong"], one["calibration"]["auc"]) == (3, 1, 1.0)
    assert one["calibration"]["accuracy_as_judge"] == pytest.approx(2 / 3)
    by_judge = only(row("a"), implicit=Implicit(start, implicit.rewards, "summed", odds("h1", 1, -1)))
    assert candidate(by_judge, f"{IMPLICIT}, summed", "J, debiased")["n"] == 1


def test_a_sample_is_seeded_part_of_any_larger_one_and_blind_to_the_order_of_the_rows():
    rows = [row(str(number)) for number in range(20)]
    some = sample_rows(rows, 5, seed=0)
    assert len(some) == 5 and some == sample_rows(rows[::-1], 5, seed=0) == sorted(some, key=lambda one: one.id)
    assert {one.id for one in some} < {one.id for one in sample_rows(rows, 9, seed=0)}
    assert some != sample_rows(rows, 5, seed=1)
    assert len(sample_rows(rows, None, seed=0)) == len(sample_rows(rows, 99, seed=0)) == 20
