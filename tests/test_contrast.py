"""From principled queries to requests, and from responses to rows with token ids."""

from __future__ import annotations

import dataclasses

import pytest

from selfsteer.chat import Chat
from selfsteer.contrast import Request, assemble, check_prompts_differ, requests, with_token_ids
from selfsteer.errors import ModelError
from selfsteer.principles import fold_system, steer
from selfsteer.records import PROMPTS, ROLES, Contrast
from tests.chat_templates import tokenizer_of, user
from tests.example_rows import BRIEF, LONG, QUERY, contrast, principled, responses

FAMILIES = ["chatml", "llama3", "gemma", "gemma3", "mistral"]


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(tokenizer_of("chatml"))


def test_each_response_is_asked_for_under_its_own_prompt():
    one, two = principled("q1"), principled("q2")
    assert requests([one, two])[:3] == [
        Request("q1", "positive", one.positive_prompt),
        Request("q1", "negative", one.negative_prompt),
        Request("q1", "original", one.prompt),
    ]
    assert [(request.id, request.role) for request in requests([one, two])[3:]] == [("q2", role) for role in ROLES]


@pytest.mark.parametrize("family", FAMILIES)
def test_steered_for_its_template_no_two_prompts_are_the_same(family):
    chat = Chat(tokenizer_of(family))
    prompt = user(QUERY, "You are a physicist.")
    row = principled(
        prompt=fold_system(prompt) if chat.system_role == "folded" else prompt,
        positive_prompt=steer(prompt, BRIEF, chat.system_role),
        negative_prompt=steer(prompt, LONG, chat.system_role),
    )
    check_prompts_differ(row, chat)


def test_a_template_that_drops_the_principle_is_caught():
    with pytest.raises(ModelError, match="prompt and positive_prompt of query 'q1' render the same"):
        check_prompts_differ(principled(), Chat(tokenizer_of("mistral")))


def test_each_pair_of_prompts_is_compared(chat):
    same_steering = principled(negative_prompt=user(QUERY, BRIEF))
    with pytest.raises(ModelError, match="positive_prompt and negative_prompt"):
        check_prompts_differ(same_steering, chat)
    with pytest.raises(ModelError, match="prompt and negative_prompt"):
        check_prompts_differ(principled(negative_prompt=user(QUERY)), chat)


def test_without_a_template_the_messages_themselves_must_differ():
    check_prompts_differ(principled(), None)
    with pytest.raises(ModelError, match="render the same"):
        check_prompts_differ(principled(negative_prompt=user(QUERY, BRIEF)), None)


def test_assemble_joins_three_responses_by_role():
    found = responses(
        positive={"token_ids": [1, 9], "prompt_token_ids": [10]},
        negative={"token_ids": [2], "prompt_token_ids": [11], "finish": "length"},
        original={"token_ids": [3, 9], "prompt_token_ids": [12]},
    )
    row = assemble(principled(provenance={"source": "a.jsonl"}), found, round=2, provenance={"backend": "transformers"})
    assert row == contrast(
        negative_finish="length",
        positive_token_ids=[1, 9],
        negative_token_ids=[2],
        original_token_ids=[3, 9],
        positive_prompt_token_ids=[10],
        negative_prompt_token_ids=[11],
        prompt_token_ids=[12],
        round=2,
        provenance={"backend": "transformers", "source": "a.jsonl", "choice": "all", "writing": "fixed"},
    )


def sampled(chat: Chat) -> Contrast:
    """A row with the ids as they were sampled, spelt in a way that no tokenizer would choose by itself."""
    ids = {f"{role}_token_ids": [200, 201, chat.end_ids[0]] for role in ROLES}
    ids |= {f"{prompt}_token_ids": [100, 101] for prompt in PROMPTS}
    return contrast(**ids, provenance={"tokenizer": chat.fingerprint, "seed": "3"})


def test_sampled_ids_of_the_same_tokenizer_stay_as_they_are(chat):
    row = sampled(chat)
    assert with_token_ids(row, chat) is row


def test_absent_ids_are_tokenised_and_that_is_recorded(chat):
    row = with_token_ids(contrast(provenance={"seed": "3"}), chat)
    for prompt in PROMPTS:
        assert row.prompt_ids(prompt) == chat.encode(getattr(row, prompt))
    for role in ROLES:
        assert chat.decode(row.response_ids(role)) == getattr(row, f"{role}_response")
    made = sorted([f"{prompt}_token_ids" for prompt in PROMPTS] + [f"{role}_token_ids" for role in ROLES])
    assert row.provenance == {"seed": "3", "tokenizer": chat.fingerprint, "tokenised": ",".join(made)}


def test_ids_are_made_once(chat):
    once = with_token_ids(contrast(), chat)
    assert with_token_ids(once, chat) is once


def test_only_what_is_absent_is_tokenised(chat):
    row = dataclasses.replace(sampled(chat), original_token_ids=None, prompt_token_ids=None)
    made = with_token_ids(row, chat)
    assert made.provenance["tokenised"] == "original_token_ids,prompt_token_ids"
    assert made.positive_token_ids == [200, 201, chat.end_ids[0]] and made.positive_prompt_token_ids == [100, 101]
    assert made.prompt_token_ids == chat.encode(made.prompt)


def test_ids_of_another_tokenizer_are_made_again(chat):
    other = Chat(tokenizer_of("chatml", extra=("<think>",)))
    row = with_token_ids(sampled(other), chat)
    assert chat.decode(row.response_ids("positive")) == row.positive_response
    assert row.prompt_ids("positive_prompt") == chat.encode(row.positive_prompt)
    assert row.provenance["tokenizer"] == chat.fingerprint
    assert len(row.provenance["tokenised"].split(",")) == 6


def test_an_end_token_stands_if_and_only_if_the_response_ended(chat):
    row = with_token_ids(contrast(negative_finish="length"), chat)
    ends = {role: row.response_ids(role)[-1] == chat.end_ids[0] for role in ROLES}
    assert ends == {"positive": True, "negative": False, "original": True}
    assert all(row.response_ids(role).count(chat.end_ids[0]) == ends[role] for role in ROLES)
