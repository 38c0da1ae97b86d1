"""The verdict: yes, no and unclear, each on figures made for it."""

from __future__ import annotations

from typing import Any

import pytest

from selfsteer.confidence_intervals import bootstrap, wilson
from selfsteer.evaluation import verdict

LENGTH = "Did held-out answers become"
PREFERS = "Does the policy now prefer"
ONPOLICY = "Did its own data stay on-policy"
ANSWERS = "Do the answers still answer"


def figures(
    *,
    program: str | None = "shorter",
    lengths: list[int] | None = None,
    cut: int = 0,
    margins: list[float] | None = None,
    onpolicy: list[float] | None = None,
    answered: tuple[int, int] = (9, 10),
    scale: str = "per token",
) -> dict[str, Any]:
    values, share = lengths or [10] * 20, answered[0] / answered[1]
    found: dict[str, Any] = {
        "direction": {"program": program} if program else None,
        "length": {
            "original": {
                "values": values,
                "finishes": ["length"] * cut + ["stop"] * (len(values) - cut),
                "mean_tokens": sum(values) / len(values),
                "capped_share": cut / len(values),
            }
        },
        "implicit": None,
        "onpolicyness": None,
        "answered": {"share": share, "n": answered[1], "interval": wilson(*answered)},
    }
    if margins:
        accuracy = sum(margin > 0 for margin in margins) / len(margins)
        mean = sum(margins) / len(margins)
        found["implicit"] = {"accuracy": accuracy, "margin": mean, "margin_interval": bootstrap(margins)}
        found["implicit"] |= {"n": len(margins), "scale": scale}
    if onpolicy:
        found["onpolicyness"] = {"mean": sum(onpolicy) / len(onpolicy), "interval": bootstrap(onpolicy)}
    return found


def answer(question: str, before: dict[str, Any], after: dict[str, Any]) -> tuple[str, str]:
    (found,) = [row for row in verdict(before, after) if row["question"].startswith(question)]
    return found["answer"], found["detail"]


@pytest.mark.parametrize(
    ("program", "after", "expected"),
    [
        ("shorter", [5] * 20, "yes"),
        ("shorter", [15] * 20, "no"),
        ("shorter", [9, 11] * 10, "unclear"),
        ("shorter", [10] * 20, "unclear"),
        ("longer", [15] * 20, "yes"),
        ("longer", [5] * 20, "no"),
        ("longer", [9, 11] * 10, "unclear"),
    ],
)
def test_whether_answers_became_shorter_or_longer(program, after, expected):
    before = figures(program=program)
    assert answer(f"{LENGTH} {program}?", before, figures(program=program, lengths=after))[0] == expected


def test_lengths_are_compared_query_by_query():
    """The same mean change is certain where each answer shrank, and lost in the spread where only the means did."""
    before = [10 * n for n in range(1, 21)]
    shrunk = figures(lengths=[value - 3 for value in before])
    assert answer(LENGTH, figures(lengths=before), shrunk) == (
        "yes",
        "shorter for 20 of 20 queries, longer for 0; 105 -> 102 tokens on average, 0% -> 0% cut off at the token limit",
    )
    shuffled = figures(lengths=[value - 3 for value in before[10:] + before[:10]])
    assert answer(LENGTH, figures(lengths=before), shuffled)[0] == "unclear"


@pytest.mark.parametrize(("program", "expected"), [("shorter", "yes"), ("longer", "no")])
def test_an_answer_that_was_cut_off_is_longer_than_one_that_ended(program, expected):
    before, after = figures(program=program, lengths=[30] * 20, cut=20), figures(program=program, lengths=[29] * 20)
    assert answer(LENGTH, before, after)[0] == expected


def test_of_two_answers_that_were_both_cut_off_neither_is_shorter():
    """Cleaning may take more off the end of one than of the other, which says nothing about how long they are."""
    before, after = figures(lengths=[30] * 20, cut=20), figures(lengths=[25] * 20, cut=20)
    found, detail = answer(LENGTH, before, after)
    assert found == "unclear" and detail.startswith("shorter for 0 of 20 queries, longer for 0; ")


def test_without_a_length_program_nothing_is_asked_about_length():
    questions = [row["question"] for row in verdict(figures(program=None), figures(program=None))]
    assert len(questions) == 3 and not any(question.startswith(LENGTH) for question in questions)


@pytest.mark.parametrize(
    ("margins", "expected"),
    [([0.1, 0.2, 0.3] * 5, "yes"), ([-0.1, -0.2, -0.3] * 5, "no"), ([0.5, -0.4] * 5, "unclear"), (None, "unclear")],
)
def test_whether_the_policy_prefers_y_plus_more_than_its_start_did(margins, expected):
    assert answer(PREFERS, figures(), figures(margins=margins))[0] == expected


def test_the_preference_is_told_in_numbers():
    detail = answer(PREFERS, figures(), figures(margins=[0.25] * 3 + [-0.05]))[1]
    assert detail.startswith("implicit reward right in 75% of 4 held-out pairs, margin +0.175 nats per token (95 % ")
    summed = answer(PREFERS, figures(), figures(margins=[0.25] * 4, scale="summed"))[1]
    assert "margin +0.250 nats summed (95 % " in summed
    assert "not measured" in answer(PREFERS, figures(), figures())[1]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ([0.5] * 10, "yes"),
        ([0.46] * 10, "yes"),  # within a tenth of 0.5
        ([0.44] * 10, "no"),  # below, and certainly
        ([0.1, 0.74] * 5, "unclear"),  # below on average, but the interval reaches 0.45
        (None, "unclear"),
    ],
)
def test_whether_its_own_data_stayed_on_policy(after, expected):
    assert answer(ONPOLICY, figures(onpolicy=[0.5] * 10), figures(onpolicy=after))[0] == expected


def test_on_policyness_is_unclear_where_the_start_was_not_measured():
    found, detail = answer(ONPOLICY, figures(), figures(onpolicy=[0.5]))
    assert found == "unclear" and "not measured" in detail


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((9, 10), (10, 10), "yes"),
        ((9, 10), (8, 10), "yes"),  # a fall of just a tenth
        ((4, 10), (3, 10), "yes"),  # the same, though 0.4 - 0.1 > 0.3 in floats
        ((9, 10), (7, 10), "unclear"),
        ((90, 100), (50, 100), "no"),
        ((10, 10), (0, 10), "no"),
    ],
)
def test_whether_the_answers_still_answer(before, after, expected):
    assert answer(ANSWERS, figures(answered=before), figures(answered=after))[0] == expected


def test_every_row_of_the_verdict_has_a_question_an_answer_and_a_detail():
    rows = verdict(figures(onpolicy=[0.5]), figures(onpolicy=[0.5], margins=[0.1]))
    assert [row["question"][:10] for row in rows] == [text[:10] for text in (LENGTH, PREFERS, ONPOLICY, ANSWERS)]
    assert all(set(row) == {"question", "answer", "detail"} and all(row.values()) for row in rows)
