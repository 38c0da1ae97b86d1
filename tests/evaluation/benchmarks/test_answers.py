"""The answer store: nothing is asked twice, a killed command repeats one batch, faults are counted."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from selfsteer.backends import Completion, Failure, Sampling
from selfsteer.backends.transformers import TransformersBackend
from selfsteer.chat import Chat
from selfsteer.errors import SelfsteerWarning, WorkFailed
from selfsteer.evaluation.benchmarks.answers import FAILED, TOO_LONG, AnswerStore
from selfsteer.evaluation.benchmarks.model_benchmark import Question
from selfsteer.judges.answer_cache import BLOCKED, REFUSED
from selfsteer.judges.logprob import label_scores
from tests.backends.tiny import tiny_llama
from tests.chat_templates import tokenizer_of, user

GREEDY = Sampling(6, temperature=0.0, top_p=1.0)
SAMPLED = Sampling(6, temperature=0.9, top_p=1.0)
EXAMPLES = [*user("one and one"), {"role": "assistant", "content": "two"}]


class Noting:
    """A backend that notes what it is asked, and answers by the question or as ``answer`` says."""

    name = "noting"

    def __init__(self, answer=None, chat=None, context=None, stop_after=math.inf):
        self.answer = answer or (lambda prompt, sampling: Completion(f"to {prompt[-1]['content']}", "stop"))
        self.chat, self.context, self.stop_after = chat, context, stop_after
        self.calls: list[SimpleNamespace] = []

    def generate(self, prompts, sampling, *, seed, shared_prefix=()):
        if len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append(SimpleNamespace(prompts=prompts, sampling=sampling, seed=seed, prefix=list(shared_prefix)))
        return [self.answer(prompt, sampling) for prompt in prompts]

    def length(self, prompt):
        return sum(len(message["content"]) for message in prompt)

    @property
    def asked(self) -> list[str]:
        return [prompt[-1]["content"] for call in self.calls for prompt in call.prompts]


def model_of(backend, batch_size=4, **identity):
    return SimpleNamespace(
        name="m", identity={"model": "w", **identity}, batch_size=batch_size, backend=backend, chat=backend.chat
    )


def questions(count, sampling=GREEDY, before=()):
    return [Question([*before, *user("x" * i + f" {i}")], sampling) for i in range(count)]


def test_answers_come_in_order_in_batches_of_alike_lengths(tmp_path):
    backend = Noting()
    found = AnswerStore(model_of(backend), tmp_path).answer(questions(6)[::-1])
    assert [one.text for one in found] == [f"to {'x' * i} {i}" for i in range(6)][::-1]
    assert [[len(prompt[-1]["content"]) for prompt in call.prompts] for call in backend.calls] == [[7, 6, 5, 4], [3, 2]]


def test_a_second_command_asks_nothing_and_other_benchmarks_share_prompts(tmp_path):
    first = AnswerStore(model_of(Noting()), tmp_path).answer(questions(6))
    backend = Noting()
    store = AnswerStore(model_of(backend), tmp_path)
    assert store.answer(questions(6)) == first
    assert store.answer([*questions(7), *questions(7)])[6].text == "to xxxxxx 6"
    assert backend.asked == ["xxxxxx 6"]


def test_other_weights_template_precision_or_engine_have_answers_of_their_own(tmp_path):
    keys = {
        AnswerStore(model_of(Noting(), **{name: "other"}), tmp_path).key for name in ("model", "template", "engine")
    }
    assert len(keys) == 3
    AnswerStore(model_of(Noting()), tmp_path).answer(questions(2))
    other = Noting()
    AnswerStore(model_of(other, engine="other"), tmp_path).answer(questions(2))
    assert len(other.asked) == 2


def test_a_key_names_messages_sampling_choice_and_the_seed_of_sampled_answers():
    stores = [AnswerStore(model_of(Noting()), None, seed=seed) for seed in (0, 1)]
    one = questions(1, SAMPLED)[0]
    others = [
        one,
        replace(one, choice=1),
        replace(one, sampling=replace(SAMPLED, stop=("Q:",))),
        Question(user("y"), SAMPLED),
    ]
    assert len({stores[0].key_of(other) for other in others} | {stores[1].key_of(one)}) == 5
    greedy = replace(one, sampling=GREEDY)
    assert stores[0].key_of(greedy) == stores[1].key_of(greedy)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_an_interrupted_command_continues_with_the_same_batches(tmp_path, sampling):
    whole = Noting()
    before = questions(11, sampling, EXAMPLES)
    expected = AnswerStore(model_of(whole), None).answer(before)
    stopped = Noting(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        AnswerStore(model_of(stopped), tmp_path).answer(before)
    [file] = tmp_path.glob("*.answers.jsonl")
    with file.open("a") as stream:
        stream.write('{"judge": "m", "answers": {"torn')
    resumed = Noting()
    assert AnswerStore(model_of(resumed), tmp_path).answer(before) == expected
    calls = [(call.prompts, call.seed) for call in stopped.calls + resumed.calls]
    assert calls == [(call.prompts, call.seed) for call in whole.calls]


def test_texts_of_a_model_are_the_same_after_an_interruption(tmp_path):
    """On real tokens, with worked examples that all questions share."""
    chat = Chat(tokenizer_of("chatml"))
    backend = TransformersBackend(tiny_llama(chat.tokenizer), chat)
    asked = questions(10, SAMPLED, EXAMPLES)
    expected = AnswerStore(model_of(backend), None).answer(asked)
    AnswerStore(model_of(backend), tmp_path / "a").answer(asked)
    lines = next((tmp_path / "a").iterdir()).read_text().splitlines(keepends=True)
    assert len(lines) == 3
    for kept in range(3):
        folder = tmp_path / str(kept)
        folder.mkdir()
        (folder / next((tmp_path / "a").iterdir()).name).write_text("".join(lines[:kept]) + lines[kept][:40])
        assert AnswerStore(model_of(backend), folder).answer(asked) == expected


def test_what_questions_share_is_computed_once(tmp_path):
    chat = Chat(tokenizer_of("chatml"))
    backend = Noting(chat=chat)
    asked = [*questions(5, before=EXAMPLES), *questions(2, before=user("alone", "Be brief."))]
    AnswerStore(model_of(backend), None).answer(asked)
    for call in backend.calls:
        ids = [chat.encode(prompt) for prompt in call.prompts]
        assert all(one[: len(call.prefix)] == call.prefix and len(one) > len(call.prefix) for one in ids)
    shared = [len(call.prefix) for call in backend.calls]
    assert sorted(shared)[0] == 0 < sorted(shared)[-1]
    assert len(chat.encode(EXAMPLES)) - 8 < max(shared)
    assert [len(call.prompts) for call in backend.calls if call.prefix] == [4, 1]


def failing(words, **kind):
    def answer(prompt, sampling):
        if any(word in prompt[-1]["content"] for word in words):
            return Failure(WorkFailed("no answer at the last try"), **kind)
        return Completion("yes", "stop")

    return answer


def test_a_failed_request_is_an_answer_with_an_error_and_is_asked_again(tmp_path):
    with pytest.warns(SelfsteerWarning, match="did not answer 2 of 6 questions, the first: no answer"):
        found = AnswerStore(model_of(Noting(failing("24"))), tmp_path).answer(questions(6))
    assert [one.error for one in found] == ["", "", FAILED, "", FAILED, ""]
    backend = Noting()
    again = AnswerStore(model_of(backend), tmp_path).answer(questions(6))
    assert backend.asked == ["xxxx 4", "xx 2"]
    assert not any(one.error for one in again)


def test_blocked_prompts_are_named_and_answers_beside_an_end_are_kept(tmp_path):
    with pytest.warns(SelfsteerWarning):
        found = AnswerStore(model_of(Noting(failing("1", blocked="content"))), None).answer(questions(2))
    assert [one.error for one in found] == ["", BLOCKED]
    with pytest.raises(WorkFailed):
        AnswerStore(model_of(Noting(failing("3", ends=True))), tmp_path).answer(questions(6))
    backend = Noting()
    AnswerStore(model_of(backend), tmp_path).answer(questions(6))
    assert sorted(backend.asked) == [" 0", "x 1", "xxx 3"]


def test_a_prompt_near_the_limit_gets_the_room_that_is_left_and_a_longer_one_an_error():
    backend = Noting(context=12)
    found = AnswerStore(model_of(backend), None).answer([Question(user("x" * n), GREEDY) for n in (3, 4, 9, 12)])
    assert [one.error for one in found] == ["", "", "", TOO_LONG]
    assert [(len(call.prompts), call.sampling.max_new_tokens) for call in backend.calls] == [(2, 6), (1, 3)]


def test_a_template_without_system_messages_gets_them_folded_and_a_refusal_is_named():
    chat = Chat(tokenizer_of("gemma"))
    backend = Noting(chat=chat)
    asked = [
        Question(user("Hi", "Be brief."), GREEDY),
        Question([{"role": "assistant", "content": "x"}, *user("a")], GREEDY),
    ]
    found = AnswerStore(model_of(backend), None).answer(asked)
    assert backend.calls[0].prompts == [user("Be brief.\n\nHi")]
    assert [one.error for one in found] == ["", REFUSED]


def test_thoughts_are_taken_off_and_a_stop_string_in_them_ends_nothing():
    chat = Chat(tokenizer_of("qwen3"))
    backend = Noting(lambda *_: Completion("<think>\nQ: no\n</think>\n\nforty two Q: next", "length"), chat=chat)
    [found] = AnswerStore(model_of(backend), None).answer([Question(user("?"), replace(GREEDY, stop=(" Q:",)))])
    assert (found.text, found.finish) == ("forty two", "stop")
    assert "Q: no" in found.thinking
    assert backend.calls[0].sampling.stop == ()


def test_a_text_without_thoughts_is_left_as_it_is():
    backend = Noting(lambda *_: Completion(" four\n", "stop"), chat=Chat(tokenizer_of("chatml")))
    [found] = AnswerStore(model_of(backend), None).answer(questions(1))
    assert (found.text, found.thinking) == (" four\n", "")


def test_scores_of_replies_are_kept_and_equal_those_of_the_judges(tmp_path):
    chat = Chat(tokenizer_of("chatml"))
    network = tiny_llama(chat.tokenizer)
    calls = []

    def scores(prompts, labels):
        calls.append(len(prompts))
        return label_scores(network, chat, prompts, [chat.encode_response(label, False) for label in labels])

    model = model_of(Noting(chat=chat))
    model.label_scores = scores
    asked = [(one.messages, ("A", "B")) for one in questions(3)] + [(user("Hi"), ("C",)), (user("y" * 4000), ("A",))]
    found = AnswerStore(model, tmp_path).label_logprobs(asked)
    for (prompt, labels), own in zip(asked[:-1], found, strict=False):
        [expected] = label_scores(network, chat, [prompt], [chat.encode_response(label, False) for label in labels])
        assert own == pytest.approx(expected, abs=1e-5)
    assert found[-1] == TOO_LONG
    del calls[:]
    assert json.dumps(AnswerStore(model, tmp_path).label_logprobs(asked)) == json.dumps(found)
    assert not calls
