"""Principle pairs, steering messages and steered prompts."""

import copy
import dataclasses

import pytest

from selfsteer.errors import DataError, PrincipleError
from selfsteer.principles import PrinciplePair, fold_system, load_set, pair_for, steer, steering_message

QUALITY, BRIEF = load_set("quality"), load_set("brief")
USER = {"role": "user", "content": "Why is the sky blue?"}
OWN = {"role": "system", "content": "You are Ada."}
TURNS = [USER, {"role": "assistant", "content": "Scattering."}, {"role": "user", "content": "Go on."}]


def _pair(*aspects, steering="full"):
    return PrinciplePair(
        aspects=list(aspects),
        positive_adjectives=[f"{a}-ful" for a in aspects],
        negative_adjectives=[f"{a}-less" for a in aspects],
        positive_principle="\n".join(f"Do {a}." for a in aspects),
        negative_principle="\n".join(f"Drop {a}." for a in aspects),
        steering=steering,
    )


def test_pair_of_one_aspect():
    aspect = QUALITY.aspect("Safety")
    assert pair_for(QUALITY, ["Safety"]) == PrinciplePair(
        ["Safety"], ["safe"], ["careless"], aspect.positive_principle, aspect.negative_principle, "full"
    )


def test_pair_of_several_keeps_their_order():
    pair = pair_for(QUALITY, ["Accuracy", "Concision", "Safety"])
    assert pair.positive_adjectives == ["accurate", "concise", "safe"]
    assert pair.negative_principle.split("\n") == [QUALITY.aspect(a).negative_principle for a in pair.aspects]
    assert pair_for(BRIEF, ["Focus"]).steering == "direct"


@pytest.mark.parametrize("aspects", [[], ["Safety", "Safety"]])
def test_pair_needs_distinct_aspects(aspects):
    with pytest.raises(PrincipleError, match="no principle pair can be made"):
        pair_for(QUALITY, aspects)


def test_pair_of_an_unknown_aspect():
    with pytest.raises(PrincipleError, match="'Brevity' is no aspect of the principle set 'quality'"):
        pair_for(QUALITY, ["Brevity"])


def test_full_steering_message():
    assert steering_message(_pair("joy"), "positive") == (
        "Write an answer that is joy-ful.\n"
        "Keep to the following:\n"
        "Do joy.\n"
        "Do not mention or quote these instructions in the answer."
    )
    assert steering_message(_pair("joy", "wit", "awe"), "negative") == (
        "Write an answer that is joy-less, wit-less and awe-less.\n"
        "Keep to the following:\n"
        "Drop joy.\nDrop wit.\nDrop awe.\n"
        "Do not mention or quote these instructions in the answer."
    )


def test_direct_steering_message():
    assert steering_message(_pair("joy", "wit", steering="direct"), "positive") == "Do joy.\nDo wit."
    assert steering_message(pair_for(BRIEF, ["Brevity"]), "negative") == BRIEF.aspect("Brevity").negative_principle


def test_relative_steering_message():
    """Also of a guideline, which has no adjectives."""
    for pair in (
        _pair("joy", steering="relative"),
        dataclasses.replace(_pair("joy", steering="relative"), positive_adjectives=[], negative_adjectives=[]),
    ):
        for sign, quality, principle in (("positive", "good", "Do joy."), ("negative", "bad", "Drop joy.")):
            assert steering_message(pair, sign) == (
                f"Write a relatively {quality} answer, by the following guideline:\n"
                f"{principle}\n"
                "Do not mention or quote these instructions in the answer."
            )


def test_pair_without_adjectives():
    """A pair that a model wrote for one query has a principle of its own and no adjectives."""
    pair = dataclasses.replace(_pair("joy"), positive_adjectives=[])
    assert steering_message(pair, "positive").startswith("Keep to the following:\nDo joy.\n")


@pytest.mark.parametrize("steering", ["full", "relative", "direct"])
@pytest.mark.parametrize("text", ["{{ 7*7 }}", "{% raw %}", "{principle} {0}", "<b>&</b>"])
def test_markup_in_a_principle_is_text(steering, text):
    pair = dataclasses.replace(_pair("joy", steering=steering), positive_principle=text)
    assert text in steering_message(pair, "positive").split("\n")


PRINCIPLE = {"role": "system", "content": "Be brief."}
STEERED = {
    "no system message": ([USER], "native", [PRINCIPLE, USER]),
    "own system message": (
        [OWN, USER],
        "native",
        [{"role": "system", "content": "You are Ada.\n\nBe brief."}, USER],
    ),
    "empty system message": ([{"role": "system", "content": " "}, USER], "native", [PRINCIPLE, USER]),
    "several turns": (TURNS, "native", [PRINCIPLE, *TURNS]),
    "folded": ([USER], "folded", [{"role": "user", "content": "Be brief.\n\nWhy is the sky blue?"}]),
    "folded, own": (
        [OWN, USER],
        "folded",
        [{"role": "user", "content": "You are Ada.\n\nBe brief.\n\nWhy is the sky blue?"}],
    ),
    "folded, several turns": (
        TURNS,
        "folded",
        [{"role": "user", "content": "Be brief.\n\nWhy is the sky blue?"}, *TURNS[1:]],
    ),
}


@pytest.mark.parametrize("case", STEERED)
def test_steer(case):
    prompt, system_role, expected = STEERED[case]
    before = copy.deepcopy(prompt)
    steered = steer(prompt, "Be brief.", system_role)
    assert steered == expected
    for message in steered:
        message["content"] = "changed"
    assert prompt == before, "the prompt that was given stays as it is"


def test_fold_system():
    assert fold_system([USER]) == [USER]
    assert fold_system([OWN, USER]) == [{"role": "user", "content": "You are Ada.\n\nWhy is the sky blue?"}]
    assert fold_system([TURNS[1]]) == [TURNS[1]]
    with pytest.raises(DataError, match="no user turn"):
        steer([TURNS[1]], "Be brief.", "folded")
