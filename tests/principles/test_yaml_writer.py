"""A set that is written is the set that is read, whatever stands in it or in the comments."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from selfsteer.principles import list_sets, load_set, parse_set
from selfsteer.principles.yaml_writer import dump_set

BRIEF = load_set("brief")


@pytest.mark.parametrize("name", list_sets())
def test_shipped_sets_come_back(name):
    assert parse_set(dump_set(load_set(name), notes={})) == load_set(name)


@pytest.mark.parametrize("text", ["No", "1984", "a: b", "- c", "# d", "'", "null", "x" * 300, "é 日本 😀", "| >"])
def test_texts_that_yaml_would_read_otherwise_come_back(text):
    aspects = [BRIEF.aspects[0].model_copy(update={"meaning": text}), *BRIEF.aspects[1:]]
    made = BRIEF.model_copy(update={"aspects": aspects})
    assert parse_set(dump_set(made, notes={})) == made


@given(st.text(), st.text())
@example("one\x85name: x", "two\u2028  - name: x")
def test_no_comment_gets_into_the_set(head, note):
    text = dump_set(BRIEF, head=[head], notes={"Brevity": [note, "name: x"]})
    assert parse_set(text) == BRIEF


def test_comments_stand_above_their_aspect():
    lines = dump_set(BRIEF, head=["one\ntwo"], notes={"Directness": ["three " * 30]}).splitlines()
    assert lines[0] == "# one two"
    place = lines.index("  - name: Directness")
    assert lines[place - 1].startswith("  # three") and lines[place - 2].startswith("  # three")
    assert all(len(line) <= 120 for line in lines)
