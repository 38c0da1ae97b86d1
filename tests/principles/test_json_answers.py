"""Reading JSON out of answers: what is JSON, what can be mended, and what is neither."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfsteer.principles.json_answers import read_json_answer

LEAVES = st.none() | st.booleans() | st.integers() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@pytest.mark.parametrize(
    ("text", "found", "outcome"),
    [
        ('[{"a": 1}]', [{"a": 1}], "ok"),
        ('  {"a": "b"}\n', {"a": "b"}, "ok"),
        ('```json\n[1, 2]\n```', [1, 2], "ok"),
        ('```\n{"a": 1}\n```', {"a": 1}, "ok"),
        ('Here it is:\n```json\n[{"a": 1}]\n```\nI hope it helps.', [{"a": 1}], "repaired"),
        ("{'a': 'b',}", {"a": "b"}, "repaired"),
        ('[{"a": "x"}, {"a": "cut of', [{"a": "x"}, {"a": "cut of"}], "repaired"),
        ('{"a": 1} {"b": 2}', [{"a": 1}, {"b": 2}], "repaired"),
        ("", None, "failed"),
        ("I can't help with that.", None, "failed"),
        ('He said "no" to it.', None, "failed"),
        ('"only a text"', None, "failed"),
        ("17", None, "failed"),
        ("null", None, "failed"),
        ("[]", None, "failed"),
        ("{}", None, "failed"),
        ("[" * 100_000, None, "failed"),
        ('{"a":' * 50_000, None, "failed"),
    ],
    ids=range(18),
)  # fmt: skip
def test_answers(text, found, outcome):
    assert read_json_answer(text) == (found, outcome)


@given(st.lists(JSON, min_size=1) | st.dictionaries(st.text(), JSON, min_size=1))
def test_any_json_is_read_as_it_is(value):
    assert read_json_answer(json.dumps(value)) == (value, "ok")


@given(st.text(alphabet='{}[]",:\\ab1 \n`'))
def test_no_text_makes_it_fail(text):
    found, outcome = read_json_answer(text)
    assert (found is None) == (outcome == "failed")
