"""The language model that judges benchmarks: exact probabilities, errors of one prompt alone, nothing asked twice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from selfsteer.backends import Sampling
from selfsteer.chat import Chat
from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError, ModelError, SelfsteerWarning
from selfsteer.evaluation.benchmarks.judge_model import FAILED, JudgeModel, LabelAnswer, _read, open_benchmark_judge
from selfsteer.evaluation.benchmarks.model_benchmark import ModelAnswer
from selfsteer.judges.answer_cache import BLOCKED, TOO_LONG
from selfsteer.judges.program import ProgramJudge
from tests.backends.chat_server import HANG_UP, ChatServer, completion, failure, with_logprobs
from tests.backends.conftest import environment, serve  # noqa: F401
from tests.chat_templates import tokenizer_of, user
from tests.conftest import build_model

PROMPTS = [user(f"Question {number}?", system="You judge.") for number in range(5)]
LONG = user("word " * 600)
SHORT = Sampling(4, temperature=0.0, top_p=1.0)
LOCAL = {"device": "cpu", "precision": "float32"}


def model_of(name: str, folder: Any = None, **settings: Any) -> JudgeModel:
    model, pair_judge = open_benchmark_judge(JudgeSettings(name=name, **settings), folder)
    assert isinstance(model, JudgeModel) and pair_judge is None
    return model


def served(server: ChatServer, folder: Any = None, **settings: Any) -> JudgeModel:
    return model_of("endpoint:some-model", folder, base_url=server.url, **settings)


@pytest.mark.parametrize("labels", [("m", "M"), ("one", "three")], ids=["one token", "several tokens"])
def test_probabilities_of_a_local_model_are_those_of_the_labels_tokens(tiny_chat_model, labels):
    found = model_of(str(tiny_chat_model), **LOCAL).label_probabilities(PROMPTS, labels)
    from transformers import AutoModelForCausalLM

    chat = Chat.load(str(tiny_chat_model))
    model = AutoModelForCausalLM.from_pretrained(tiny_chat_model, dtype=torch.float32)
    for prompt, shares in zip(PROMPTS, found, strict=True):
        ids = chat.encode(prompt)
        for label, share in zip(labels, shares, strict=True):
            own = chat.tokenizer.encode(label, add_special_tokens=False)
            with torch.inference_mode():
                logps = torch.log_softmax(model(torch.tensor([[*ids, *own]])).logits[0], dim=-1)
            expected = math.exp(sum(logps[len(ids) - 1 + at, token].item() for at, token in enumerate(own)))
            assert share == pytest.approx(expected, rel=1e-5)


def test_a_local_model_replies_as_its_backend_does_and_what_is_too_long_is_an_error(tiny_chat_model):
    from selfsteer.backends.local_model import LocalModel
    from selfsteer.judges.text import THINKING_TOKENS

    model = model_of(str(tiny_chat_model), **LOCAL)
    *replies, long = model.replies([*PROMPTS, LONG], SHORT)
    backend = LocalModel(JudgeSettings(**LOCAL), str(tiny_chat_model), "judge.device").backend()
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        (alone,) = backend.generate([prompt], SHORT, seed=0)
        assert (reply.text, reply.finish, reply.tokens) == (
            alone.text.strip(),
            alone.finish,
            len(alone.token_ids or []),
        )
    assert long == ModelAnswer(long.key, "", error=TOO_LONG.why)
    assert len({one.key for one in [*replies, long]}) == 6
    assert model.label_probabilities([LONG, PROMPTS[0]], ["m", "M"])[0] == TOO_LONG.why
    assert THINKING_TOKENS > 512, "no room for thoughts is added for a model that does not think"


def test_nothing_is_asked_twice_and_a_killed_run_loses_one_batch(tiny_chat_model, tmp_path, monkeypatch):
    from selfsteer.evaluation.benchmarks import judge_model

    monkeypatch.setattr(judge_model._LocalModel, "batch_size", 2)
    asked: list[int] = []
    real = judge_model.label_scores

    def scores(model: Any, chat: Any, prompts: Any, labels: Any) -> Any:
        if len(asked) == 1:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return real(model, chat, prompts, labels)

    monkeypatch.setattr(judge_model, "label_scores", scores)
    with pytest.raises(KeyboardInterrupt):
        model_of(str(tiny_chat_model), tmp_path, **LOCAL).label_probabilities(PROMPTS, ["m", "M"])
    asked.extend([0])
    found = model_of(str(tiny_chat_model), tmp_path, **LOCAL).label_probabilities(PROMPTS * 2, ["m", "M"])
    assert asked == [2, 0, 2, 1], "three of five prompts are left, and each is asked once"
    asked.clear()
    again = model_of(str(tiny_chat_model), tmp_path, **LOCAL).label_probabilities(PROMPTS, ["m", "M"])
    assert asked == [] and again == found[:5] == found[5:]
    model_of(str(tiny_chat_model), tmp_path, **LOCAL).label_probabilities(PROMPTS[:1], ["M", "m"])
    assert asked == [1], "other labels are another question"


def test_a_server_lists_some_labels_and_the_others_are_none(serve):  # noqa: F811
    server = serve([with_logprobs({"m": math.log(0.75), " m": math.log(0.125), "x": -3.0}), with_logprobs({"x": -0.1})])
    model = served(server)
    assert model.label_probabilities(PROMPTS[:1], ["m", "M"]) == [(pytest.approx(0.875), None)]
    assert model.label_probabilities(PROMPTS[1:2], ["m", "M"]) == [(None, None)]
    assert server.bodies[0]["messages"] == PROMPTS[0], "system and user message as they are"


def test_errors_are_of_one_prompt_and_counted_and_only_passing_ones_are_asked_again(serve, tmp_path):  # noqa: F811
    faults = {1: failure(400, "no, thanks"), 2: failure(400, "blocked", "content_filter")}
    faults[3] = failure(400, "maximum context length is 9 tokens", "context_length_exceeded")

    def answer(body: Any, count: int) -> Any:
        number = int(body["messages"][-1]["content"].split()[1].rstrip("?"))
        good = with_logprobs({"m": -0.5, "M": -1.0}) if body.get("logprobs") else completion(f"reply {number}")
        return faults.get(number, good)

    server = serve(answer)
    with pytest.warns(SelfsteerWarning, match="did not answer 3 of 5 prompts"):
        found = served(server, tmp_path).replies(PROMPTS, SHORT)
    expected = ["", FAILED, BLOCKED, TOO_LONG.why, ""]
    assert [one.error for one in found] == expected and found[4].text == "reply 4"
    with pytest.warns(SelfsteerWarning):
        labels = served(server, tmp_path).label_probabilities(PROMPTS, ["m", "M"])
    assert [one if isinstance(one, str) else "" for one in labels] == expected
    before = len(server.requests)
    faults.clear()
    found = served(server, tmp_path).replies(PROMPTS, SHORT)
    assert [one.error for one in found] == ["", "", BLOCKED, "", ""]
    assert len(server.requests) == before + 2


def test_what_every_request_would_get_ends_the_work_and_keeps_what_was_answered(serve, tmp_path):  # noqa: F811
    replies = [completion("one"), failure(401, "no key")]
    server = serve(replies)
    with pytest.raises(ModelError, match="valid key"):
        served(server, tmp_path).replies(PROMPTS, SHORT)
    (file,) = tmp_path.iterdir()
    assert file.read_text().count('"text"') == 1 and '"one"' in file.read_text()


def test_mode_text_reads_the_label_off_the_reply(serve):  # noqa: F811
    server = serve([completion("<think>M?</think>\n\n**m**"), completion("The first"), completion("M.")])
    model = served(server, mode="text")
    found = [model.label_probabilities([prompt], ["m", "M"])[0] for prompt in PROMPTS[:3]]
    assert found == [(1.0, None), (None, None), (None, 1.0)]
    assert "logprobs" not in server.bodies[0] and model.name.endswith("(text)")


def test_thoughts_get_room_of_their_own_unless_the_limit_is_given(serve):  # noqa: F811
    server = serve([completion("m")])
    served(server).replies(PROMPTS[:1], SHORT)
    served(server, mode="text", max_tokens=7).replies(PROMPTS[:1], SHORT)
    assert [body["max_tokens"] for body in server.bodies] == [4 + 2048, 7]


def test_a_judge_of_pairs_is_the_other_kind():
    model, pair_judge = open_benchmark_judge(JudgeSettings(name="program:shorter"))
    assert model is None and isinstance(pair_judge, ProgramJudge)
    assert open_benchmark_judge(JudgeSettings()) == (None, None)


@pytest.mark.parametrize("settings", [{"template": "x.jinja"}, {"per_token": True}])
def test_settings_without_effect_are_refused(settings):
    with pytest.raises(ConfigError, match=r"no effect|no setting"):
        open_benchmark_judge(JudgeSettings(name="endpoint:m", base_url="http://localhost:1/v1", **settings))


@pytest.mark.parametrize(
    "values",
    [None, {}, {"error": 1}, {"probabilities": [2.0], "error": ""}, {"probabilities": 3, "error": ""},
     {"probabilities": ["m"], "error": ""}, {"probabilities": [0.5], "error": "", "more": 1}, {"error": "", "text": 1},
     {"error": "", "key": "", "text": "", "finish": "sometime"}, {"error": "", "key": "", "text": "", "tokens": "3"}],
)  # fmt: skip
def test_what_is_no_answer_is_asked_again(values):
    assert _read(values) is None
    assert _read({"probabilities": [0.5, None], "error": ""}) == LabelAnswer((0.5, None))


@pytest.mark.parametrize("family", ["gemma", "qwen3", "llama3"])
def test_templates_without_a_system_role_with_thoughts_and_with_bos(tmp_path, family):
    """Gemma refuses a system message, Qwen3 thinks first, Llama 3 writes a BOS: each gives labels and replies."""
    tokenizer = tokenizer_of(family)
    tokenizer.save_pretrained(tmp_path)
    build_model(tokenizer, max_position_embeddings=4096).save_pretrained(tmp_path)
    model = model_of(str(tmp_path), **LOCAL)
    for shares in model.label_probabilities(PROMPTS[:2], ["m", "M"]):
        assert not isinstance(shares, str) and all(0 < share < 1 for share in shares)
    backend = model._model.backend
    asked = []
    real = backend.generate
    backend.generate = lambda prompts, *rest, **more: asked.extend(prompts) or real(prompts, *rest, **more)
    short = model_of(str(tmp_path), mode="text", max_tokens=3, **LOCAL)
    short._model = model._model
    assert [one.error for one in short.replies(PROMPTS[:2], SHORT)] == ["", ""]
    folded = family == "gemma"
    assert [one["role"] for one in asked[0]] == ["user"] if folded else ["system", "user"]
    assert ("You judge.\n\nQuestion" in asked[0][-1]["content"]) == folded


def test_a_server_that_fails_in_a_third_of_the_requests_gives_the_same_answers(serve, monkeypatch):  # noqa: F811
    monkeypatch.setattr("selfsteer.backends.request_scheduler.FIRST_PAUSE", 0.01)
    prompts = [user(f"Question {number}?") for number in range(40)]
    faults = [failure(503, "busy"), HANG_UP, failure(500, "broken")]

    def answer(body: Any, count: int) -> Any:
        number = int(body["messages"][-1]["content"].split()[1].rstrip("?"))
        return faults[count % 9 // 3] if count % 3 == 0 else with_logprobs({"m": -0.01 * number, "M": -5.0})

    server = serve(answer)
    found = served(server).label_probabilities(prompts, ["m", "M"])
    assert [one[0] for one in found] == [pytest.approx(math.exp(-0.01 * number)) for number in range(40)]
    assert len(server.requests) > 55, "a third was asked again"
