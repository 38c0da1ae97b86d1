"""Cells of a row: the forms of messages that every reader knows, missing values, and what is refused by name."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from selfsteer.queries.file_readers import Unreadable
from selfsteer.queries.messages import Cells, Unusable, is_missing, read_messages
from selfsteer.queries.prompt_forms import to_prompt

NAN = float("nan")


def turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


ASKED = [turn("system", "Be kind."), turn("user", "Why?")]


@pytest.mark.parametrize(
    "messages",
    [
        ASKED,
        [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Why?"}],
        [{"role": "Developer", "content": "Be kind."}, {"role": " USER ", "content": "Why?", "name": "Ann"}],
        [{"role": "system", "content": "Be kind.", "from": None, "value": None}, {"from": "prompter", "value": "Why?"}],
        [{"role": "system", "content": [part("Be kind.")]}, {"role": "user", "content": ["Why?"], "tool_calls": []}],
        [
            {"role": "system", "content": part("Be kind.") | {"image_url": None}} | {"images": None},
            turn("user", "Why?"),
        ],
        {"role": ["system", "user"], "content": ["Be kind.", "Why?"]},
        json.dumps(ASKED),
        f" {ASKED}\n",
        json.dumps(json.dumps(ASKED)),
        str(tuple(ASKED)),
        json.dumps(ASKED).encode(),
    ],
)
@pytest.mark.parametrize("column", ["messages", "conversations", "prompt"])
def test_one_conversation_in_every_form_of_messages(column, messages):
    assert to_prompt({column: messages, "tools": None, "images": []}) == ASKED


@pytest.mark.parametrize("role", ["assistant", "GPT", "chatgpt", "Bot", "model", "AI"])
def test_the_assistant_has_many_names(role):
    assert read_messages([turn(role, "So.")], "x") == [turn("assistant", "So.")]


def test_parts_are_joined_by_line_and_columns_of_parts_are_text():
    assert to_prompt({"prompt": [part("One."), part("Two.")]}) == [turn("user", "One.\nTwo.")]


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3]: sort it",
        '{"role": "admin", "name": "x"}',
        'What is wrong with [{"role": "user", "content": "x"}]?',
        "(see below)",
        '{"type": "object"',
        '"quoted"',
        "[{x: 1}]",
    ],
)
def test_other_text_stays_text(text):
    assert to_prompt({"prompt": text}) == [turn("user", text)]


@pytest.mark.parametrize(
    "text",
    [
        '[{"role": "user", "content": "Why',
        "[{'role': 'user', 'content': 'a'}\n {'role': 'assistant', 'content': 'b'}]",  # numpy's, without commas
        "[{'content': 'Why?', 'role': 'user', 'weight': nan}]",
        "array([{'from': 'human', 'value': 'Why?'}], dtype=object)",
    ],
)
def test_text_that_was_a_conversation_is_never_taken_for_a_text(text):
    with pytest.raises(Unusable, match="looks like a list of messages") as caught:
        to_prompt({"prompt": text})
    assert "as JSON" in caught.value.do


@pytest.mark.parametrize(
    "value", [None, NAN, "", " \n", [], {}, [None], [{"role": None, "content": ""}], Decimal("NaN")]
)
def test_what_is_missing_passes_on_to_the_next_column(value):
    assert is_missing(value)
    assert to_prompt({"prompt": value, "messages": value, "text": "Why?", "id": value}) == [turn("user", "Why?")]
    assert to_prompt({"instruction": "Why?", "input": value, "system": value, "history": value}) == [
        turn("user", "Why?")
    ]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"system": "Be kind.", "question": "Why?"}, ASKED),
        ({"system_prompt": "Be kind.", "instruction": "Why?"}, ASKED),
        ({"system": "Other.", "messages": ASKED}, ASKED),
        ({"system": "Be kind.", "messages": [turn("user", "Why?")]}, ASKED),
        (
            {"instruction": "And", "input": "now?", "history": [["Why?", "So."]], "system": "Be kind."},
            [*ASKED, turn("assistant", "So."), turn("user", "And\n\nnow?")],
        ),
        ({"prompt": "Now?", "history": str([["Why?", "So."]])},
         [turn("user", "Why?"), turn("assistant", "So."), turn("user", "Now?")]),
        ({"prompt": "Why?", "history": "a page of a book"}, [turn("user", "Why?")]),
    ],
)  # fmt: skip
def test_columns_that_belong_to_a_conversation(row, prompt):
    assert to_prompt(row) == prompt


def test_a_column_that_is_named_is_taken_alone():
    assert to_prompt({"question": "Why?", "system": "Be kind.", "prompt": "x"}, "question") == [turn("user", "Why?")]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"messages": [turn("user", "a"), CALL, turn("user", "b")]}, "tool_calls"),
        ({"messages": [turn("user", "a"), CALL | {"content": "x"}, turn("user", "b")]}, "tool_calls"),
        ({"messages": [turn("user", "a"), {"role": "assistant", "function_call": {"name": "f"}}, turn("user", "b")]},
         "function_call"),
        ({"messages": [turn("tool", "20 C"), turn("user", "b")]}, "role 'tool'"),
        ({"prompt": "a", "tools": [{"name": "f"}]}, "tools"),
        ({"prompt": "a", "tools": '[{"name": "f"}]'}, "tools"),
        ({"prompt": "<image>a", "images": ["a.png"]}, "images"),
        ({"prompt": "a", "image": {"bytes": b"x", "path": None}}, "image"),
        ({"prompt": "a", "audios": ["a.wav"]}, "audio"),
        ({"prompt": "a", "videos": ["a.mp4"]}, "videos"),
        ({"messages": [{"role": "user", "content": [part("a"), {"type": "image_url", "url": "u"}]}]}, "image_url"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "text": None}]}]}, "input_audio"),
        ({"messages": [turn("user", "a"), {"role": "assistant", "content": NAN}, turn("user", "b")]}, "holds no text"),
        ({"prompt": Unreadable("a date")}, "a date"),
        ({"instruction": [turn("user", "a")], "input": "b"}, "beside an 'input'"),
        ({"prompt": "a", "history": [["b"]]}, "'history' is .* expected pairs"),
        ({"prompt": "a", "system": 5}, "'system' is a number"),
        ({"prompt": b"\xff"}, "broken text"),
    ],
)  # fmt: skip
def test_what_is_more_than_text_is_refused_by_name(row, named):
    with pytest.raises(Unusable, match=named):
        to_prompt(row)


@pytest.mark.parametrize("empty", [[], "[]", "null", "None", "nan", {}, [None], {"bytes": None, "path": None}])
def test_empty_tools_and_images_are_nothing(empty):
    assert to_prompt({"prompt": "a", "tools": empty, "image": empty}) == [turn("user", "a")]


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), ("1", 1.0), (" 1.5 ", 1.5), ("-2", -2.0), (Decimal("1.2"), 1.2), ("", None), ("nan", None), (NAN, None)],
)
def test_numbers_may_be_digits(value, number):
    assert Cells({"x": value}).number("x") == number


@pytest.mark.parametrize("value", ["one", "1 2", True, [1], "inf"])
def test_what_is_no_number(value):
    with pytest.raises(Unusable, match="expected a number"):
        Cells({"x": value}).number("x")
