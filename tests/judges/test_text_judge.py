"""Judges by what they write: what they are asked, what is read off it, and what never reaches them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from selfsteer.backends import Completion, Failure, Sampling
from selfsteer.backends.transformers import TransformersBackend
from selfsteer.chat import Chat
from selfsteer.errors import ModelError, WorkFailed
from selfsteer.files import read_json_lines
from selfsteer.judges import Answer, AnswerCache, Pair, PresentedPair, judge_pairs
from selfsteer.judges import text as text_module
from selfsteer.judges.answer_cache import BLOCKED, TOO_LONG
from selfsteer.judges.template import JudgeTemplate
from selfsteer.judges.text import CUT_OFF, TextJudge
from tests.backends.tiny import tiny_model
from tests.chat_templates import tokenizer_of, user

PAIRS = [Pair("0", user("Hi"), "good", "bad"), Pair("1", user("Hi"), "bad", "good " * 20)]
SHOWN = [PresentedPair(pair, swapped) for pair in PAIRS for swapped in (False, True)]


class Writer:
    """Prefers the answer that says "good"; ``asked`` and ``samplings`` are its calls."""

    name, chat = "writer", None

    def __init__(self, context: int | None = None, reply: str = "The better answer is {}.") -> None:
        self.context, self.reply = context, reply
        self.asked: list[str] = []
        self.samplings: list[Sampling] = []

    def generate(self, prompts: Any, sampling: Sampling, *, seed: int, shared_prefix: Sequence[int] = ()) -> Any:
        self.samplings.append(sampling)
        contents = [prompt[0]["content"] for prompt in prompts]
        self.asked += contents
        return [Completion(self.reply.format("A" if "Answer A:\ngood" in one else "B"), "stop") for one in contents]

    def length(self, prompt: Any) -> int:
        return len(prompt[0]["content"])


def judge_of(backend: Any, source: str = "s", **options: Any) -> TextJudge:
    return TextJudge(lambda: backend, name="m", source=source, template=JudgeTemplate(), **options)


def test_the_verdict_is_read_off_the_reply():
    judged = judge_pairs(judge_of(Writer()), PAIRS)
    assert [one.strict for one in judged] == [one.debiased for one in judged] == [1, -1]
    assert judged[0].forward == Answer(1, text="The better answer is A.")
    assert judged[0].log_odds is None


def test_what_can_not_be_read_is_invalid_and_kept_as_written():
    judged = judge_pairs(judge_of(Writer(reply="Let me see")), PAIRS)
    assert {one.outcome for one in judged} == {"invalid"}
    assert judged[0].forward == Answer(0, text="Let me see", valid=False, why="names no verdict")


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("<think>A or B? The answer is A.</think>\n\nB", "stop", Answer(-1)),
        ("[THINK]The answer is A.[/THINK]B", "stop", Answer(-1)),
        ("A or B? The answer is A.</think>B", "stop", Answer(-1)),  # opened by the server's template
        ("<think>\nOkay, the answer is A", "length", Answer(0, valid=False, why=CUT_OFF)),
        ("", "length", Answer(0, valid=False, why=CUT_OFF)),
        ("A is better, beca", "length", Answer(1)),
        ("", "stop", Answer(0, valid=False, why="names no verdict")),
    ],
)
def test_thoughts_are_no_verdict_and_what_was_cut_off_before_one_says_so(text, finish, expected):
    writer = Writer()
    writer.generate = lambda prompts, *_, **__: [Completion(text, finish)] * len(prompts)
    (found,) = judge_of(writer).answer(SHOWN[:1])
    assert found == replace(expected, text=text)


def test_what_a_server_blocks_is_no_verdict_and_the_other_answers_are_kept(tmp_path):
    error = ModelError("the server's content filter blocks it")
    outcomes = [
        Failure(error, refused=True, blocked="content"),
        Failure(error, refused=True, blocked="length"),
        Completion("A", "stop"),
        Completion("B", "stop"),
    ]
    writer = Writer()
    writer.generate = lambda prompts, *_, **__: outcomes[: len(prompts)]
    assert judge_of(writer).answer(SHOWN) == [
        Answer(0, text=error.what, valid=False, why=BLOCKED),
        TOO_LONG,
        Answer(1, text="A"),
        Answer(-1, text="B"),
    ]
    judge_pairs(judge_of(writer), PAIRS, AnswerCache(tmp_path / "answers.jsonl"))
    kept = [row["answers"].values() for row in read_json_lines(tmp_path / "answers.jsonl")]
    assert sorted(one["why"] for one in kept[0]) == ["", "", BLOCKED], "a longer context may be there another time"


def test_a_request_that_failed_stops_the_work_and_loses_no_other_answer(tmp_path):
    lost = WorkFailed("the server answers with status 500")
    writer = Writer()
    writer.generate = lambda prompts, *_, **__: [Completion("A", "stop")] * 3 + [Failure(lost)]
    cache = AnswerCache(tmp_path / "answers.jsonl")
    with pytest.raises(WorkFailed, match="status 500"):
        judge_pairs(judge_of(writer), PAIRS, cache)
    assert len(read_json_lines(tmp_path / "answers.jsonl")[0]["answers"]) == 3


def test_the_tokens_of_a_reply_are_a_setting_and_part_of_the_key():
    writer = Writer()
    judge_of(writer, max_tokens=99).answer(SHOWN[:1])
    assert writer.samplings[0].max_new_tokens == 99
    assert judge_of(writer).key != judge_of(writer, max_tokens=99).key


def test_it_is_asked_greedily_for_a_few_tokens_by_the_question_for_words():
    writer = Writer()
    judge_of(writer).answer(SHOWN)
    assert writer.samplings == [Sampling(16, temperature=0.0, top_p=1.0)]
    assert writer.asked == [JudgeTemplate().messages(one, "text")[0]["content"] for one in SHOWN]
    assert all('"tie"' in asked for asked in writer.asked)


def test_a_prompt_that_leaves_no_room_for_the_reply_is_not_asked():
    writer = Writer()
    lengths = [writer.length(JudgeTemplate().messages(one, "text")) for one in SHOWN]
    assert lengths[0] == lengths[1] < lengths[2] == lengths[3]
    writer.context = lengths[2] + 15
    judged = judge_pairs(judge_of(writer), PAIRS)
    assert [one.outcome for one in judged] == ["consistent", "invalid"]
    assert judged[1].forward == TOO_LONG and len(writer.asked) == 2
    writer.context = lengths[2] + 16
    assert all(answer.valid for answer in judge_of(writer).answer(SHOWN))


def test_the_backend_is_made_for_the_first_answer_and_never_where_all_are_kept(tmp_path):
    made = []

    def load() -> Any:
        made.append(1)
        return Writer()

    for _ in range(2):
        judge = TextJudge(load, name="m", source="s", template=JudgeTemplate())
        judge_pairs(judge, PAIRS, AnswerCache(tmp_path / "answers.jsonl"))
    assert len(made) == 1


def test_the_key_names_source_question_and_how_it_is_read(monkeypatch):
    key = judge_of(Writer()).key
    assert judge_of(Writer(), batch_size=1).key == key != judge_of(Writer(), "other").key
    other = TextJudge(Writer, name="m", source="s", template=JudgeTemplate(labels=("1", "2")))
    assert other.key != key
    monkeypatch.setattr(text_module, "VERSION", -1)
    assert judge_of(Writer()).key != key


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_local_model_writes_its_likeliest_tokens(batch_size):
    chat = Chat(tokenizer_of("chatml"))
    model = tiny_model("llama", chat.tokenizer, max_position_embeddings=2048)
    judge = judge_of(TransformersBackend(model, chat), batch_size=batch_size)
    texts = [answer.text for answer in judge.answer(SHOWN)]
    assert texts == [judge.answer([one])[0].text for one in SHOWN]
    import torch

    ids = chat.encode(JudgeTemplate().messages(SHOWN[2], "text"))
    first = model(torch.tensor([ids])).logits[0, -1].argmax().item()
    assert texts[2].startswith(chat.decode([first]))
