"""What a server refuses: a parameter is left out from then on, too long or blocked prompts are final; in every form."""

from __future__ import annotations

import json
import warnings

import pytest

from selfsteer.backends import Completion, Failure, Sampling
from selfsteer.backends.parameters import Parameters
from selfsteer.backends.rejections import Rejection
from selfsteer.errors import SelfsteerWarning
from tests.backends.chat_server import Reply, completion, failure, with_logprobs
from tests.backends.test_endpoint_backend import BY_SCHEMA, GREEDY, PROMPTS, SAMPLING, backend_on, numbered

OPTIONAL = ("temperature", "top_p", "seed", "max_tokens", "response_format")


def refusing(*names: str, status: int = 400, said=lambda name: f"Unsupported parameter: '{name}'.", max_tokens=True):
    """A server that refuses the first of some parameters that a request has."""

    def answer(body, count):
        found = next((name for name in names if name in body), None)
        if found is None:
            return completion("ok")
        told = said(found)
        return failure(status, told) if isinstance(told, str) else Reply(told, status)

    return answer


FORMS = {
    "OpenAI, param": lambda name: {
        "error": {"message": "Only the default (1) is supported.", "code": "unsupported_value", "param": name}
    },
    "OpenAI, old": lambda name: {
        "error": {"message": f"Unrecognized request argument supplied: {name}", "param": None}
    },
    "Mistral": lambda name: {
        "object": "error",
        "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs", "input": 3}]},
    },
    "FastAPI": lambda name: {"detail": [{"loc": ["body", name], "msg": "ensure this value is greater than 0"}]},
    "Anthropic": lambda name: {"type": "error", "error": {"message": f"{name}: Extra inputs are not permitted"}},
    "Gemini": lambda name: [
        {"error": {"code": 400, "message": f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'}}
    ],
    "camel case": lambda name: {
        "error": "Model does not support parameter " + name.split("_")[0] + "".join(map(str.title, name.split("_")[1:]))
    },
    "LiteLLM, nested": lambda name: {
        "error": {"message": f"X - {json.dumps({'error': {'param': name}})}", "code": "400"}
    },
    "by key": lambda name: {"errors": {name: ["Unknown field."]}},
    "plain": lambda name: f"`{name}` is deprecated for this model. Supported: temperature, top_p, seed.",
    "TGI": lambda name: {"error": f"Input validation error: `{name}` must be strictly positive"},
}


@pytest.mark.parametrize("name", ["seed", "temperature", "top_p"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_parameter_is_left_out_from_then_on_with_one_warning(serve, form, name, status):
    server = serve(refusing(name, status=status, said=FORMS[form]))
    backend = backend_on(server, concurrency=1)
    with pytest.warns(SelfsteerWarning, match=f"refuses {name}, so it is left out") as told:
        found = backend.generate(PROMPTS, SAMPLING, seed=0)
    assert [type(one) for one in found] == [Completion] * 6 and len(told) == 1
    assert [name in body for body in server.bodies] == [True, *[False] * 6]
    others = {"temperature", "top_p", "seed", "max_tokens"} - {name}
    assert all(others <= body.keys() for body in server.bodies), "nothing else is left out"


def test_several_refused_parameters_are_left_out_one_after_the_other(serve):
    server = serve(refusing(*OPTIONAL[:3], "response_format"))
    backend = backend_on(server, concurrency=1)
    with pytest.warns(SelfsteerWarning) as told:
        found = backend.generate(PROMPTS[:2], Sampling(9, 0.5, 0.5, {"type": "object"}), seed=0)
    assert [one.text for one in found] == ["ok", "ok"] and len(told) == 4
    assert len(server.bodies) == 6 and server.bodies[-1].keys() == {"model", "messages", "max_tokens"}


def test_of_parameters_that_exclude_each_other_one_is_left_out(serve):
    def answer(body, count):
        both = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
        return failure(400, both) if {"temperature", "top_p"} <= body.keys() else completion("ok")

    server = serve(answer)
    with pytest.warns(SelfsteerWarning, match="refuses top_p"):
        backend_on(server, concurrency=1).generate(PROMPTS[:2], SAMPLING, seed=0)
    assert ["temperature" in body for body in server.bodies] == [True, True, True]


def test_requests_under_way_at_once_learn_it_once(serve):
    server = serve(
        lambda body, count: Reply(refusing("seed")(body, count).body, 400 if "seed" in body else 200, delay=0.05)
    )
    with pytest.warns(SelfsteerWarning) as told:
        found = backend_on(server, concurrency=6).generate(PROMPTS * 5, SAMPLING, seed=0)
    assert all(isinstance(one, Completion) for one in found) and len(told) == 1
    assert sum("seed" in body for body in server.bodies) <= 6


def test_a_refusal_that_was_misread_teaches_nothing(serve):
    """The request is refused without the parameter as well: it was about something else."""
    server = serve(lambda body, count: failure(400, "invalid seed") if numbered(body) == 1 else completion("ok"))
    found = backend_on(server, concurrency=1).generate(PROMPTS, SAMPLING, seed=0)
    assert [type(one) for one in found] == [Completion, Failure, *[Completion] * 4] and found[1].refused
    assert sum("seed" not in body for body in server.bodies) == 1 and "seed" in server.bodies[-1]


def test_what_a_request_needs_is_never_left_out_and_the_end_is_reached(serve):
    server = serve(lambda body, count: failure(400, f"invalid: {', '.join(body)}"))
    (found,) = backend_on(server).generate(PROMPTS[:1], BY_SCHEMA, seed=0)
    assert isinstance(found, Failure) and found.refused
    assert all({"model", "messages", "max_tokens"} <= body.keys() for body in server.bodies[:4])
    assert len(server.bodies) <= 6


@pytest.mark.parametrize(("refused", "wanted"), [("max_tokens", "max_completion_tokens")])
def test_the_limit_changes_its_name_without_a_warning(serve, refused, wanted):
    said = {"error": {"code": "unsupported_parameter", "param": refused, "message": "Unsupported parameter."}}
    server = serve(lambda body, count: Reply(said, 400) if refused in body else completion(str(body[wanted])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = backend_on(server, concurrency=1).generate(PROMPTS[:2], SAMPLING, seed=0)
    assert [one.text for one in found] == ["20", "20"] and len(server.bodies) == 3


def test_servers_of_two_kinds_behind_one_address_each_get_the_name_that_they_know(serve):
    def answer(body, count):
        known, other = ("max_completion_tokens", "max_tokens")[:: 1 if numbered(body) == 0 else -1]
        return completion("ok") if known in body else failure(400, f"Unknown parameter {other}, use {known} instead")

    found = backend_on(serve(answer), concurrency=1).generate(PROMPTS[:2], SAMPLING, seed=0)
    assert [type(one) for one in found] == [Completion, Completion]


def test_a_refused_argument_of_the_template_is_left_out_of_the_extra_body():
    known = Parameters("a server")
    attempt = known.attempt({"seed": 1, "extra_body": {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 5}})
    assert attempt.yields(Rejection({"message": "enable_thinking is not supported"}), "said")
    assert attempt.sent == {"seed": 1, "extra_body": {"top_k": 5}}
    with pytest.warns(SelfsteerWarning, match="refuses chat_template_kwargs"):
        attempt.taken()
    assert known.attempt({"extra_body": {"chat_template_kwargs": {}}}).sent == {"extra_body": {}}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("top_logprobs must be between 0 and 5", 5),
        ({"detail": [{"loc": ["body", "top_logprobs"], "msg": "Input should be less", "ctx": {"le": 8}}]}, 8),
        ("Requested sample logprobs of 20, which is greater than max allowed: 7", 7),
        ("too many top_logprobs", 10),
    ],
)
def test_fewer_log_probs_are_asked_for_where_the_server_takes_no_more(serve, said, expected):
    def answer(body, count):
        refused = failure(400, said) if isinstance(said, str) else Reply(said, 422)
        return refused if body["top_logprobs"] > expected else with_logprobs({"A": -0.1, "B": -2.5})

    server = serve(answer)
    backend = backend_on(server, concurrency=1)
    with pytest.warns(SelfsteerWarning, match=f"takes top_logprobs up to {expected} only"):
        assert backend.label_logprobs(PROMPTS[:2], ["A", "B"]) == [[-0.1, -2.5]] * 2
    assert [body["top_logprobs"] for body in server.bodies] == [20, expected, expected]


def test_what_does_nothing_is_not_sent(serve):
    server = serve([completion("ok")])
    backend = backend_on(server, concurrency=1)
    backend.generate(PROMPTS[:1], Sampling(9, 1.0, 1.0), seed=0)
    backend.generate(PROMPTS[:1], GREEDY, seed=0)
    assert ["top_p" in body for body in server.bodies] == [False, False]


# --- too long


@pytest.mark.parametrize(
    "said",
    [
        {
            "error": {
                "code": "context_length_exceeded",
                "param": "messages",
                "message": "maximum context length is 8192",
            }
        },
        "This model's maximum context length is 100 tokens. However, you requested 120 tokens (max_tokens).",
        "prompt is too long: 205000 tokens > 200000 maximum",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096",
        "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
        {"detail": [{"loc": ["body", "max_tokens"], "msg": "Input should be less than or equal to 4096"}]},
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "the request exceeds the available context size, try increasing it",
    ],
)
def test_what_is_too_long_is_final_for_that_prompt_and_the_advice_is_about_lengths(serve, said):
    def answer(body, count):
        refused = failure(400, said) if isinstance(said, str) else Reply(said, 400)
        return refused if numbered(body) == 1 else completion("ok")

    server = serve(answer)
    found = backend_on(server, concurrency=1).generate(PROMPTS, SAMPLING, seed=0)
    assert [type(one) for one in found] == [Completion, Failure, *[Completion] * 4]
    assert found[1].blocked == "length" and found[1].refused and "generation.max_new_tokens" in found[1].error.do
    assert len(server.bodies) == 6 and all({"max_tokens", "seed"} <= body.keys() for body in server.bodies)


# --- content filters


def azure(code: str) -> dict:
    found = {"hate": {"filtered": True, "severity": "high"}, "violence": {"filtered": False, "severity": "safe"}}
    return {
        "error": {
            "message": "The response was filtered due to the prompt triggering our policy.",
            "param": "prompt",
            "code": code,
            "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": found},
        }
    }


BLOCKED = {
    "no choices": (Reply({"choices": [], "usage": None}), "no choice"),
    "no message": (Reply({"choices": [{"message": None, "finish_reason": "stop"}]}), "no message"),
    "no text": (completion(None, "content_filter"), "content_filter"),
    "part of a text": (completion("Half a", "content_filter"), "content_filter"),
    "Gemini": (completion(None, "SAFETY"), "SAFETY"),
    "Gemini, copied": (completion("", "recitation"), "recitation"),
    "Gemini, reason": (completion(None, "content_filter: PROHIBITED_CONTENT"), "PROHIBITED_CONTENT"),
    "a refusal": (Reply({"choices": [{"message": {"content": None, "refusal": "I can't."}}]}), "I can't."),
    "feedback": (Reply({"promptFeedback": {"blockReason": "OTHER"}}), "OTHER"),
    "feedback beside": (Reply({"choices": [], "prompt_feedback": {"block_reason": "SAFETY"}}), "SAFETY"),
    "Azure": (Reply(azure("content_filter"), 400), "hate: The response was filtered"),
    "an error with 200": (failure(200, "Output blocked by content filtering policy"), "content filtering policy"),
    "an error with 200 and a code": (failure(200, "no", code="content_policy_violation"), "no"),
    "moderation": (failure(403, "Your input was flagged by moderation"), "flagged"),
    "a usage policy": (failure(400, "Your prompt may violate our usage policy", code="invalid_prompt"), "usage policy"),
    "DashScope": (
        failure(400, "Input data may contain inappropriate content.", code="data_inspection_failed"),
        "Input",
    ),
}


@pytest.mark.parametrize("form", BLOCKED)
def test_a_blocked_prompt_is_final_named_and_asked_once(serve, form):
    reply, reason = BLOCKED[form]
    server = serve(lambda body, count: reply if numbered(body) == 0 else completion("ok"))
    found = backend_on(server, concurrency=1, max_retries=3).generate(PROMPTS, BY_SCHEMA, seed=0)
    assert [type(one) for one in found] == [Failure, *[Completion] * 5] and len(server.bodies) == 6
    blocked = found[0]
    assert blocked.refused and not blocked.ends and blocked.blocked == "content"
    assert "content filter blocks it" in blocked.error.what and reason in blocked.error.what
    assert "max_new_tokens" not in blocked.error.do


def test_a_prompt_that_is_blocked_does_not_end_the_work_of_a_judge_by_log_probs(serve):
    def answer(body, count):
        return completion(None, "content_filter") if numbered(body) == 1 else with_logprobs({"A": -0.1, "B": -2.5})

    found = backend_on(serve(answer), concurrency=2).label_logprobs(PROMPTS, ["A", "B"])
    assert [one for one in found if not isinstance(one, Failure)] == [[-0.1, -2.5]] * 5
    assert found[1].blocked == "content"


def test_only_the_content_of_a_refusal_decides_that_it_is_one_of_content(serve):
    """A parameter is not blocked, however the server's words begin."""
    assert not Rejection({"error": {"message": "Unsupported parameter: seed", "param": "seed"}}).content
    assert not Rejection("'messages' must contain the word json to use response_format").content
