"""Reading answers: each form has its outcome, and nothing that a model writes raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfsteer.experimental.parse_generated import Reading, read_list, read_one

LIST = "1. Why is the sky blue?\n2. Write a poem about rain."
QUERIES = ("Why is the sky blue?", "Write a poem about rain.")


@pytest.mark.parametrize(
    ("text", "outcome", "queries", "why"),
    [
        (LIST, "ok", QUERIES, ""),
        (LIST.replace("\n", "\n\n") + "\n", "ok", QUERIES, ""),
        (f"Sure! Here they are:\n{LIST}", "repaired", QUERIES, "text before the list"),
        (LIST.replace(".", ")", 1), "repaired", QUERIES, "marks around an entry"),
        ('1. **Why is the sky blue?**\n2. "Write a poem about rain."', "repaired", QUERIES, "marks around an entry"),
        (
            "Request 1: Why is the sky blue?\nRequest 2: Write a poem about rain.",
            "repaired",
            QUERIES,
            "marks around an entry",
        ),
        ("1. Sort these:\n3. c\n4. a\n2. Next", "ok", ("Sort these:\n3. c\n4. a", "Next"), ""),
        ("1. Fix this:\n```\nx = 1\n```\n2. Next", "ok", ("Fix this:\n```\nx = 1\n```", "Next"), ""),
        ("1. a\n2.\n3. c", "repaired", ("a", "c"), "marks around an entry"),
        ("- Why?\n- How?", "failed", (), "no numbered list"),
        ("I'm sorry, but I can't.", "failed", (), "no numbered list"),
        ("2. Why?", "failed", (), "no numbered list"),
        (" \n", "failed", (), "empty answer"),
        ("1.\n", "failed", (), "empty entries"),
    ],
)
def test_lists(text, outcome, queries, why):
    assert read_list(text, "stop") == Reading(outcome, queries, why)


def test_a_list_that_was_cut_off_loses_its_last_entry():
    assert read_list(LIST, "length") == Reading("repaired", QUERIES[:1], "last entry cut off")
    assert read_list("1. Why is the", "length") == Reading("failed", (), "cut off in its first entry")


@pytest.mark.parametrize(
    ("text", "outcome", "query", "why"),
    [
        ("<request>Why?</request>", "ok", "Why?", ""),
        ("\n<request>\nWhy?\nHow?\n</request>\n", "ok", "Why?\nHow?", ""),
        ("Sure:\n<request>Why?</request>", "repaired", "Why?", "text outside of the tags"),
        ("<request>Why?</request> <request>How?</request>", "repaired", "Why?", "text outside of the tags"),
        ("<request>Why?", "repaired", "Why?", "no pair of tags"),
        ('Here is the rewritten request:\n\n"Why?"', "repaired", "Why?", "no pair of tags"),
        ("Well then: <request>Why?", "repaired", "Why?", "no pair of tags"),
    ],
)
def test_single_queries(text, outcome, query, why):
    assert read_one(text, "stop") == Reading(outcome, (query,), why)


@pytest.mark.parametrize("text", ["Why is it so?", "I am ready to engage.", "</request>", "Why?</request>"])
def test_a_single_query_without_any_sign_of_it_fails(text):
    assert read_one(text, "stop") == Reading("failed", (), "no tags")


@pytest.mark.parametrize("text", ["", "<request></request>", "<request> ", "Here is the request:\n"])
def test_an_answer_without_a_query_fails(text):
    assert read_one(text, "stop") == Reading("failed", (), "empty answer")


def test_a_single_query_that_was_cut_off_fails():
    assert read_one("<request>Why is", "length") == Reading("failed", (), "cut off")
    assert read_one("<request>Why?</request> and", "length").queries == ("Why?",)


ENTRY = st.from_regex(r"[A-Z][a-z]{1,8}( [a-z]{1,8}){1,5}[.?]", fullmatch=True)


@given(st.lists(ENTRY, min_size=1, max_size=12))
def test_a_well_formed_list_is_read_back(queries):
    text = "\n".join(f"{number}. {query}" for number, query in enumerate(queries, 1))
    assert read_list(text, "stop") == Reading("ok", tuple(queries))


@given(st.text(), st.sampled_from(["stop", "length"]))
def test_any_text_has_an_outcome(text, finish):
    for read in (read_list, read_one):
        reading = read(text, finish)
        assert (reading.outcome == "failed") == (not reading.queries)
        assert all(query.strip() == query != "" for query in reading.queries)
