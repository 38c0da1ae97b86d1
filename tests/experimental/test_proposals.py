"""Aspects that a model proposes: the prompt, and the rules by which a proposal is taken or turned down."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfsteer.experimental.prompt_templates import template_versions
from selfsteer.experimental.proposals import TEMPLATE, inventor_messages, read_proposals
from selfsteer.principles import PrincipleSet
from selfsteer.principles.json_answers import read_json_answer
from selfsteer.records import Query
from tests.chat_templates import user

CLARITY = {
    "name": "Clarity",
    "positive": "clear",
    "negative": "confusing",
    "meaning": "can be followed at first reading",
    "positive_principle": "Use plain words and short sentences.",
    "negative_principle": "Use rare words and long sentences.",
    "requests": [1, 2],
}
QUERIES = [
    Query("q1", user("How can I run ten copies of a script on AWS with Terraform? Give me code.")),
    Query("q2", user("Write a scene in which an old sailor meets the sea again.")),
]
FRUGAL = "Use only means that most people have at home. Name a cheap substitute for whatever is special!"


def read(*items, cut=False, tail=""):
    return read_proposals(json.dumps(items) + tail, 7, QUERIES, cut=cut)


def reason(**changes):
    found = read({**CLARITY, **changes})
    assert len(found.proposals) + len(found.refused) == 1
    return found.refused[0].reason if found.refused else ""


def test_a_proposal_is_read_and_tidied():
    found = read({**CLARITY, "name": "**clarity**", "positive": "Clear.", "meaning": "can be\n followed."})
    (proposal,) = found.proposals
    assert (found.outcome, proposal.prompt, proposal.queries) == ("ok", 7, ("q1", "q2"))
    assert (proposal.aspect.name, proposal.aspect.positive) == ("Clarity", "clear")
    assert proposal.aspect.meaning == "can be followed"


@pytest.mark.parametrize(
    ("value", "ids"),
    [([2], ("q2",)), ("1, 2", ("q1", "q2")), (["Request 2"], ("q2",)), (2, ("q2",)), ([0, 3, 99], ()), (None, ()),
     ([2, 2], ("q2",)), ({"a": [1]}, ("q1",))],
)  # fmt: skip
def test_the_queries_are_found_in_any_form(value, ids):
    assert read({**CLARITY, "requests": value}).proposals[0].queries == ids


@pytest.mark.parametrize(
    "found", [CLARITY, [CLARITY], {"aspects": [CLARITY]}, {"1": CLARITY}, [[CLARITY]]], ids=range(5)
)
def test_proposals_are_found_wherever_they_stand(found):
    assert len(read_proposals(json.dumps(found), 0, QUERIES, cut=False).proposals) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"meaning": ""}, "meaning is missing"),
        ({"negative_principle": None}, "negative_principle is missing"),
        ({"positive": ["clear"]}, "positive is missing"),
        ({"name": "A very long name indeed"}, "name is too long"),
        ({"name": "x" * 41}, "name is too long"),
        ({"positive": "clear and easy to read"}, "positive is too long"),
        ({"meaning": "m " * 101}, "meaning is too long"),
        ({"positive_principle": "word " * 81}, "positive_principle is too long"),
        ({"positive_principle": "Be clear"}, "positive_principle is too short"),
        ({"meaning": "clear"}, "meaning is too short"),
        ({"positive": "clear, plain"}, "positive is not an adjective"),
        ({"negative": "score 3"}, "negative is not an adjective"),
        ({"negative": "Clear"}, "positive and negative are the same"),
        ({"negative_principle": "use plain words, and short sentences"}, "negative_principle are the same"),
        ({"meaning": "can be followed \x07 at once"}, "meaning can't be printed"),
        ({"meaning": "can be followed \ud800 at once"}, "meaning can't be printed"),
        ({"name": "Clarity (1)"}, "'Clarity (1)' can't be an aspect's name"),
        ({"name": "Warmth"}, "copies an example"),
        ({"positive_principle": FRUGAL}, "copies an example"),
        ({"negative_principle": "Write of means that most people have at home only."}, "copies an example"),
        ({"negative_principle": "Write of means that most people know."}, ""),
        ({"meaning": "what a good answer does, in a few words"}, "copies an example"),
        ({"meaning": "answers this question plainly"}, "refers to one query"),
        ({"positive_principle": "Do what request 2 asks for, and do it well."}, "refers to one query"),
        ({"positive_principle": "Say how an old sailor meets the sea."}, "repeats words of a query"),
        ({"positive_principle": "Say how to do it with Terraform in few words."}, "names something in a query"),
        ({"meaning": "AWS is explained"}, "names something in a query"),
        ({"positive_principle": "Write plainly. Give an example of each thing."}, ""),  # both words begin sentences
    ],
)  # fmt: skip
def test_what_is_turned_down(changes, words):
    found = reason(**changes)
    assert words in found if words else found == ""


def test_capitals_are_no_names_in_a_query_that_shouts():
    query = Query("q", user("SOLVE THIS IN ONE STEP WITH FORMULAS"))
    item = {**CLARITY, "positive_principle": "Use plain words in ONE STEP."}
    assert read_proposals(json.dumps([item]), 0, [query], cut=False).proposals


def test_of_an_answer_that_was_cut_off_the_last_proposal_is_lost():
    text = json.dumps([CLARITY, {**CLARITY, "name": "Pace"}])[:-40]
    found = read_proposals(text, 0, QUERIES, cut=True)
    assert [one.aspect.name for one in found.proposals] == ["Clarity"]
    assert found.refused[0].reason == "its end is cut off" and found.outcome == "repaired"
    assert len(read(CLARITY, {**CLARITY, "name": "Pace"}, cut=True).proposals) == 2, "what is whole was not cut"


def test_an_answer_without_json_has_failed():
    found = read_proposals("I think that clarity matters.", 0, QUERIES, cut=False)
    assert (found.outcome, found.proposals, found.refused) == ("failed", (), ())


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("Clear words")
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4)


@given(st.lists(st.dictionaries(st.sampled_from(list(CLARITY)), VALUES)), st.text(max_size=3), st.booleans())
def test_whatever_stands_in_an_answer_is_taken_or_turned_down(changes, tail, cut):
    items = [{**CLARITY, **change} for change in changes]
    found = read(*items, cut=cut, tail=tail)
    if not tail.strip():
        assert len(found.proposals) + len(found.refused) == len(items)
    for proposal in found.proposals:
        PrincipleSet(name="s", version=1, aspects_per_query=1, aspects=[proposal.aspect])


def test_json_that_is_nested_deep_is_passed_over():
    assert read_proposals("[" * 900 + json.dumps(CLARITY) + "]" * 900, 0, QUERIES, cut=False).proposals == ()


def test_the_prompt_shows_the_queries_in_its_last_turn_alone():
    one, other = (inventor_messages([text], ["Safety", "Accuracy"], 2) for text in ("{{ 7 * 7 }}", "Why?"))
    assert one[:-1] == other[:-1] and "Safety, Accuracy" in one[0]["content"]
    assert "{{ 7 * 7 }}" in one[-1]["content"] and "49" not in one[-1]["content"]
    assert [message["role"] for message in one] == ["system", *["user", "assistant"] * 2, "user"]
    assert inventor_messages(["Why?"], [], 2, "folded")[0]["role"] == "user"
    assert template_versions(TEMPLATE) == {TEMPLATE: "1"}


def test_a_long_query_keeps_both_ends():
    last = inventor_messages(["a" * 400 + "b" * 100 + "c" * 200], [], 1)[-1]["content"]
    assert "a" * 400 + "\n[...]\n" + "c" * 200 in last and "b" not in last.replace("JSON", "").partition("Which")[0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_examples_of_the_prompt_pass_the_rules_that_they_teach(count):
    messages = inventor_messages(["Why?"], [], count)
    for message in messages[2:-1:2]:
        found, outcome = read_json_answer(message["content"])
        assert outcome == "ok" and len(found) == min(2, count)
        assert list(found[0]) == list(CLARITY), "the keys in the order in which they are explained"
        own = [{**CLARITY, **{key: item[key] for key in ("positive", "negative", "requests")}} for item in found]
        assert not read(*own).refused, "adjectives and numbers are as asked for"
        assert {one.reason for one in read(*found).refused} == {"it copies an example of the prompt"}


def test_every_template_of_the_folder_has_a_version():
    versions = template_versions()
    assert versions.keys() == {"evolve", "invent_aspects", "self_instruct"}
    assert all(version.isdigit() for version in versions.values())
