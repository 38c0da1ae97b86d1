"""The JSON of the paper's authors: what a row means, both ways, and one clear message for a row that is wrong."""

from __future__ import annotations

import json

import pytest

from selfsteer.errors import DataError, SelfsteerWarning
from selfsteer.export import FORMATS, Layout, read_source
from selfsteer.export.authors import authors_problem, to_authors
from selfsteer.records import HARM_UNKNOWN
from tests.chat_templates import user
from tests.example_rows import BRIEF, LONG, QUERY, contrast
from tests.export.helpers import hard_rows, refused

ROW = {
    "instruction": "Look at my script.",
    "idx": "c91d88",
    "history": [],
    "p_system": "Your response should be Helpful.",
    "n_system": "Your response should be Unhelpful.",
    "system": "",
    "chosen": "Well structured.",
    "rejected": "Rearrange your desk.",
    "raw": "A review.",
}


def read(tmp_path, data, name="authors.json"):
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return list(read_source(path))


def test_a_row_is_a_query_under_three_system_messages_with_a_response_to_each(tmp_path):
    (row,) = read(tmp_path, [ROW])
    assert (row.id, row.split, row.aspects, row.kept, row.round) == ("c91d88", "train", [], True, 1)
    assert row.prompt == user("Look at my script.")
    assert row.positive_prompt == user("Look at my script.", "Your response should be Helpful.")
    assert row.negative_prompt == user("Look at my script.", "Your response should be Unhelpful.")
    assert (row.positive_principle, row.negative_principle) == (ROW["p_system"], ROW["n_system"])
    assert row.positive_response == "Well structured."
    assert row.negative_response == "Rearrange your desk."
    assert row.original_response == "A review."
    assert row.positive_token_ids is None and row.scores is None
    assert "no finish reasons" in row.provenance["source"]
    assert row.negative_harmful == HARM_UNKNOWN


def test_the_plain_prompt_has_a_system_message_where_the_row_has_one(tmp_path):
    (row,) = read(tmp_path, [ROW | {"system": "You are a pirate."}])
    assert row.prompt == user("Look at my script.", "You are a pirate.")


@pytest.mark.parametrize("system", [None, ""])
def test_a_missing_system_message_is_none(tmp_path, system):
    (row,) = read(tmp_path, [ROW | {"system": system}])
    assert row.prompt == user("Look at my script.")


def test_a_list_a_single_object_and_lines_are_read(tmp_path):
    expected = read(tmp_path, [ROW])
    assert read(tmp_path, ROW) == expected
    assert read(tmp_path, f"{json.dumps(ROW)}\n\n{json.dumps(ROW)}\n", "a.jsonl") == expected * 2
    assert read(tmp_path, "\ufeff" + json.dumps([ROW], indent=4)) == expected


def test_rows_without_an_idx_are_named_by_their_content(tmp_path):
    bare = {key: value for key, value in ROW.items() if key != "idx"}
    one, same, other = read(tmp_path, [bare, bare | {"history": None}, bare | {"raw": "Another."}])
    assert one.id == same.id != other.id and len(one.id) == 16
    (numbered,) = read(tmp_path, [ROW | {"idx": 0}])
    assert numbered.id == "0"


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"instruction": "x"}, "lacks p_system, n_system, chosen, rejected, raw"),
        ({key: ROW[key] for key in ROW if key != "raw"}, "lacks raw"),
        (ROW | {"chosen": ["a"]}, "'chosen' of this row is not text but a list"),
        (ROW | {"p_system": " "}, "'p_system' of this row is empty"),
        (ROW | {"instruction": ""}, "'instruction' of this row is empty"),
        (ROW | {"negative_harmful": True}, "'negative_harmful' of this row is not text but true or false"),
        (ROW | {"raw": "half \ud83d"}, "half of a surrogate pair"),
        (["a"], "a row is a list, expected an object"),
    ],
)
def test_a_wrong_row_is_left_out_and_named_with_what_to_do(tmp_path, row, what):
    expected = read(tmp_path, [ROW])
    for text, name, where in (
        ([ROW, row], "authors.json", "authors.json: row 2"),
        (f"{json.dumps(ROW)}\n{json.dumps(row)}\n", "a.jsonl", "a.jsonl:2"),
    ):
        with pytest.warns(SelfsteerWarning, match="1 of 2 rows are left out") as caught:
            assert read(tmp_path, text, name) == expected
        assert what in str(caught[0].message) and where in str(caught[0].message)
    message = refused(DataError, lambda: read(tmp_path, [row]))
    assert "no row is left of 1 rows" in message and "correct those rows" in message


