"""Judges by the log-probs of two labels: exact against plain transformers, whatever else is in the batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from selfsteer.chat import Chat
from selfsteer.errors import WorkFailed
from selfsteer.judges import Answer, AnswerCache, Judge, Pair, PresentedPair, judge_pairs
from selfsteer.judges.answer_cache import TOO_LONG
from selfsteer.judges.logprob import EndpointLogprobJudge, LogprobJudge
from selfsteer.judges.template import JudgeTemplate
from tests.backends.tiny import tiny_model
from tests.chat_templates import tokenizer_of, user

PAIRS = [
    Pair("0", user("Hi"), "Hello.", "Hello, and a very warm welcome to you, dear friend of mine!"),
    Pair("1", user("Why is the sky blue?", "Be brief."), "Because it scatters.", ""),
    Pair("2", user("Hi"), "Hello.", "No. " * 60, criterion="It is short."),
]
SHOWN = [PresentedPair(pair, swapped) for pair in PAIRS for swapped in (False, True)]


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(tokenizer_of("chatml"))


@pytest.fixture(scope="module")
def model(chat) -> Any:
    return tiny_model("llama", chat.tokenizer, max_position_embeddings=2048)


def judge_of(model: Any, chat: Chat, *, weights: str = "w", labels=("A", "B"), batch_size: int = 8) -> LogprobJudge:
    template = JudgeTemplate(labels=labels)
    return LogprobJudge(lambda: model, chat, name="tiny", weights=weights, template=template, batch_size=batch_size)


def prompt_ids(chat: Chat, shown: PresentedPair, labels=("A", "B")) -> list[int]:
    (message,) = JudgeTemplate(labels=labels).messages(shown, "logprobs")
    return chat.tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=True, return_dict=False)


def plainly(model: Any, chat: Chat, shown: PresentedPair, labels=("A", "B")) -> float:
    """The difference of the labels' log-probs, one unpadded sequence a label."""
    prompt = prompt_ids(chat, shown, labels)
    sums = []
    for label in labels:
        ids = [*prompt, *chat.tokenizer.encode(label, add_special_tokens=False)]
        with torch.inference_mode():
            logps = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)
        sums.append(sum(logps[at - 1, ids[at]].item() for at in range(len(prompt), len(ids))))
    return sums[0] - sums[1]


@pytest.mark.parametrize("labels", [("A", "B"), ("one", "three")], ids=["one token", "several tokens"])
def test_log_odds_are_those_of_plain_transformers(model, chat, labels):
    answers = judge_of(model, chat, labels=labels).answer(SHOWN)
    for answer, shown in zip(answers, SHOWN, strict=True):
        expected = plainly(model, chat, shown, labels)
        assert answer.log_odds == pytest.approx(expected, abs=1e-4)
        assert answer.vote == math.copysign(1, expected) and answer.valid
    assert len({round(answer.log_odds, 3) for answer in answers}) == len(SHOWN)


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2"])
def test_other_architectures_too(chat, architecture):
    own = tiny_model(architecture, chat.tokenizer, max_position_embeddings=2048)
    found = judge_of(own, chat).answer(SHOWN[:3])
    assert [one.log_odds for one in found] == pytest.approx([plainly(own, chat, one) for one in SHOWN[:3]], abs=1e-4)


def test_answers_do_not_depend_on_the_batch(model, chat):
    alone = [judge_of(model, chat).answer([one])[0].log_odds for one in SHOWN]
    together = [answer.log_odds for answer in judge_of(model, chat).answer(SHOWN)]
    backwards = [answer.log_odds for answer in judge_of(model, chat).answer(SHOWN[::-1])][::-1]
    assert together == pytest.approx(alone, abs=1e-4) and backwards == pytest.approx(alone, abs=1e-4)
    by_batch = [judge_pairs(judge_of(model, chat, batch_size=size), PAIRS) for size in (1, 4, 100)]
    for judged in by_batch:
        assert [one.forward.log_odds for one in judged] == pytest.approx(alone[::2], abs=1e-4)
        assert [one.backward.log_odds for one in judged] == pytest.approx(alone[1::2], abs=1e-4)


def test_a_model_in_half_precision_is_read_more_finely_than_its_logits_are_rounded(chat):
    """Bfloat16 logits from 2 up are multiples of 1/64 or more: close log-odds would be ties."""
    half = tiny_model("llama", chat.tokenizer, max_position_embeddings=2048).bfloat16()
    with torch.no_grad():
        half.lm_head.weight.mul_(16)  # logits as large as those of real models
    found = [answer.log_odds for answer in judge_of(half, chat).answer(SHOWN)]
    assert max(abs(64 * odds - round(64 * odds)) for odds in found) > 0.05
    for odds, shown in zip(found, SHOWN, strict=True):
        with torch.no_grad():
            hidden = half.model(torch.tensor([prompt_ids(chat, shown)])).last_hidden_state[0, -1].float()
            logits = half.lm_head.weight.float() @ hidden
        first, second = (chat.tokenizer.encode(label, add_special_tokens=False)[0] for label in "AB")
        assert odds == pytest.approx((logits[first] - logits[second]).item(), abs=1)


