"""FLOPs worked out by hand."""

from __future__ import annotations

import math

import pytest

from selfsteer.estimate.flops import Row, arithmetic, rows_for
from tests.estimate.shapes import paper_shape


def test_a_row_is_computed_once_and_its_last_tokens_not_at_all():
    """Prompt 3, responses 2 and 4: 3 + 1 + 3 = 7 tokens through 960 weights; 6 predicted by a head of 80.

    Pairs: the prompt 6; a response token sees the prompt and itself: 4, and 4 + 5 + 6 = 15; so 25 in each of 2 layers,
    at 4 * 8 FLOPs.
    """
    found = arithmetic(paper_shape(), [Row(3, [2, 4])])
    assert (found.layers, found.attention, found.head) == (2 * 960 * 7, 4 * 8 * 25 * 2, 2 * 80 * 6)
    assert found.forward == 13440 + 1600 + 960
    assert found.training == 3 * 16000
    assert found.adapting == 2 * (13440 + 960) + 3 * 1600
    assert found.again == 13440 + 1600


def test_a_window_hides_what_is_further_away():
    """Window 2 in one of the layers: the prompt 1 + 2 + 2 = 5, response tokens 2 each: 1 and 3 of them, 13 in all."""
    found = arithmetic(paper_shape(windows=(None, 2)), [Row(3, [2, 4])])
    assert found.attention == 4 * 8 * (25 + 13)


def test_rows_share_what_they_score_and_keep_to_the_limit():
    cells = [("y+", "x"), ("y-", "x"), ("yo", "x-"), ("y+", "x-")]
    found = rows_for(cells, {"x": 10, "x-": 12}, {"y+": 5, "y-": 30, "yo": 7}, limit=18)
    assert found == [Row(10, [5, 6]), Row(12, [6, 5])]


def test_a_response_keeps_a_token_where_the_prompt_takes_all_the_room():
    assert rows_for([("y", "x")], {"x": 20}, {"y": 5}, limit=18) == [Row(20, [1])]


@pytest.mark.parametrize("length", [1, 5, 40])
def test_a_wide_window_hides_nothing(length):
    rows = [Row(length, [length])]
    assert arithmetic(paper_shape(windows=(1000, 1000)), rows) == arithmetic(paper_shape(), rows)


def test_the_benchmark_counts_with_this():
    """benchmarks/measuring.py once had a formula of its own; these are its numbers for three rows of a tiny Llama."""
    from selfsteer.estimate.model_shape import shape_of
    from tests.logprobs.tiny import tiny_model

    found = arithmetic(shape_of(tiny_model("llama")), [Row(7, (5, 3)), Row(9, (5, 3)), Row(9, (4, 5))])
    assert (found.layers, found.attention, found.head) == (2027520, 122496, 97600)
    assert math.isclose(found.training, 3 * 2247616)
