"""The figures of a policy, worked out by hand on three or four rows."""

from __future__ import annotations

import math
from typing import Any

import pytest

from selfsteer.confidence_intervals import bootstrap, wilson
from selfsteer.errors import ConfigError
from selfsteer.evaluation import measure, response_length
from selfsteer.evaluation.metrics import answer_drops, implicit_changes
from selfsteer.records import PROMPTS, ROLES, Contrast
from tests.chat_templates import user
from tests.example_rows import contrast, scores


def texts(positive: str, negative: str, **changes: Any) -> Contrast:
    return contrast(positive_response=positive, negative_response=negative, **changes)


def figures(*rows: Contrast, direction: str | None = None, implicit: Any = None) -> dict[str, Any]:
    return measure(rows, direction=direction, implicit=implicit)


# --- direction


def test_direction_counts_right_tied_and_wrong_rows_and_leaves_out_empty_ones():
    rows = [
        texts("One.", "One two three."),
        texts("One.", "One two."),
        texts("Same size.", "As big."),
        texts("One two three.", "One."),
        texts("One.", ""),
    ]
    found = figures(*rows, direction="shorter")
    assert found["n"] == 5
    assert found["direction"] == {
        "program": "shorter",
        "right": 2,
        "tied": 1,
        "wrong": 1,
        "share": 0.5,
        "interval": wilson(2, 4),
    }
    turned = figures(*rows, direction="longer")["direction"]
    assert (turned["right"], turned["tied"], turned["wrong"], turned["share"]) == (1, 1, 2, 0.25)


def test_direction_is_not_measured_without_a_program_or_without_a_whole_row():
    assert figures(texts("One.", "One two."))["direction"] is None
    assert figures(texts("One.", ""), direction="shorter")["direction"] is None


def test_an_unknown_direction_program_is_an_error():
    with pytest.raises(ConfigError, match="shortr"):
        figures(contrast(), direction="shortr")


# --- scores


def logs(*shares: float) -> tuple[float, ...]:
    return tuple(math.log(share) for share in shares)


def scored() -> list[Contrast]:
    """Columns are x, x+, x-."""
    return [
        contrast("1", scores=scores(logs(0.5, 0.8, 0.2), logs(0.25, 0.1, 0.4))),
        contrast("2", scores=scores(logs(0.1, 0.1, 0.1), logs(0.3, 0.3, 0.6))),
    ]


def test_onpolicyness_is_the_mean_probability_per_token_under_the_plain_prompt():
    found = figures(*scored())["onpolicyness"]
    assert found["positive_response"] == pytest.approx(0.3)  # (0.5 + 0.1) / 2
    assert found["negative_response"] == pytest.approx(0.275)  # (0.25 + 0.3) / 2
    assert found["mean"] == pytest.approx(0.2875)
    assert found["interval"] == pytest.approx(bootstrap([0.375, 0.2]))


def test_the_steering_margin_is_how_far_the_principles_pull_both_responses():
    found = figures(*scored())["steering_margin"]
    values = [math.log(0.8 / 0.2) + math.log(0.4 / 0.1), math.log(0.6 / 0.3)]
    assert found["values"] == pytest.approx(values)
    assert found["mean"] == pytest.approx(sum(values) / 2)
    assert found["interval"] == pytest.approx(bootstrap(values))


def test_mean_logps_are_told_for_each_response_under_each_prompt():
    found = figures(*scored())["mean_logps"]
    assert set(found) == {"positive_response", "negative_response", "original_response"}
    assert all(set(cells) == {"prompt", "positive_prompt", "negative_prompt"} for cells in found.values())
    cell = found["positive_response"]["negative_prompt"]
    assert cell["values"] == pytest.approx(logs(0.2, 0.1))
    assert cell["mean"] == pytest.approx((math.log(0.2) + math.log(0.1)) / 2)
    assert found["original_response"]["prompt"]["mean"] == -1.0


def test_rows_without_scores_or_with_an_empty_response_take_no_part_in_them():
    empty = contrast(negative_response="", scores=scores(logs(0.9, 0.9, 0.9), logs(0.9, 0.9, 0.9)))
    found = figures(*scored(), contrast(), empty)
    assert found["n"] == 4
    assert found["onpolicyness"] == figures(*scored())["onpolicyness"]
    assert len(found["steering_margin"]["values"]) == 2


def test_without_any_scores_what_needs_them_is_none_and_the_rest_is_there():
    found = figures(contrast(), direction="shorter")
    assert found["steering_margin"] is found["mean_logps"] is found["onpolicyness"] is found["implicit"] is None
    assert found["length"]["original"]["mean_tokens"] == 3 and found["direction"]["share"] == 1


def test_a_row_with_some_cells_only_counts_as_not_scored():
    """Read back from Parquet, cells that were not scored are None."""
    whole, partly = scored()
    partly.scores["negative_response"]["positive_prompt"] = None
    assert figures(whole, partly)["steering_margin"]["values"] == figures(whole)["steering_margin"]["values"]
    for scores_ in ({"positive_response": {"prompt": -1.0}, "negative_response": None}, {}):
        found = figures(contrast(scores=scores_))
        assert found["steering_margin"] is found["mean_logps"] is found["onpolicyness"] is None