def test_a_presentation_that_does_not_fit_is_invalid_and_the_others_are_judged(chat):
    lengths = [len(prompt_ids(chat, one)) for one in SHOWN]
    assert max(lengths) == lengths[4] == lengths[5] > max(lengths[:4])
    context = max(lengths)  # one short of the prompt and its label
    own = tiny_model("llama", chat.tokenizer, max_position_embeddings=context)
    answers = judge_of(own, chat).answer(SHOWN)
    assert answers[4:] == [TOO_LONG, TOO_LONG] and all(one.valid for one in answers[:4])
    judged = judge_pairs(judge_of(own, chat), PAIRS)
    assert [one.outcome == "invalid" for one in judged] == [False, False, True]
    assert [one.pair for one in judged] == PAIRS
    exact = tiny_model("llama", chat.tokenizer, max_position_embeddings=context + 1)
    assert all(answer.valid for answer in judge_of(exact, chat).answer(SHOWN))


def test_where_nothing_fits_all_is_invalid(chat):
    own = tiny_model("llama", chat.tokenizer, max_position_embeddings=16)
    assert judge_of(own, chat).answer(SHOWN) == [TOO_LONG] * len(SHOWN)


def test_weights_are_loaded_for_the_first_answer_and_never_where_all_are_kept(model, chat, tmp_path):
    loads = []

    def load() -> Any:
        loads.append(1)
        return model

    for expected in (1, 1):
        judge = LogprobJudge(load, chat, name="tiny", weights="w", template=JudgeTemplate())
        assert len(loads) == (0 if len(list(tmp_path.iterdir())) == 0 else 1)
        judge_pairs(judge, PAIRS, AnswerCache(tmp_path / "answers.jsonl"))
        assert len(loads) == expected


def test_a_log_prob_that_is_no_number_is_no_tie(chat):
    broken = tiny_model("llama", chat.tokenizer, max_position_embeddings=2048)
    with torch.no_grad():
        broken.model.embed_tokens.weight[chat.tokenizer.convert_tokens_to_ids("w")] = float("nan")  # in every question
    with pytest.raises(WorkFailed, match="log-probs of its two labels are nan"):
        judge_of(broken, chat).answer(SHOWN[:1])


def test_the_key_names_weights_template_and_chat(model, chat):
    key = judge_of(model, chat).key
    assert judge_of(model, chat, batch_size=1).key == key
    assert judge_of(model, chat, weights="w2").key != key
    assert judge_of(model, chat, labels=("1", "2")).key != key
    assert judge_of(model, Chat(tokenizer_of("gemma3"))).key != key


# --- behind an endpoint


class Server:
    """Gives log-probs as listed; ``asked`` is what it was shown."""

    def __init__(self, *found: tuple[float | None, float | None]) -> None:
        self.found, self.asked = list(found), []

    def label_logprobs(self, prompts: Any, labels: Any) -> list[list[float | None]]:
        self.asked += [(prompt, tuple(labels)) for prompt in prompts]
        return [list(self.found.pop(0)) for _ in prompts]

    def length(self, prompt: Any) -> int:
        return sum(len(message["content"]) for message in prompt)


def served(server: Server, source: str = "s") -> EndpointLogprobJudge:
    return EndpointLogprobJudge(server, name="m", source=source, template=JudgeTemplate())  # type: ignore[arg-type]


def test_an_endpoints_log_probs_are_compared():
    server = Server((-0.5, -2.0), (-3.0, -1.0), (-1.0, -1.0), (-0.1, None), (None, -0.1), (None, None))
    answers = served(server).answer(SHOWN)
    assert answers[:5] == [Answer(1, 1.5), Answer(-1, -2.0), Answer(0, 0.0), Answer(1), Answer(-1)]
    assert answers[5] == Answer(0, valid=False, why="neither label is among the likeliest replies")
    assert server.asked == [(JudgeTemplate().messages(one, "logprobs"), ("A", "B")) for one in SHOWN]


def test_an_endpoints_judge_keeps_answers_by_server_and_asks_the_longest_first():
    server = Server(*[(-1.0, -2.0)] * 6)
    judge: Judge = served(server)
    judge_pairs(judge, PAIRS)
    lengths = [server.length(prompt) for prompt, _ in server.asked]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) == 3
    assert served(server).key == judge.key != served(server, "other").key
