"""Chat templates: what reaches the model, and what a template does with a system message."""

from __future__ import annotations

import pytest

from selfsteer.chat import Chat, tokenizer_fingerprint
from selfsteer.chat_template import THINKING_TAGS
from selfsteer.errors import ModelError, SelfsteerWarning
from tests.chat_templates import DEFAULT_SYSTEM, TEMPLATES, sentencepiece_of, tokenizer_of, user

PLAIN = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
ODD = "naïve 😀 漢字\n\n  two  blanks "


def shown(chat: Chat, ids: list[int]) -> str:
    return chat.tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("family", "role"),
    [
        ("chatml", "native"),
        ("llama3", "native"),
        ("gemma3", "native"),  # folds by itself: the message arrives
        ("gemma", "folded"),  # refuses
        ("mistral", "folded"),  # drops without a word
    ],
)
def test_whether_a_system_message_reaches_the_model(family, role):
    assert Chat(tokenizer_of(family)).system_role == role


def test_a_prompt_ends_with_the_cue_for_the_assistant():
    chat = Chat(tokenizer_of("chatml"))
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert shown(chat, chat.encode(user("Hi", "Be brief."))) == text


def test_the_default_system_message_of_a_template_is_part_of_x_and_gives_way_to_a_principle():
    chat = Chat(tokenizer_of("chatml"))
    assert DEFAULT_SYSTEM in shown(chat, chat.encode(user("Hi")))
    steered = shown(chat, chat.encode(user("Hi", "Be brief.")))
    assert DEFAULT_SYSTEM not in steered and steered.count("<|im_start|>system") == 1


def test_one_bos_where_template_and_tokenizer_both_have_one():
    chat = Chat(tokenizer_of("llama3"))
    ids = chat.encode(user("Hi", "Be brief."))
    bos = chat.tokenizer.bos_token_id
    assert ids.count(bos) == 1 and ids[0] == bos
    assert chat.tokenizer.encode(shown(chat, ids)).count(bos) == 2  # what the naive way would train on


def test_text_survives_a_round_trip_and_special_tokens_leave_no_trace_in_it():
    chat = Chat(tokenizer_of("chatml"))
    ids = chat.encode_response(ODD, ended=True)
    assert chat.decode(ids) == ODD
    assert ODD in chat.decode(chat.encode(user(ODD)))
    assert "<|im_" not in chat.decode(chat.encode(user("Hi")))


def test_a_response_ends_with_an_end_token_only_where_it_ended():
    chat = Chat(tokenizer_of("llama3"), end_ids=[7])
    ended, cut = chat.encode_response("Hi", ended=True), chat.encode_response("Hi", ended=False)
    assert ended == [*cut, chat.tokenizer.convert_tokens_to_ids("<|eot_id|>")]
    assert len(cut) == 2 and chat.tokenizer.bos_token_id not in cut


def test_end_tokens_the_templates_own_first_then_all_that_are_named():
    tokenizer = tokenizer_of("llama3")
    turn, eos, other = tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<eos>", "<bos>"])
    assert Chat(tokenizer).end_ids == (turn, eos)
    assert Chat(tokenizer, [other, turn, eos, turn]).end_ids == (turn, eos, other)
    assert Chat(tokenizer_of("llama3", eos_token=None)).end_ids == (turn,)


def test_without_any_end_token_there_is_no_chat():
    tokenizer = tokenizer_of("llama3", eos_token=None)
    tokenizer.chat_template = PLAIN
    with pytest.raises(ModelError, match="end token"):
        Chat(tokenizer)
    with pytest.warns(SelfsteerWarning, match="ends an answer with no token, so '<|start_header_id|>' ends responses"):
        assert Chat(tokenizer, [3]).end_ids == (3,)


@pytest.mark.parametrize(("named", "first"), [([], "<eos>"), ([3, 2], "<eos>"), ([3], "<|im_start|>")])
def test_a_template_that_ends_turns_in_plain_text_falls_back_on_what_is_named_and_says_so(named, first):
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = PLAIN
    with pytest.warns(SelfsteerWarning, match="the chat template of .* ends an answer with no token") as told:
        chat = Chat(tokenizer, named)
    end = tokenizer.convert_tokens_to_ids(first)
    assert len(told) == 1 and set(chat.end_ids) == {*named, 2}
    assert chat.end_ids[0] == chat.encode_response("Hi", ended=True)[-1] == end
    prompt, (answer,) = chat.encode_answers(user("Hi"), [("Ho", True)])
    assert shown(chat, prompt) == "user: Hi\nassistant:" and shown(chat, answer) == f" Ho{first}"


def test_without_a_template_there_is_no_chat():
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = None
    tokenizer.name_or_path = "some/base-model"
    with pytest.raises(ModelError, match="no chat template") as caught:
        Chat(tokenizer)
    assert caught.value.where == "some/base-model" and "instruct" in caught.value.do


def test_a_refused_prompt_names_the_roles_and_the_templates_reason():
    chat = Chat(tokenizer_of("gemma"))
    with pytest.raises(ModelError, match="roles user, user: Conversation roles must alternate"):
        chat.encode([*user("Hi"), *user("Hi")])
    with pytest.raises(ModelError, match="roles system, user: System role not supported"):
        chat.encode(user("Hi", "Be brief."))


