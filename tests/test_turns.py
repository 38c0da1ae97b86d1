"""Where the chat templates of known families put an answer and what ends it: one and the same for every reader."""

from __future__ import annotations

from typing import Any

import pytest

from selfsteer.chat import Chat
from selfsteer.chat_template import ChatTemplate
from selfsteer.contrast import with_token_ids
from selfsteer.errors import ConfigError, SelfsteerWarning
from selfsteer.quality import think_apart
from selfsteer.records import Response
from selfsteer.reward.scoring import conversation_ids
from tests.chat_templates import TEMPLATES, sentencepiece_of, tokenizer_of, user
from tests.example_rows import contrast

OFF = {"enable_thinking": False}
EMPTY = "<think>\n\n</think>\n\n"
# the family, variables of its template, what the prompt of an answer ends with, the answer "Ho", and what ends it
FAMILIES: dict[str, tuple[str, dict[str, Any], str, str, str]] = {
    "Llama 3.1": ("llama3.1", {}, "assistant<|end_header_id|>\n\n", "Ho", "<|eot_id|>"),
    "Llama 2": ("llama2", {}, " [/INST]", " Ho ", "<eos>"),
    "Gemma 2": ("gemma", {}, "<start_of_turn>model\n", "Ho", "<end_of_turn>"),
    "Gemma 3": ("gemma3", {}, "<start_of_turn>model\n", "Ho", "<end_of_turn>"),
    "Phi 3": ("phi3", {}, "<|assistant|>", "Ho", "<|end|>"),
    "Qwen 2, SmolLM 2": ("chatml", {}, "<|im_start|>assistant\n", "Ho", "<|im_end|>"),
    "Qwen 2.5": ("qwen2.5", {}, "<|im_start|>assistant\n", "Ho", "<|im_end|>"),
    "Qwen 3": ("qwen3", {}, f"<|im_start|>assistant\n{EMPTY}", "Ho", "<|im_end|>"),
    "Qwen 3, not thinking": ("qwen3", OFF, f"<|im_start|>assistant\n{EMPTY}", "Ho", "<|im_end|>"),
    "Mistral": ("mistral", {}, " [/INST]", "Ho", "<eos>"),
    "DeepSeek R1": ("deepseek-r1", {}, "<｜Assistant｜>", "Ho", "<eos>"),
    "SmolLM 3": ("smollm3", {}, "<|im_start|>assistant\n", "Ho", "<|im_end|>"),
    "SmolLM 3, not thinking": ("smollm3", OFF, "<|im_start|>assistant\n<think>\n\n</think>\n", "Ho", "<|im_end|>"),
    "a line break before the end": ("nemotron", {}, "<SPECIAL_10>assistant\n", "Ho\n", "<SPECIAL_12>"),
}
families = pytest.mark.parametrize(("family", "kwargs", "prompt", "answer", "end"), FAMILIES.values(), ids=FAMILIES)
tokenizers = pytest.mark.parametrize("make", [tokenizer_of, sentencepiece_of], ids=["bytes", "sentencepiece"])


def shown(chat: Chat, ids: list[int]) -> str:
    return chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def told(answers: list[str]) -> list[tuple[str, bool]]:
    return [(text, True) for text in answers]


@families
def test_what_the_template_writes_after_an_answer_ends_it_whatever_the_configurations_name(
    family, kwargs, prompt, answer, end
):
    tokenizer = tokenizer_of(family)
    turn, eos, other = tokenizer.convert_tokens_to_ids([end, "<eos>", "<pad>"])
    chat = Chat(tokenizer, [eos, other], kwargs)
    assert chat.end_ids[0] == turn and set(chat.end_ids) == {turn, eos, other}
    assert chat.encode_response("Hi", ended=True)[-1] == turn


@families
def test_an_answer_stands_where_the_template_puts_it_and_ends_as_it_ends_it(family, kwargs, prompt, answer, end):
    chat = Chat(tokenizer_of(family), template_kwargs=kwargs)
    before, (ended, cut) = chat.encode_answers(user("Hi"), [("Ho", True), ("Ho", False)])
    assert shown(chat, before).endswith(prompt)
    assert shown(chat, ended) == answer + end and shown(chat, cut) == answer.rstrip()