def test_what_is_no_json_is_named_with_its_line(tmp_path):
    with pytest.warns(SelfsteerWarning, match=r"not valid JSON.*a\.jsonl:2"):
        read(tmp_path, f"{json.dumps(ROW)}\n{{oops\n", "a.jsonl")
    assert "a.json:3" in refused(DataError, lambda: read(tmp_path, "[\n{},\n oops]", "a.json"))
    assert len(read(tmp_path, f"{json.dumps(ROW)}\n{json.dumps(ROW)}", "a.json")) == 2
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    assert "latin.json:1" in refused(DataError, lambda: list(read_source(tmp_path / "latin.json")))


def test_a_file_of_another_kind_is_not_guessed_at(tmp_path):
    (tmp_path / "a.csv").write_text("a,b")
    assert "'a.csv' is of no known file type" in refused(DataError, lambda: list(read_source(tmp_path / "a.csv")))


def test_a_contrast_becomes_the_authors_row():
    system = "You are a pirate."
    row = contrast(
        prompt=user(QUERY, system),
        positive_prompt=user(QUERY, f"{system}\n\n{BRIEF}"),
        negative_prompt=user(QUERY, f"{system}\n\n{LONG}"),
    )
    assert to_authors(row) == {
        "idx": "q1",
        "instruction": QUERY,
        "p_system": f"{system}\n\n{BRIEF}",
        "n_system": f"{system}\n\n{LONG}",
        "system": system,
        "chosen": "It scatters.",
        "rejected": "It is a long story ...",
        "raw": "Blue light scatters.",
        "negative_harmful": "",
    }


def test_a_flag_of_harm_comes_back(tmp_path):
    rows = [contrast(negative_harmful=flag) for flag in ("principle: Safety", "")]
    assert [row.negative_harmful for row in read(tmp_path, list(map(to_authors, rows)))] == ["principle: Safety", ""]


@pytest.mark.parametrize("rows", [hard_rows(), [contrast(prompt=user(QUERY, "Own."))]], ids=["hard", "system"])
def test_there_and_back_and_there_is_the_same(tmp_path, rows):
    there = [to_authors(row) for row in rows]
    back = read(tmp_path, there)
    assert [to_authors(row) for row in back] == there
    carried = ("id", "prompt", "positive_prompt", "negative_prompt", "split", "kept", "round")
    carried += ("positive_response", "negative_response", "original_response")
    for row, found in zip(rows, back, strict=True):
        assert {name: getattr(found, name) for name in carried} == {name: getattr(row, name) for name in carried}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"prompt": [*user("a"), {"role": "assistant", "content": "b"}, *user("c")]}, "several turns"),
        ({"positive_prompt": [*user(QUERY, BRIEF), *user("more")]}, "several turns"),
        ({"positive_prompt": user(f"{BRIEF}\n\n{QUERY}"), "negative_prompt": user(f"{LONG}\n\n{QUERY}")}, "user turn"),
        ({"negative_prompt": user("Another query", LONG)}, "differs between prompts"),
        ({"prompt": [{"role": "assistant", "content": QUERY}]}, "differs"),
    ],
)
def test_what_a_single_instruction_can_not_say_is_not_carried(changes, problem):
    assert problem in authors_problem(contrast(**changes))
    assert problem in FORMATS["authors"].problem(contrast(**changes), Layout())
    assert authors_problem(contrast()) == ""
