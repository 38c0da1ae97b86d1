"""Filters that go by the set, thresholds that are given, languages, the steering margin, and what is tallied."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from selfsteer.errors import ConfigError, InputError
from selfsteer.quality import DropCounts, FilterChain, apply_filters, put_margin, stored_margin
from selfsteer.records import Contrast

MakeRow = Callable[..., Contrast]
Scores = Callable[..., dict[str, dict[str, float]]]


def kept(rows: list[Contrast], spec: Any) -> list[str]:
    return [row.id for row in apply_filters(rows, [spec]).kept]


# --------------------------------------------------------------------------------------------------------- length bias
def lengths(make_row: MakeRow, *pairs: tuple[int, int]) -> list[Contrast]:
    return [
        make_row(f"{p}/{n}", positive_response="yes " * p, negative_response="no " * n, original_response="maybe")
        for p, n in pairs
    ]


def test_the_longest_of_the_pairs_that_are_too_many_go(make_row: MakeRow) -> None:
    rows = lengths(make_row, (2, 1), (3, 1), (9, 1), (5, 1), (1, 2), (1, 9), (4, 4))
    # two pairs with a shorter y+ allow two of the four with a longer one: the ratios 2 and 3, not 5 and 9
    report = apply_filters(rows, [{"length_bias": {"max_share": 0.5}}])
    assert [row.id for row in report.kept] == ["2/1", "3/1", "1/2", "1/9", "4/4"]
    assert report.thresholds == {"length_bias.longer": 5.0}
    assert kept(rows, {"length_bias": {"max_share": 0.6}}) == ["2/1", "3/1", "5/1", "1/2", "1/9", "4/4"]  # 3 of 5
    assert len(kept(rows, {"length_bias": {"max_share": 0.7}})) == 7


def test_ties_never_let_the_share_grow(make_row: MakeRow) -> None:
    rows = lengths(make_row, (1, 3), (2, 6), (3, 9), (2, 1))
    assert kept(rows, {"length_bias": {"max_share": 0.5}}) == ["2/1"]


# ------------------------------------------------------------------------------------------------------ given averages
def scored(make_row: MakeRow, scores: Scores, *values: float) -> list[Contrast]:
    """Rows with m(y+|x) = m(y-|x) = value, and a margin of twice the value's distance from 0."""
    return [make_row(f"{v}", scores=scores((0.0, v, v), (0.0, v, v))) for v in values]


def test_thresholds_of_an_earlier_set_take_the_place_of_its_own(make_row: MakeRow, scores: Scores) -> None:
    rows = scored(make_row, scores, -1.0, -2.0, -3.0)
    first = apply_filters(rows, ["near_onpolicy"])
    assert [row.id for row in first.kept] == ["-1.0", "-2.0"]
    thresholds = {name.partition(".")[2]: value for name, value in first.thresholds.items()}
    assert thresholds == {"positive_response": -2.0, "negative_response": -2.0}
    later = scored(make_row, scores, -1.5, -5.0, -6.0)  # by their own average of -4.17 nothing else would change
    assert kept(later, {"near_onpolicy": {"thresholds": {"positive_response": -5.5, "negative_response": -5.5}}}) == [
        "-1.5",
        "-5.0",
    ]
    chain = FilterChain([{"near_onpolicy": {"thresholds": thresholds}}])  # needs no pass over the set
    assert [chain.apply(row).kept for row in later] == [True, False, False]
    assert chain.thresholds == first.thresholds


@pytest.mark.parametrize("name", ["near_onpolicy", "steering_gap"])
@pytest.mark.parametrize("given", [{"positive_response": 1.0}, {"positive": 1.0, "negative": 1.0}, {}])
def test_both_thresholds_must_be_given(name: str, given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="are named positive_response, negative_response, got") as caught:
        FilterChain([{name: {"thresholds": given}}])
    assert "positive_response and negative_response" in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- margins
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("steering_margin", ["0.5", "-1.0", "-2.0"]),
        ({"steering_margin": {"min": 2.0}}, ["-1.0", "-2.0"]),
        ({"steering_margin": {"top": 0.25}}, ["-2.0"]),
        ({"steering_margin": {"top": 0.3}}, ["-1.0", "-2.0"]),  # 1.2 rows: two
        ({"steering_margin": {"top": 1.0}}, ["1.0", "0.5", "-1.0", "-2.0"]),
    ],
)
def test_margins_are_kept_from_a_value_or_a_share_on(
    make_row: MakeRow, scores: Scores, spec: Any, expected: list[str]
) -> None:
    rows = scored(make_row, scores, 1.0, -1.0, -2.0)  # margins -2, 2, 4
    rows.insert(1, make_row("0.5", scores=scores((0.5, 0, 0.0), (0.0, 0, 0.0))))  # margin 0.5
    assert kept(rows, spec) == expected


def test_the_margin_takes_one_setting_and_needs_scores(make_row: MakeRow) -> None:
    with pytest.raises(ConfigError, match="min or top, not both"):
        FilterChain([{"steering_margin": {"min": 0.0, "top": 0.5}}])
    with pytest.raises(InputError, match="'steering_margin' needs log-probs"):
        apply_filters([make_row()], ["steering_margin"])


SELF_REWARDS = {"r1": (3, 2, 0.5, 0.0), "r2": (1, 10, 0.5, 0.4), "r3": (20, 1, -0.1, 0.5)}
"""Tokens of y+ and y-, m(y+|x+) - m(y+|x-), m(y-|x-) - m(y-|x+); summed: 1.5, 4.5, -1.5; per token: 0.5, 0.9, 0.4."""