@pytest.mark.parametrize("text", ["Ho", " padded \n", "two\nlines", "naïve 😀 漢字", "an <|im_end|> and <eos>"])
@tokenizers
@families
def test_prompt_and_answer_are_the_dialogue_that_reward_models_read(family, kwargs, prompt, answer, end, make, text):
    tokenizer = make(family)
    messages = [*user("Hi <|im_end|>"), {"role": "assistant", "content": text}]
    whole = list(conversation_ids(ChatTemplate(tokenizer, kwargs), messages, "it"))
    chat = Chat(tokenizer, template_kwargs=kwargs)
    before, (after,) = chat.encode_answers(messages[:-1], [(text, True)])
    assert whole[: len(before) + len(after)] == [*before, *after]
    assert chat.decode(whole[len(before) + len(after) :]).strip() == ""
    assert [one for one in after if one in chat.template.controls] == [chat.end_ids[0]]


@families
def test_all_readers_of_an_annotated_pair_see_the_same_tokens(family, kwargs, prompt, answer, end):
    chat = Chat(tokenizer_of(family), template_kwargs=kwargs)
    plain = {"positive_prompt": user("Hi"), "negative_prompt": user("Hi"), "prompt": user("Hi")}
    row = with_token_ids(contrast(**plain, positive_response="Ho", original_finish="absent"), chat)
    prompt_ids, answers = chat.encode_answers(user("Hi"), told(["Ho", row.negative_response]))
    assert row.prompt_ids("prompt") == row.prompt_ids("negative_prompt") == prompt_ids
    assert [row.response_ids("positive"), row.response_ids("negative"), row.response_ids("original")] == [*answers, []]


@pytest.mark.parametrize("text", ["\nHo", "\n\nHo", " Ho", ". Ho"])
def test_a_prompt_keeps_the_ids_that_are_sampled_under(text):
    """Where a token would straddle the end of the prompt."""
    from tests.conftest import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATES["chatml"]
    chat = Chat(tokenizer)
    before, (after,) = chat.encode_answers(user("Hi"), [(text, True)])
    assert before == chat.encode(user("Hi")) and shown(chat, after) == f"{text}<|im_end|>"


def test_steered_prompts_differ_and_their_answers_do_not():
    chat = Chat(tokenizer_of("qwen3"))
    row = with_token_ids(contrast(), chat)
    prompts = [row.prompt_ids(name) for name in ("prompt", "positive_prompt", "negative_prompt")]
    assert all(shown(chat, ids).endswith(EMPTY) for ids in prompts) and len({tuple(ids) for ids in prompts}) == 3
    assert shown(chat, row.response_ids("positive")) == f"{row.positive_response}<|im_end|>"


# ---------------------------------------------------------------------------------------------------------- thoughts
THOUGHT = "<think>\nhm\n</think>\n\nHo"


def test_an_answer_that_brings_its_thought_keeps_it_in_the_place_of_the_empty_one():
    chat = Chat(tokenizer_of("qwen3"))
    before, (own, without) = chat.encode_answers(user("Hi"), told([THOUGHT, "Ho"]))
    assert before == chat.encode(user("Hi"))
    assert shown(chat, own) == f"{THOUGHT}<|im_end|>" and shown(chat, without) == f"{EMPTY}Ho<|im_end|>"


@pytest.mark.parametrize("text", [THOUGHT, THOUGHT.removeprefix("<think>\n")])
def test_a_thought_that_the_template_would_cut_out_stays(text):
    chat = Chat(tokenizer_of("deepseek-r1"))
    before, (own, without) = chat.encode_answers(user("Hi"), told([text, "Ho"]))
    assert shown(chat, before).endswith("<｜Assistant｜><think>\n")
    assert shown(chat, own).lstrip("\n") == "hm\n</think>\n\nHo<eos>"
    assert shown(chat, without) == "\n</think>\n\nHo<eos>"


def test_a_sampled_answer_without_its_thought_stands_where_the_template_puts_it():
    chat = Chat(tokenizer_of("qwen3"))
    sampled = chat.tokenizer.encode(THOUGHT, add_special_tokens=False)
    prompt = chat.encode(user("Hi"))
    response = Response("1", "original", THOUGHT, "stop", [*sampled, chat.end_ids[0]], prompt)
    answer = think_apart(response, chat)
    placed = (chat.without_thought(prompt), [answer.token_ids])
    assert placed == chat.encode_answers(user("Hi"), told(["Ho"]))
    off = Chat(tokenizer_of("qwen3"), template_kwargs=OFF)
    assert off.without_thought(off.encode(user("Hi"))) == off.encode(user("Hi"))


# --------------------------------------------------------------------------------------- templates that do odd things
def odd(source: str) -> Chat:
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = source
    return Chat(tokenizer)