# --- the implicit reward


def test_the_implicit_reward_is_right_where_y_plus_gained_more_than_y_minus():
    changes = [(0.2, -0.1), (0.0, 0.1), (0.1, 0.1), (-0.1, -0.5)]
    found = figures(contrast(), implicit=changes)["implicit"]
    assert (found["accuracy"], found["ties"], found["n"]) == (0.5, 1, 4)
    assert found["margin"] == pytest.approx((0.3 - 0.1 + 0.0 + 0.4) / 4)
    assert found["accuracy_interval"] == wilson(2, 4)
    assert found["margin_interval"] == pytest.approx(bootstrap([0.3, -0.1, 0.0, 0.4]))


@pytest.mark.parametrize(("max_length", "tokens"), [(None, (2, 6)), (7, (2, 4))])
def test_implicit_rewards_are_per_token_or_summed_over_the_tokens_that_were_scored(max_length, tokens):
    """Per token y+ gained 0.3 and y- 0.2; over 2 and 6 tokens that is 0.6 and 1.2, and y- gained more."""
    prompts = {f"{prompt}_token_ids": [1, 2, 3][:size] for prompt, size in zip(PROMPTS, (2, 3, 1), strict=True)}
    ids = {**prompts, "positive_token_ids": [4, 5], "negative_token_ids": [4, 5, 6, 7, 8, 9]}
    start, trained = (
        contrast(scores=scores((plus, -9, -9), (minus, -9, -9)), **ids) for plus, minus in ((-1.3, -2.2), (-1.0, -2.0))
    )
    assert implicit_changes([start], [trained])["q1"] == pytest.approx((0.3, 0.2))
    summed = implicit_changes([start], [trained], per_token=False, max_length=max_length)
    assert summed["q1"] == pytest.approx((0.3 * tokens[0], 0.2 * tokens[1]))
    for changes, per_token, expected in (((0.3, 0.2), True, ("per token", 1)), (summed["q1"], False, ("summed", 0))):
        found = measure([contrast()], direction=None, implicit=[changes], per_token=per_token)["implicit"]
        assert (found["scale"], found["accuracy"]) == expected


def test_the_start_has_no_implicit_reward():
    assert figures(contrast(), implicit=None)["implicit"] is None
    assert figures(contrast(), implicit=[])["implicit"] is None


# --- divergence from the start


def test_the_divergence_is_how_much_less_likely_the_starts_answers_became():
    start, trained = ([contrast(id=name, scores=cells(m)) for name, m in zip("ab", logps, strict=True)]
                      for logps in ((-1.0, -2.0), (-1.5, -1.75)))  # fmt: skip
    drops = answer_drops(start, reversed(trained))
    assert sorted(drops) == [-0.25, 0.5]
    found = measure(start, direction=None, implicit=None, drops=drops)["divergence"]
    assert found == {"mean": 0.125, "interval": bootstrap(drops), "n": 2}
    assert measure(start, direction=None, implicit=None)["divergence"] is None, "the start itself"


def cells(original: float) -> dict[str, Any]:
    """Scores under the plain prompt: -9 but for yo, which is another response than y+ and y-."""
    return {f"{role}_response": {"prompt": original if role == "original" else -9.0} for role in ROLES}


# --- lengths and answers


def test_length_is_in_sampled_tokens_and_in_words_where_there_are_none():
    assert response_length(contrast(original_token_ids=[1, 2, 3, 4]), "original") == 4
    assert response_length(contrast(original_response="Just  three words"), "original") == 3
    assert response_length(contrast(original_response=""), "original") == 0


def test_lengths_of_each_role():
    rows = [contrast(original_token_ids=[1] * n, original_finish=end) for n, end in ((3, "stop"), (4, "stop"))]
    rows.append(contrast(original_token_ids=[1] * 11, original_finish="length", positive_response="a b c d e"))
    found = figures(*rows)["length"]
    assert found["original"] == {
        "mean_tokens": 6,
        "median_tokens": 4,
        "capped_share": 1 / 3,
        "values": [3, 4, 11],
        "finishes": ["stop", "stop", "length"],
    }
    assert found["positive"]["values"] == [2, 2, 5] and found["positive"]["capped_share"] == 0
    assert found["negative"]["values"] == [5, 5, 5]  # "..." is no word


def test_repetition_and_empty_answers_are_counted():
    texts = ("a b c d a b c d", "", "all is well", "go on and " * 5)
    found = figures(*[contrast(original_response=text) for text in texts])["distinct"]
    # 5 4-grams, 4 of them distinct; 12, of which 3 are
    assert found == {"repetition": pytest.approx((1 / 5 + 9 / 12) / 4), "looping": 1, "empty": 1}


def test_answered_counts_answers_that_speak_of_the_last_turn():
    turns = [*user("Tell me about rivers."), {"role": "assistant", "content": "Ask."}, *user("And about plants?")]
    rows = [
        contrast(prompt=turns, original_response="Plants grow."),
        contrast(prompt=turns, original_response="A plant grows."),
        contrast(prompt=turns, original_response="Rivers run."),
        contrast(prompt=turns, original_response=""),
    ]
    assert figures(*rows)["answered"] == {"share": 0.5, "n": 4, "interval": wilson(2, 4)}
