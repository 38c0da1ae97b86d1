"""What goes wrong in queries that a model wrote."""

from __future__ import annotations

import pytest

from selfsteer.experimental.generated_checks import grown_fault
from tests.queries.test_checks import GERMAN


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I’m sorry, I cannot rewrite this.", "refusal"),
        ("As an AI language model, I do not have opinions.", "refusal"),
        ("Sure! Write a poem about rain.", "meta"),
        ("Here is a new request that differs from the others: write a poem.", "meta"),
        ("Make the original request harder.", "meta"),
        ("What is 2 + 2?\nAnswer: 4", "answer"),
        ("The answer is 42, because the two numbers add up to it.", "answer"),
        ("Plants turn light, water and air into sugar and oxygen in their green leaves.", "statement"),
        ("Write a letter to [Company Name] about a late parcel.", "placeholder"),
        ("Translate {{text}} into French.", "placeholder"),
        ("Explain <insert topic> to a child.", "placeholder"),
        ("Summarize the following article.", "incomplete"),
        ("Translate this into French:", "incomplete"),
    ],
)
def test_what_goes_wrong_in_grown_queries(text, check):
    assert grown_fault(text).check == check


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry for my friend who lost her cat. What can I say to her?",
        "I can't sleep. What can I do?",
        "Write an apology that begins with \"I'm sorry, but I can't\".",
        "Summarize the following article.\n\nThe sea was calm.",
        "Sort the given numbers: 3, 1, 2",
        "Sort the following words alphabetically: pear, apple",
        "Write a function that counts the words of a given text, with tests for 3 cases.",
        "What does arr[i] mean in C, and how is [link](a.html) written in Markdown?",
        "Name three rare birds of New Zealand.",
        "hund katze maus",
        GERMAN,
    ],
)
def test_good_queries_pass(text):
    assert grown_fault(text) is None
