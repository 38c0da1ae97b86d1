"""The preview of a training example: which tokens have which role."""

from __future__ import annotations

import dataclasses

import pytest

from selfsteer.chat import Chat
from selfsteer.contrast import with_token_ids
from selfsteer.errors import DataError
from selfsteer.policy.preview import preview
from selfsteer.views import SSO_VIEWS, View
from tests.policy.helpers import VIEWS, contrast


@pytest.fixture
def chat(tokenizer):
    return Chat(tokenizer)


def shown(row, chat, max_length=None, views=SSO_VIEWS):
    return preview(row, views, chat, max_length, "example 1 of 1").splitlines()


def test_every_view_shows_its_prompt_and_its_two_responses_by_runs(chat):
    row = with_token_ids(contrast(0), chat)  # both responses of the base view stopped by themselves
    lines = shown(row, chat)
    assert lines[0] == "example 1 of 1: row 'q0'"
    prompt = "<|im_start|>system\\nYou help.<|im_end|>\\n<|im_start|>user\\nHow do plants make food?<|im_end|>\\n"
    count, chosen, rejected = (len(row.prompt_token_ids), len(row.positive_token_ids), len(row.negative_token_ids))
    assert lines[1:7] == [
        "  base view",
        f"    prompt, {count} tokens '{prompt}<|im_start|>assistant\\n', not trained",
        f"    chosen: positive_response, {chosen - 1} tokens 'From light, water and air.', trained",
        "    chosen: end token, 1 token '<|im_end|>', trained",
        f"    rejected: negative_response, {rejected - 1} tokens 'Plants eat food.', trained",
        "    rejected: end token, 1 token '<|im_end|>', trained",
    ]
    for view in SSO_VIEWS:
        prompt, chosen, rejected = VIEWS[view]
        at = lines.index(f"  {view} view")
        assert lines[at + 1].startswith(f"    {prompt}, ")
        assert lines[at + 2].startswith(f"    chosen: {chosen}_response, ")
        assert lines[at + 4].startswith(f"    rejected: {rejected}_response, ")


def test_a_response_without_an_end_token_says_why(chat):
    row = with_token_ids(contrast(1), chat)
    assert row.negative_finish == "length"
    lines = shown(row, chat, views=[View.BASE])
    assert lines[-1] == "    rejected: generation was cut off: no end label"
    room = row.longest_prompt + 3
    cut = shown(row, chat, max_length=room, views=[View.BASE])
    assert cut[3].startswith("    chosen: positive_response, 3 tokens 'P")
    assert cut[4] == "    chosen: cut at max_length: no end label"
    assert cut[6] == "    rejected: cut at max_length: no end label"


def test_a_response_that_just_fits_keeps_its_end_token(chat):
    row = with_token_ids(contrast(2), chat)
    room = row.longest_prompt + len(row.positive_token_ids)
    assert "    chosen: end token, 1 token '<|im_end|>', trained" in shown(row, chat, room, [View.BASE])
    assert "    chosen: cut at max_length: no end label" in shown(row, chat, room - 1, [View.BASE])


def test_control_characters_do_not_reach_the_terminal(chat):
    row = with_token_ids(contrast(0, positive_response="a\x1b[31mred\nline"), chat)
    lines = shown(row, chat, views=[View.BASE])
    assert len(lines) == 7 and "\x1b" not in "".join(lines)
    assert "'a\\x1b[31mred\\nline'" in lines[3]


def test_a_prompt_that_leaves_no_room_raises_as_in_training(chat):
    row = with_token_ids(contrast(0), chat)
    with pytest.raises(DataError, match="leaves no room"):
        shown(row, chat, max_length=row.longest_prompt)


def test_a_row_without_ids_is_named(chat):
    with pytest.raises(DataError, match="'q0' has no prompt_token_ids"):
        shown(dataclasses.replace(contrast(0)), chat)
