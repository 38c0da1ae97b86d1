"""Verdicts in words, as models write them: each reply with what it should give."""

from __future__ import annotations

import time

import pytest

from selfsteer.judges import Answer
from selfsteer.judges.verdict_parser import read_verdict

A = [
    "A",
    "A.",
    " A\n",
    "a",
    "**A**",
    "__A__",
    "(A)",
    "[[A]]",
    "'A'",
    "\\boxed{A}",
    "Answer: A.",
    "Answer: A\nAnswer B is",
    "Option A",
    "Sure! A",
    "Answer A is better",
    "I think A is better than B",
    "A is better than B",
    "A > B",
    "A and not B",
    "A, because B is wrong.",
    "A because it is correct",
    "A provides a clearer answer.",
    "A clearly answers the question",
    "A\n\nExplanation: B is wrong",
    "A\n\nB is not good",
    "Between A and B, I would pick A.",
]
B = [
    "B",
    "b",
    "**B**",
    "### B",
    "Response B",
    "Answer B provides",
    "**Answer: B**. It is",
    "Answer: **B**",
    "Final verdict: B",
    "My choice is B.",
    "I'd go with B.",
    "I'll pick B",
    "The better answer is B because A is wrong",
    "The better response is **B**.",
    "I think Answer B is better",
    "A good answer is B",
    "A better answer is B",
    "B, since A fails",
    "B is better than A",
    "Which is better? B is better.",
    "Both answers are fine, but B is better",
    "Neither answer is perfect, but B is better",
    "In this case, I would choose B because",
    "Let me compare them. So the better answer is B.",
]
TIE = [
    "tie",
    "Tie.",
    "**TIE**",
    "tied",
    "A tie",
    "Answer: tie",
    "It's a tie.",
    "It is a tie between A and B",
    "Neither",
    "Neither is better.",
    "Neither A nor B is better",
    "Both are equally good",
    "The two answers are equal",
]
INVALID = [
    "",
    " \n",
    "C",
    "Also",
    "It depends.",
    "Both A and B",
    "Both A and B are good",
    "A and B are equally good",
    "A or B",
    "A or Answer B",
    "A, B",
    "A/B",
    "A vs B",
    "A good answer",
    "Answer A's length",
    "A is worse than B",
    "A is not better",
    "A isn't better",
    "A is as good as B",
    "I don't prefer A.",
    "I would not choose B.",
    "tie-break needed",
    # cut off before any verdict: the first response is mentioned first
    "Let's look at Answer A",
    "To determine which answer is better, let's look at Answer A",
    "Let's compare the two answers: Answer A",
]


@pytest.mark.parametrize("text", A)
def test_a_reply_for_the_first(text):
    assert read_verdict(text, ("A", "B")) == Answer(1, text=text)


@pytest.mark.parametrize("text", B)
def test_a_reply_for_the_second(text):
    assert read_verdict(text, ("A", "B")) == Answer(-1, text=text)


@pytest.mark.parametrize("text", TIE)
def test_a_reply_for_neither(text):
    assert read_verdict(text, ("A", "B")) == Answer(0, text=text)


@pytest.mark.parametrize("text", INVALID)
def test_a_reply_without_a_verdict_is_invalid_and_kept(text):
    assert read_verdict(text, ("A", "B")) == Answer(0, text=text, valid=False, why="names no verdict")


def test_other_labels_are_read_as_well():
    assert read_verdict("The better answer is 2.", ("1", "2")).vote == -1
    assert read_verdict("1 and 2", ("1", "2")).valid is False
    assert read_verdict("(+) is better", ("(+)", "(-)")).vote == 1


@pytest.mark.parametrize(
    "text", ["the " * 9000, "the" + " " * 30000 + "x", "*_" * 20000, "is " * 9000, "A is a " * 6000]
)
def test_a_long_reply_is_read_in_no_time(text):
    start = time.perf_counter()
    read_verdict(text, ("A", "B"))
    assert time.perf_counter() - start < 2
