"""The word test for collapse: what passes as an answer and what does not."""

from __future__ import annotations

import pytest

from selfsteer.evaluation.relevance import answers, repetition

GOOD = [
    ("How do plants make food?", "Plants turn light, water and carbon dioxide into sugar."),
    ("Explain photosynthesis to a child.", "A leaf is like a kitchen; photosynthetic cells cook with sunlight."),
    ("Write a haiku about autumn.", "Autumn wind arrives,\nred leaves drift across the pond,\nsilence fills the air."),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Give me tips for better sleep", "Keep the room dark, avoid screens, and go to sleep at the same hour."),
    ("Comment fonctionne un téléphone ?", "Un TÉLÉPHONE transforme la voix en signal électrique."),
]
BAD = [
    ("How do plants make food?", ""),
    ("How do plants make food?", " \n\t "),
    ("How do plants make food?", "Plants make food. " * 30),
    ("How do plants make food?", "the the the the the the the the the plants"),
    ("How do plants make food?", "gamma window however 7 letter orange blue the quick sold."),
    ("What is the capital of France?", "I am not able to help with that."),
]


@pytest.mark.parametrize(("query", "response"), GOOD)
def test_an_answer_that_speaks_of_what_was_asked_passes(query, response):
    assert answers(query, response)


@pytest.mark.parametrize(("query", "response"), BAD)
def test_silence_loops_and_word_salad_fail(query, response):
    assert not answers(query, response)


def test_a_query_without_content_words_takes_any_answer_that_is_no_loop():
    assert answers("Why?", "Because.") and answers("What would you like?", "Tea.")
    assert not answers("Why?", "so it is so it is " * 10) and not answers("Why?", "")


def test_words_that_every_query_has_are_no_content():
    assert not answers("Please explain how this works: magnets", "Please tell me what you would like this to explain.")


def test_repetition_is_the_share_of_four_grams_that_stand_before():
    assert repetition("one two three four five six") == 0
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert repetition("No. No, no! NO no") == pytest.approx(1 / 2)  # two 4-grams, case and points aside
    assert repetition("too short now") == repetition("") == 0
    assert repetition("it goes on " * 200) > 0.99


def test_the_limit_for_a_loop_can_be_set():
    response = "plants a b c d a b c d"  # 1 of 6
    assert answers("How do plants grow?", response, loop=0.2)
    assert not answers("How do plants grow?", response, loop=0.1)
