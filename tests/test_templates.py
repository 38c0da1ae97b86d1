"""Templates: versions, values that are never run, and lists in words."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from selfsteer.templates import Templates, and_list


@pytest.fixture
def templates(tmp_path):
    (tmp_path / "ask.jinja").write_text(
        "{# version: 3 #}\n{% macro one(text, words) %}\n\n{{ text }}: {{ words | and_list }}\n{% endmacro %}\n"
    )
    (tmp_path / "other.jinja").write_text("{# version: 2b #}\n")
    return Templates(tmp_path)


def test_a_part_is_rendered_without_outer_blanks_and_markup_in_values_is_text(templates):
    assert templates.render("ask", "one", text="{{ 7 * 7 }} <b>", words=["a", "b"]) == "{{ 7 * 7 }} <b>: a and b"


def test_a_missing_value_is_an_error(templates):
    with pytest.raises(UndefinedError):
        templates.render("ask", "one", text="a")


def test_versions_of_all_or_of_some(templates):
    assert templates.versions() == {"ask": "3", "other": "2b"}
    assert templates.versions("ask") == {"ask": "3"}


def test_contents_change_with_a_text_whose_version_stays(templates):
    before = templates.contents()
    assert before.keys() == {"ask", "other"} and before["ask"].startswith("3 ")
    with (templates.folder / "ask.jinja").open("a") as file:
        file.write("{# more #}")
    after = templates.contents("ask")
    assert after.keys() == {"ask"} and after["ask"] != before["ask"]


def test_a_template_must_start_with_its_version(templates):
    (templates.folder / "none.jinja").write_text("no version\n")
    with pytest.raises(AssertionError, match=r"none\.jinja"):
        templates.versions()


def test_and_list():
    assert [and_list("ABCD"[:n]) for n in range(5)] == ["", "A", "A and B", "A, B and C", "A, B, C and D"]