def test_a_broken_template_is_named_in_words():
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = "{% for message in %}"
    with pytest.raises(ModelError, match="the chat template can't be used: Expected an expression"):
        Chat(tokenizer)


def test_the_fingerprint_names_vocabulary_and_template():
    same = {Chat(tokenizer_of("chatml")).fingerprint for _ in range(2)}
    assert len(same) == 1 and len(same.copy().pop()) == 16
    other_template = tokenizer_of("chatml")
    other_template.chat_template += " "
    other_vocabulary = tokenizer_of("chatml", extra=("<think>",))
    assert other_vocabulary.chat_template == TEMPLATES["chatml"]
    assert len(same | {Chat(other_template).fingerprint, Chat(other_vocabulary).fingerprint}) == 3


def test_a_tokenizer_is_named_by_all_of_its_rules_and_not_by_what_a_call_leaves_in_it():
    from tokenizers import normalizers

    same, other, special = (tokenizer_of("chatml") for _ in range(3))
    first = tokenizer_fingerprint(same)
    same(["Hi", "Hi there"], padding=True, truncation=True, max_length=3)
    assert tokenizer_fingerprint(same) == first == tokenizer_fingerprint(tokenizer_of("chatml"))
    other.backend_tokenizer.normalizer = normalizers.Lowercase()  # the vocabulary stays
    special.pad_token = "<eos>"
    names = {first, *map(tokenizer_fingerprint, (other, special, sentencepiece_of("mistral")))}
    assert len(names) == 4


def test_the_fingerprint_is_worked_out_once(monkeypatch):
    """Every row that is scored asks for it, and the vocabulary of a real model takes a quarter of a second."""
    chat = Chat(tokenizer_of("chatml"))
    first = chat.fingerprint
    monkeypatch.setattr(type(chat.tokenizer), "get_vocab", lambda self: pytest.fail("read again"))
    assert chat.fingerprint == first


def test_encoding_leaves_the_messages_as_they_are():
    chat, messages = Chat(tokenizer_of("chatml")), user("Hi", "Be brief.")
    chat.encode(messages)
    assert messages == user("Hi", "Be brief.")


@pytest.mark.parametrize(
    ("family", "tags", "opens"),
    [
        ("chatml", None, False),
        ("qwen3", ("<think>", "</think>"), False),  # the model writes both
        ("deepseek-r1", ("<think>", "</think>"), True),
        ("nemotron", ("<think>", "</think>"), True),
        ("magistral", ("[THINK]", "[/THINK]"), False),  # its system message names them
        ("gemma4", ("<|channel>thought", "<channel|>"), False),
    ],
)
def test_the_tags_of_a_reasoning_model_and_who_opens_the_thought(family, tags, opens):
    chat = Chat(tokenizer_of(family))
    assert chat.thinking == tags and chat.opens_thinking is opens


@pytest.mark.parametrize("tags", THINKING_TAGS)
def test_every_known_tag_is_known_by_the_templates_source(tags):
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = TEMPLATES["chatml"].replace("assistant\n'", f"assistant\n{tags.open}\n'")
    assert Chat(tokenizer).thinking is None  # no thought is ever closed there
    tokenizer.chat_template += "{# " + tags.close + " #}"
    chat = Chat(tokenizer)
    assert chat.thinking == tags and chat.opens_thinking
    tokenizer.chat_template = tokenizer.chat_template.replace(f"{tags.open}\n'", f"{tags.open}\n\n{tags.close}\n\n'")
    assert Chat(tokenizer).thinking == tags and not Chat(tokenizer).opens_thinking


def test_whether_this_very_prompt_opens_a_thought():
    chat = Chat(tokenizer_of("nemotron"))
    assert chat.ends_in_thought(chat.encode(user("Hi")))
    assert not chat.ends_in_thought(chat.encode(user("Hi /no_think")))
    assert not Chat(tokenizer_of("chatml")).ends_in_thought(chat.encode(user("Hi")))


def test_an_opened_thought_is_closed_as_templates_do_it_where_thinking_is_off():
    chat = Chat(tokenizer_of("nemotron"))
    opened, closed = chat.encode(user("Hi")), chat.encode(user("Hi /no_think"))
    assert shown(chat, chat.without_thought(opened)) == shown(chat, opened) + "\n</think>\n\n"
    assert not chat.ends_in_thought(chat.without_thought(opened))
    assert chat.without_thought(closed) == closed
    (close,) = chat.tokenizer.encode("</think>", add_special_tokens=False)
    assert close in chat.without_thought(opened), "the tag is the token, not its letters"


def test_a_template_that_refuses_to_be_asked_opens_no_thought():
    tokenizer = tokenizer_of("deepseek-r1")
    tokenizer.chat_template += (
        "{% if messages[0].role == 'user' %}{{ raise_exception('no system message') }}{% endif %}"
    )
    assert Chat(tokenizer).opens_thinking is False