def with_ids(make_row: MakeRow, scores: Scores) -> list[Contrast]:
    return [
        make_row(id, positive_token_ids=[1] * n, negative_token_ids=[2] * m,
                 scores=scores((up - 1, -1, -1), (down - 1, -1, -1)))
        for id, (n, m, up, down) in SELF_REWARDS.items()
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("self_reward", ["r1", "r2"]),
        ({"self_reward": {"min": 2.0}}, ["r2"]),
        ({"self_reward": {"top": 0.6}}, ["r1", "r2"]),
        ("steering_margin", ["r1", "r2", "r3"]),
    ],
)
def test_the_self_reward_sums_where_the_steering_margin_takes_means(
    make_row: MakeRow, scores: Scores, spec: Any, expected: list[str]
) -> None:
    assert [row.id for row in apply_filters(with_ids(make_row, scores), [spec]).kept] == expected


def test_a_row_is_dropped_with_its_self_reward_and_one_without_ids_is_no_row_for_it(
    make_row: MakeRow, scores: Scores
) -> None:
    rows = with_ids(make_row, scores)
    found = apply_filters(rows, ["self_reward"]).rows[2]
    assert found.drop_reason == "self_reward: the self-reward margin, -1.5, is below 0"
    bare = dataclasses.replace(rows[0], positive_token_ids=None)
    with pytest.raises(InputError, match="needs token ids"):
        apply_filters([bare], ["self_reward"])
    with pytest.raises(InputError, match="'self_reward' needs log-probs"):
        apply_filters([make_row()], ["self_reward"])


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("reward_margin", "ac"), ({"reward_margin": {"min": 1.0}}, "c"), ({"reward_margin": {"top": 0.5}}, "ac")],
)
def test_pairs_that_a_reward_model_ranks_the_other_way_are_dropped(make_row: MakeRow, spec: Any, expected: str) -> None:
    rows = [
        put_margin(make_row(name), margin, "key") for name, margin in zip("abcd", (0.25, -0.5, 3.0, None), strict=True)
    ]
    report = apply_filters(rows, [spec])
    assert "".join(row.id for row in report.kept) == expected
    assert report.rows[3].drop_reason == "reward_margin: the pair does not fit into the reward model's context"


def test_the_reward_margin_stands_in_the_reason_and_is_asked_for_where_it_lacks(make_row: MakeRow) -> None:
    row = FilterChain([{"reward_margin": {"min": 0.25}}]).apply(put_margin(make_row(), -0.5, "key"))
    assert row.drop_reason == "reward_margin: the reward margin, r(y+|x) - r(y-|x), -0.5, is below 0.25"
    with pytest.raises(InputError, match=r"quality.reward=\{model: MODEL\}"):
        apply_filters([make_row()], ["reward_margin"])
    with pytest.raises(InputError, match="this row has nan"):
        apply_filters([put_margin(make_row(), float("nan"), "key")], ["reward_margin"])
    assert stored_margin(put_margin(make_row(), 1.5, "key"), "other key") is None
    assert stored_margin(put_margin(make_row(), 1.5, "key"), "key") == "1.5"


# ----------------------------------------------------------------------------------------------------------- languages
GERMAN = "Die Hauptstadt von Frankreich ist Paris, eine sehr schöne Stadt an der Seine."
ENGLISH = "The capital of France is Paris, which is a very beautiful city on the river Seine."


@pytest.mark.parametrize(
    ("query", "positive", "why"),
    [
        ("What is the capital of France and why?", GERMAN, "y+ is in the language 'de', the query in 'en'"),
        ("Was ist die Hauptstadt von Frankreich und warum?", ENGLISH, "y+ is in the language 'en', the query in 'de'"),
        ("What is the capital of France and why?", ENGLISH, ""),
        ("What is the capital of France and why?", "Paris.", ""),  # too short to tell
        ("Please say in German what the capital of France is.", GERMAN, ""),
        ("Translate this sentence about the capital of France for me.", GERMAN, ""),
    ],
)
def test_another_language_than_the_query_is_dropped(make_row: MakeRow, query: str, positive: str, why: str) -> None:
    row = make_row(
        query=query, positive_response=positive, negative_response="Paris, Paris.", original_response="Paris"
    )
    chain = FilterChain(["language_mismatch"])
    assert chain.apply(row).drop_reason == (f"language_mismatch: {why}" if why else "")


def test_only_the_named_responses_are_looked_at(make_row: MakeRow) -> None:
    row = make_row(query="What is the capital of France and why?", original_response=GERMAN)
    assert not FilterChain(["language_mismatch"]).apply(row).kept
    assert FilterChain([{"language_mismatch": {"roles": ["positive", "negative"]}}]).apply(row).kept


# --------------------------------------------------------------------------------------------------------------- tally
def test_rows_count_under_each_of_their_aspects() -> None:
    tally = DropCounts(["empty", "leak"])
    tally.read(True, "", ["Safety", "Accuracy"], "principle: Safety; classifier: 0.90")
    tally.read(False, "leak: y+ repeats", ["Safety"], "classifier: 0.70")
    tally.read(False, "too long", ["Accuracy"])
    assert tally.counts == {"dropped_before": 1, "empty": 0, "leak": 1, "kept": 1}
    assert tally.aspects == {
        "Safety": {"empty": 0, "leak": 1, "kept": 1},
        "Accuracy": {"dropped_before": 1, "empty": 0, "leak": 0, "kept": 1},
    }
    assert tally.harmful == {"classifier": 1, "principle": 1}
