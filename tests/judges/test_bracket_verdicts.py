"""Verdicts in brackets: what counts as one, which of several, and what counts as none."""

from __future__ import annotations

import pytest

from selfsteer.judges.bracket_verdicts import (
    NO_RATING,
    NO_VERDICT,
    OUT_OF_RANGE,
    Comparison,
    read_comparison,
    read_rating,
    read_winner,
)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Good. Rating: [[7]]", 7),
        ("Rating: [[7.5]] and later [[9]]", 7.5),
        ("Rating: [[8.]]", 8),
        ("see [1] and [2]; [[4]]", 4),  # double brackets before single ones, wherever they are
        ("Rating: [6]", 6),
        ("Rating: [[10]]", 10),
        ("Rating: [[1]]", 1),
        ("Rating: [[85]]", OUT_OF_RANGE),
        ("Rating: [[0]]", OUT_OF_RANGE),
        ("Rating: [[0.5]] [[7]]", OUT_OF_RANGE),  # the first is the rating: no search for a better one
        (f"[[{'9' * 400}]]", OUT_OF_RANGE),
        ("Rating: 7", NO_RATING),
        ("Rating: [[seven]]", NO_RATING),
        ("Rating: [[-3]]", NO_RATING),
        ("Rating: [[٧]]", NO_RATING),
        ("", NO_RATING),
    ],
)
def test_ratings(text, rating):
    assert read_rating(text) == rating


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("My final verdict is: [[A>>B]]", Comparison(1.0, 3)),
        ("[[A>B]]", Comparison(1.0)),
        ("[[A=B]]", Comparison(0.5)),
        ("[[B=A]]", Comparison(0.5)),
        ("[[B>A]]", Comparison(0.0)),
        ("[[B>>A]]", Comparison(0.0, 3)),
        ("[[A<B]]", Comparison(0.0)),
        ("[[A<<B]]", Comparison(0.0, 3)),
        ("[[B<<A]]", Comparison(1.0, 3)),
        ("[[b>a]]", Comparison(0.0)),
        ("First I thought [[A>>B]], but the last word is [[B>A]].", Comparison(0.0)),
        ("[A>B]", Comparison(1.0)),
        ("[[A>B]] and [B>A]", Comparison(1.0)),  # double brackets before single ones
        ("the array [A] and [[A]], [[A=B]], [[AB]]", Comparison(0.5)),
        ("[[A]]", NO_VERDICT),
        ("A>>B", NO_VERDICT),
        ("", NO_VERDICT),
    ],
)
def test_comparisons(text, verdict):
    assert read_comparison(text) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("So [[B]] it is", Comparison(0.0)),
        ("[[C]]", Comparison(0.5)),
        ("[[B]] rather than [[A]]", Comparison(1.0)),  # FastChat looks for [[A]] first
        ("[[b]]", NO_VERDICT),
        ("[A]", NO_VERDICT),
    ],
)
def test_winners(text, verdict):
    assert read_winner(text) == verdict