def test_the_end_of_a_conversation_is_not_the_end_of_a_turn():
    turns = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    assert shown(odd(turns + "{{ eos_token }}"), [odd(turns).end_ids[0]]) == "<|im_end|>"


def test_an_end_of_text_and_a_token_is_written_whole_and_told_of():
    source = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n### end' + eos_token }}{% endfor %}"
    with pytest.warns(SelfsteerWarning, match="sampling stops at the last token of that alone"):
        chat = odd(source)
    assert shown(chat, chat.encode_response("Ho", ended=True)) == "Ho\n### end<eos>"
    with pytest.warns(SelfsteerWarning, match="ends a prompt with"):
        _, (after,) = chat.encode_answers(user("Hi"), told(["Ho"]))
    assert shown(chat, after) == "Ho\n### end<eos>" and chat.end_ids[0] == chat.tokenizer.eos_token_id


def test_an_end_that_is_written_between_turns_alone_ends_the_last_one_too():
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{% if not loop.last or add_generation_prompt %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    chat = odd(source)
    before, (after,) = chat.encode_answers(user("Hi"), told(["Ho"]))
    assert shown(chat, before + after).endswith("<|im_start|>assistant\nHo<|im_end|>")


GLM = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def test_the_mark_of_the_next_turn_ends_this_one_where_a_configuration_says_so():
    """GLM 4's form."""
    tokenizer = tokenizer_of("phi3")
    tokenizer.chat_template = GLM
    turn, eos = tokenizer.convert_tokens_to_ids(["<|user|>", "<eos>"])
    assert Chat(tokenizer, [eos, turn]).end_ids == (turn, eos)
    with pytest.warns(SelfsteerWarning, match="ends an answer with no token, so '<eos>' ends responses"):
        assert Chat(tokenizer, [eos]).end_ids == (eos,)


@pytest.mark.parametrize(
    ("change", "expected", "said"),
    [
        ("m.content.replace('H', 'J')", "Jo", "writes the answer 'Ho' as 'Jo'"),
        ("m.content + m.content if m.role == 'assistant' else m.content", "Ho", "does not write the answer 'Ho'"),
    ],
)
def test_an_answer_that_a_template_writes_otherwise_is_told_of_once(change, expected, said):
    chat = odd(TEMPLATES["chatml"].replace("message['content']", f"({change.replace('m.', 'message.')})"))
    with pytest.warns(SelfsteerWarning, match=said) as warned:
        found = [chat.encode_answers(user("Hi"), told(["Ho"]))[1] for _ in range(2)]
    assert len(warned) == 1 and shown(chat, found[0][0]).startswith(expected)


def test_a_cue_that_dialogues_do_not_hold_is_told_of_and_the_dialogue_counts():
    chat = odd(TEMPLATES["chatml"].replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>bot\n' }}"))
    with pytest.warns(SelfsteerWarning, match="before an answer, but ends a prompt with .*bot"):
        before, _ = chat.encode_answers(user("Hi"), told(["Ho"]))
    assert shown(chat, before).endswith("<|im_start|>assistant\n")


# ------------------------------------------------------------------------------------------------------- variables
def test_variables_reach_the_prompt_and_the_fingerprint():
    tokenizer = tokenizer_of("qwen3")
    on, off, said = (Chat(tokenizer, template_kwargs=kwargs) for kwargs in ({}, OFF, {"enable_thinking": True}))
    assert shown(on, on.encode(user("Hi"))) + EMPTY == shown(off, off.encode(user("Hi")))
    assert on.encode(user("Hi")) == said.encode(user("Hi"))
    assert len({chat.fingerprint for chat in (on, off, said)}) == 3
    assert Chat(tokenizer).fingerprint == on.fingerprint


def test_variables_reach_a_dialogue():
    template = ChatTemplate(tokenizer_of("llama3.1"), {"date_string": "1 May 2031"})
    assert "1 May 2031" in template.tokenizer.decode(template.render(user("Hi"), cue=True).ids)


def test_a_variable_that_the_template_does_not_mention_is_refused_with_those_that_it_asks_about():
    ChatTemplate(tokenizer_of("qwen3"), OFF).check_kwargs()
    with pytest.raises(ConfigError, match="no variable 'enable_thinkin'") as caught:
        ChatTemplate(tokenizer_of("qwen3"), {"enable_thinkin": False}).check_kwargs()
    assert "enable_thinking" in caught.value.do and caught.value.where == "chat_template_kwargs.enable_thinkin"
