"""The endpoint backend against a server of the test's own: what is sent, what comes back, and every way to fail."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import logging
import math
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from selfsteer.backends import Completion, Failure, Sampling, http_limits
from selfsteer.backends import request_scheduler as scheduler
from selfsteer.backends.budget import Budget, Usage, usage_of, worst_prompt
from selfsteer.backends.endpoint import EndpointBackend, open_backend
from selfsteer.backends.source import BackendSource
from selfsteer.config import EndpointSettings, GenerationSettings
from selfsteer.errors import (
    BudgetReached,
    ConfigError,
    DataError,
    ModelError,
    SelfsteerError,
    SelfsteerWarning,
    StorageError,
    WorkFailed,
)
from tests.backends.chat_server import HANG_UP, ChatServer, Reply, completion, failure, metered, scripted, with_logprobs
from tests.chat_templates import user

KEY = "sk-secret-qwxzvkjpqz"
SAMPLING = Sampling(20, temperature=0.7, top_p=0.9)
GREEDY = Sampling(5, temperature=0.0, top_p=1.0)
REAL_WAIT = scheduler.RequestScheduler._wait
PROMPTS = [user(f"Question {i}?", "Be brief.") for i in range(6)]


def open_endpoint(settings: EndpointSettings, usage=None, **options) -> EndpointBackend:
    """Open it as a recipe does."""
    generation = GenerationSettings(backend="endpoint", endpoint=settings)
    return open_backend(BackendSource(generation, usage=usage, **options))


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses before further tries: a clock of the test's own passes them at once; the server keeps the real one."""
    clock, waited = SimpleNamespace(now=1000.0), []

    def wait(self, seconds):
        if seconds is None:
            self._changed.wait()
        else:
            waited.append(seconds)
            clock.now += seconds

    monkeypatch.setattr(scheduler, "_now", lambda: clock.now)
    monkeypatch.setattr(scheduler.RequestScheduler, "_wait", wait)
    return waited


def backend_on(server: ChatServer, *, budget=None, chat_template_kwargs=None, **settings) -> EndpointBackend:
    settings = EndpointSettings(model="some-model", base_url=server.url, **settings)
    return EndpointBackend(settings, budget=budget, chat_template_kwargs=chat_template_kwargs)


def backend_at(address: str | None = None, **settings) -> EndpointBackend:
    return EndpointBackend(EndpointSettings(model="m", base_url=address, **settings))


def generate(server: ChatServer, sampling: Sampling = SAMPLING, **options):
    return backend_on(server, **options).generate(PROMPTS[:1], sampling, seed=3)


def failed(server: ChatServer, **options) -> Failure:
    """What came of one request that got no answer."""
    (found,) = generate(server, **options)
    assert isinstance(found, Failure)
    return found


def shown_of(error: SelfsteerError) -> str:
    """Everything that a traceback would show of an error."""
    try:
        raise error
    except SelfsteerError as caught:
        return "".join(traceback.format_exception(caught))


def error_of(server: ChatServer, kind: type[SelfsteerError], **options) -> str:
    """The text of the error of one request, and everything that a traceback would show of it."""
    error = failed(server, **options).error
    assert type(error) is kind
    return shown_of(error)


def numbered(body) -> int:
    """The number of the question in a request."""
    return int(body["messages"][-1]["content"].split()[1].rstrip("?"))


# --- requests and answers


def test_a_request_holds_the_prompt_the_sampling_and_the_seed(serve):
    server = serve(scripted)
    generate(server)
    path, _, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "some-model",
        "messages": PROMPTS[0],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 20,
        "seed": 3,
    }


def test_variables_of_the_chat_template_go_along_in_every_request(serve):
    server = serve(scripted)
    generate(server, chat_template_kwargs={"enable_thinking": False})
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in server.bodies)
    labels = serve([with_logprobs({"A": -0.1, "B": -2.0})])
    backend_on(labels, chat_template_kwargs={"enable_thinking": False}).label_logprobs(PROMPTS[:1], ["A", "B"])
    assert labels.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}


def test_greedy_requests_name_no_top_p(serve):
    server = serve(scripted)
    generate(server, GREEDY)
    assert server.bodies[0]["temperature"] == 0 and "top_p" not in server.bodies[0]


@pytest.mark.parametrize(
    ("finish", "expected"),
    [("stop", "stop"), ("STOP", "stop"), ("eos_token", "stop"), ("length", "length"), (None, "length")],
)
def test_what_did_not_end_by_itself_counts_as_cut(serve, finish, expected):
    (found,) = generate(serve([completion("Some text", finish)]))
    assert (found.text, found.finish, found.token_ids) == ("Some text", expected, None)


def test_an_answer_without_text_is_empty(serve):
    assert generate(serve([completion(None)]))[0].text == ""


def test_half_a_character_becomes_a_replacement_sign(serve):
    (found,) = generate(serve([Reply(b'{"choices": [{"message": {"content": "ok \\ud83d\\ude00 \\ud83d"}}]}')]))
    assert found.text == "ok \U0001f600 \ufffd"


def test_results_are_in_order_whatever_order_they_come_in(serve):
    """The first request is answered last."""

    def answer(body, count):
        return Reply(completion(str(numbered(body))).body, delay=0.05 * (len(PROMPTS) - numbered(body)))

    found = backend_on(serve(answer)).generate(PROMPTS, SAMPLING, seed=0)
    assert [one.text for one in found] == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_are_under_way_than_allowed(serve, concurrency):
    server = serve([Reply(completion("x").body, delay=0.05)])
    backend_on(server, concurrency=concurrency).generate(PROMPTS, SAMPLING, seed=0)
    assert (len(server.requests), server.most) == (len(PROMPTS), concurrency)


def test_a_model_that_wants_the_limits_newer_name_gets_it_once_and_for_all(serve):
    def answer(body, count):
        if "max_tokens" in body:
            return failure(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return completion(str(body["max_completion_tokens"]))

    server = serve(answer)
    backend = backend_on(server, concurrency=1)
    assert [one.text for one in backend.generate(PROMPTS[:3], SAMPLING, seed=0)] == ["20"] * 3
    assert ["max_tokens" in body for body in server.bodies] == [True, False, False, False]


SCHEMA = {"type": "object", "properties": {"good": {"type": "string"}}}
BY_SCHEMA = Sampling(20, temperature=0.0, top_p=1.0, json_schema=SCHEMA)


def test_a_schema_goes_along_as_the_form_of_the_response(serve):
    server = serve(scripted)
    generate(server, BY_SCHEMA)
    generate(server, GREEDY)
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert [body.get("response_format") for body in server.bodies] == [form, None]


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_knows_no_schemas_is_asked_without_once_and_for_all(serve, status):
    def answer(body, count):
        return failure(status, "unknown field") if "response_format" in body else completion("ok")

    server = serve(answer)
    backend = backend_on(server, concurrency=1)
    with pytest.warns(SelfsteerWarning, match="takes no JSON schema .*: unknown field") as told:
        found = backend.generate(PROMPTS, BY_SCHEMA, seed=0)
    assert [one.text for one in found] == ["ok"] * 6 and len(told) == 1
    assert ["response_format" in body for body in server.bodies] == [True, *[False] * 6]


def test_a_request_that_is_refused_with_and_without_its_schema_says_nothing_of_schemas(serve):
    def answer(body, count):
        return failure(400, "no") if numbered(body) == 1 else completion("ok")

    server = serve(answer)
    found = backend_on(server, concurrency=1).generate(PROMPTS, BY_SCHEMA, seed=0)
    assert [type(one) for one in found] == [Completion, Failure, *[Completion] * 4] and found[1].refused
    assert sum("response_format" not in body for body in server.bodies) == 1


def test_the_address_may_stand_in_the_environment(serve, monkeypatch):
    server = serve(scripted)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert backend_at().generate(PROMPTS[:1], SAMPLING, seed=0)[0].text
    assert backend_at().base_url == server.url


# --- the key


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "MY_KEY"])
def test_the_key_comes_from_the_named_variable(serve, monkeypatch, variable):
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv(variable, f" {KEY}\n")
    server = serve(scripted)
    generate(server, api_key_env=variable)
    assert server.requests[0][1]["authorization"] == f"Bearer {KEY}"


def test_a_server_without_key_is_asked_without_one(serve):
    server = serve(scripted)
    generate(server)
    assert server.requests[0][1]["authorization"] == "Bearer none"


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 422, 429, 500])
def test_the_key_is_in_no_error_and_no_log_even_if_the_server_quotes_it(serve, monkeypatch, caplog, status):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    server = serve([failure(status, f"I know your key {KEY}, {KEY[:5]}***{KEY[-4:]}" if status == 401 else KEY)])
    found = failed(server, max_retries=1)
    shown = shown_of(found.error) + repr(found) + caplog.text + repr(backend_on(server))
    assert len(caplog.text) > 100
    assert KEY not in shown and KEY[-4:] not in shown


def test_the_key_is_in_no_file_of_the_run(serve, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve([failure(400, KEY), HANG_UP, metered(completion("ok"), 3, 4)])
    backend = open_endpoint(EndpointSettings(model="m", base_url=server.url, concurrency=1), tmp_path / "usage.jsonl")
    refused, answered = backend.generate(PROMPTS[:2], SAMPLING, seed=0)
    assert isinstance(refused, Failure) and answered.text == "ok"
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert written == '{"completion_tokens": 4, "model": "m", "prompt_tokens": 3}\n'
    assert KEY not in written + repr(vars(backend)) + refused.error.what


@pytest.mark.parametrize("key", ["two words", "ключ", "a\tb"])
def test_what_can_not_be_a_key_is_refused_without_showing_it(serve, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ModelError, match="the value of OPENAI_API_KEY can't be a key") as caught:
        backend_on(serve(scripted))
    assert key not in shown_of(caught.value)


def test_a_key_in_place_of_its_variables_name_is_refused_without_showing_it(serve):
    with pytest.raises(ConfigError, match="never the key itself") as caught:
        backend_on(serve(scripted), api_key_env=KEY)
    assert KEY not in shown_of(caught.value)


def test_a_password_in_the_environments_address_is_not_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:pass@[::1]:8000/v1?token=x")
    backend = backend_at()
    assert backend.base_url == "http://[::1]:8000/v1"
    assert repr(backend) == "EndpointBackend('m', base_url='http://[::1]:8000/v1')"


# --- requests that are refused


@pytest.mark.parametrize(
    ("status", "what", "do"),
    [
        (401, "the server wants a valid key", "environment variable OPENAI_API_KEY, which is not set"),
        (403, "the server denies access: said so", "may use this model"),
        (404, "no such model or no such address: said so", "check the model's name and base_url"),
        (400, "refuses the request (status 400): said so", "what this server takes"),
        (413, "too long for the server (status 413): said so", "generation.max_new_tokens"),
        (422, "refuses the request (status 422): said so", "what this server takes"),
    ],
)
def test_refusals_say_what_where_and_what_to_do(serve, pauses, status, what, do):
    server = serve([failure(status, "said so")])
    error = failed(server).error
    assert type(error) is ModelError
    assert what in error.what and do in error.do and error.exit_code == 2
    assert error.where == f"{server.url}, model 'some-model'"
    assert pauses == []


def test_refused_rows_stand_among_good_ones(serve):
    def answer(body, count):
        return failure(400, "too long for the context") if numbered(body) in (1, 4) else completion(str(numbered(body)))

    found = backend_on(serve(answer)).generate(PROMPTS, SAMPLING, seed=0)
    assert [type(one) for one in found] == [Completion, Failure, Completion, Completion, Failure, Completion]
    assert [(one.refused, one.ends) for one in found if isinstance(one, Failure)] == [(True, False)] * 2
    assert [one.text for one in found if isinstance(one, Completion)] == ["0", "2", "3", "5"]


def test_half_a_character_in_a_prompt_is_refused(serve):
    server = serve(scripted)
    bad, good = backend_on(server).generate([user("bad \ud83d"), PROMPTS[0]], SAMPLING, seed=0)
    assert type(bad.error) is DataError and "half of a surrogate pair" in bad.error.what and bad.refused
    assert isinstance(good, Completion) and len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 404, 405])
def test_what_every_other_request_would_meet_ends_the_work(serve, status):
    server = serve([failure(status, "no")])
    found = backend_on(server, concurrency=2).generate(PROMPTS * 50, SAMPLING, seed=0)
    assert len(found) == 300 and all(one.ends and not one.refused for one in found)
    assert len(server.requests) <= 2


def test_what_is_under_way_at_the_end_is_waited_for_and_kept(serve):
    def answer(body, count):
        if numbered(body) == 1:
            return Reply(failure(401, "no").body, status=401, delay=0.05)
        return Reply(completion("kept").body, delay=0.3)

    server = serve(answer)
    found = backend_on(server, concurrency=3).generate(PROMPTS, SAMPLING, seed=0)
    assert [getattr(one, "text", None) for one in found] == ["kept", None, "kept", None, None, None]
    assert all(one.ends for one in found if isinstance(one, Failure))
    assert {type(one.error) for one in found if isinstance(one, Failure)} == {ModelError}
    assert len(server.requests) == 3


def test_denied_access_to_all_ends_the_work_and_to_one_row_does_not(serve):
    """Some servers deny access where they dislike a prompt: a harmless one tells."""
    everywhere = serve([failure(403, "no")])
    found = backend_on(everywhere, concurrency=2).generate(PROMPTS * 20, SAMPLING, seed=0)
    assert all(one.ends and not one.refused for one in found) and len(everywhere.requests) <= 3
    assert [[message["content"] for message in body["messages"]] for body in everywhere.bodies].count(["Hi", "Hi"]) == 1

    here = serve(lambda body, count: failure(403, "not you") if "2?" in str(body["messages"]) else completion("ok"))
    found = backend_on(here).generate(PROMPTS, SAMPLING, seed=0)
    assert [(one.refused, one.ends) for one in found if isinstance(one, Failure)] == [(True, False)]
    assert isinstance(found[2], Failure) and len(here.requests) == len(PROMPTS) + 1


def test_a_setting_that_the_server_never_takes_ends_the_work_and_names_it(serve):
    server = serve([failure(400, "the tenant must be set")])
    found = backend_on(server, concurrency=2).generate(PROMPTS * 50, SAMPLING, seed=0)
    assert "in a row got no answer, a harmless one neither: " in found[-1].error.what
    assert "the tenant must be set" in found[-1].error.what and found[-1].ends
    assert type(found[-1].error) is ModelError and len(server.requests) <= 13  # 10 in a row, 1 more under way, a trial


def test_a_wrong_path_is_told_as_one(serve):
    backend = backend_at(serve(scripted).url + "/chat/completions")
    (found,) = backend.generate(PROMPTS[:1], SAMPLING, seed=0)
    assert "no such address" in found.error.what and 'it ends before "/chat/completions"' in found.error.do
    assert found.ends


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Welcome</html>",
        b"",
        b"\xff\xfe\x00",
        b"[" * 100000,
        b"[]",
        b'"text"',
        b'{"choices": [{"text": "of the older kind"}]}',
        b'{"choices": [{"message": {"content": 5}}]}',
        b'{"choices": [{"message": "hello"}]}',
    ],
)
def test_garbage_is_no_chat_completions_server(serve, body):
    server = serve([Reply(body)])
    assert "no chat-completions server" in error_of(server, ModelError)
    assert failed(server).ends


@pytest.mark.parametrize("body", [b"<html>busy</html>", b'{"choices": [{"mess', b"{}"])
def test_from_a_server_that_has_answered_garbage_is_passing_trouble(serve, body):
    server = serve([completion("one"), Reply(body), completion("two"), Reply(body)])
    found = backend_on(server, concurrency=1, max_retries=2).generate(PROMPTS[:3], SAMPLING, seed=0)
    assert [one.text for one in found[:2]] == ["one", "two"]
    assert type(found[2].error) is WorkFailed and "answer is damaged" in found[2].error.what
    assert not found[2].refused and not found[2].ends and len(server.requests) == 6


def test_an_answer_that_breaks_off_is_asked_for_again(serve):
    assert generate(serve([Reply(b'{"choices": [{"mess'), completion("whole")]))[0].text == "whole"


@pytest.mark.parametrize("address", ["", "localhost:8000", "ftp://host/v1", "http://", "http://[::1", "http://h:99999"])
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises(ModelError, match=r"base_url(.|\n)*set OPENAI_BASE_URL"):
        backend_at(address)


def test_a_missing_package_is_told_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match="pip install"):
        backend_at("http://localhost/v1")


# --- passing trouble: further tries


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_passing_trouble_is_met_with_further_tries(serve, pauses, status):
    trouble = failure(status, "not now")
    server = serve([trouble, trouble, completion("at last")])
    assert generate(server)[0].text == "at last"
    assert len(server.requests) == 3
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1.0  # growing, with jitter


def test_every_third_request_fails_and_all_are_answered(serve):
    server = serve(lambda body, count: failure(500, "oops") if count % 3 == 2 else completion(str(numbered(body))))
    found = backend_on(server).generate(PROMPTS * 5, SAMPLING, seed=0)
    assert [one.text for one in found] == [str(i) for i in range(6)] * 5
    assert len(server.requests) == 44  # 30 answered, 14 times the third


def test_a_lost_connection_is_met_with_further_tries(serve):
    assert generate(serve([HANG_UP, completion("ok")]))[0].text == "ok"
    lost = failed(serve([HANG_UP]), max_retries=1)
    assert type(lost.error) is WorkFailed and "can't reach the server" in lost.error.what
    assert not lost.refused and not lost.ends


@pytest.mark.parametrize("seconds", [0.05, 700])
def test_the_servers_own_pause_is_kept_even_a_long_one(serve, pauses, seconds):
    server = serve([failure(429, "slow down", Retry_After=str(seconds)), completion("ok")])
    with pytest.warns(SelfsteerWarning, match="asks to wait 700 s") if seconds > 60 else nullcontext():
        assert generate(server)[0].text == "ok"
    (waited,) = pauses
    assert seconds <= waited <= 1.1 * seconds


def test_a_pause_up_to_a_date_is_kept(serve, pauses):
    date = email.utils.formatdate(time.time() + 50, usegmt=True)
    assert generate(serve([failure(503, "back soon", Retry_After=date), completion("ok")]))[0].text == "ok"
    assert 48 <= pauses[0] <= 55


def test_a_server_that_asks_for_hours_ends_the_work(serve, pauses):
    found = failed(serve([failure(429, "daily limit", Retry_After="20000")]))
    assert found.ends and "asks to wait 20000 s: daily limit" in found.error.what and pauses == []


def test_while_one_waits_as_the_server_asks_the_others_send_nothing(serve, monkeypatch):
    """The first answer asks to wait while three more requests are under way; nobody else comes in the meantime."""
    monkeypatch.setattr(scheduler, "_now", time.monotonic)
    monkeypatch.setattr(scheduler.RequestScheduler, "_wait", REAL_WAIT)
    moments = []

    def answer(body, count):
        moments.append(time.monotonic())
        return failure(429, "slow", Retry_After="0.4") if count == 0 else Reply(completion("ok").body, delay=0.05)

    found = backend_on(serve(answer), concurrency=4).generate(PROMPTS * 2, SAMPLING, seed=0)
    assert all(isinstance(one, Completion) for one in found) and len(moments) == 13
    assert 1 <= sum(moment < moments[0] + 0.4 for moment in moments) <= 4


@pytest.mark.parametrize("status", [429, 500])
def test_trouble_that_lasts_is_a_failure_that_may_pass(serve, status):
    server = serve([failure(status, "not now")])
    found = failed(server, max_retries=2)
    assert f"status {status}: not now" in shown_of(found.error) and server.url in found.error.where
    assert type(found.error) is WorkFailed and not found.refused and not found.ends
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "reply",
    [
        failure(200, "overloaded"),
        failure(200, "overloaded", code=502),
        completion("half a", "error", error={"message": "overloaded"}),
    ],
)
def test_an_error_with_status_200_is_one(serve, reply):
    server = serve([reply])
    assert "overloaded" in error_of(server, WorkFailed, max_retries=1)
    assert len(server.requests) == 2


def test_an_error_with_status_200_may_be_a_refusal(serve):
    assert failed(serve([failure(200, "flagged", code=400)])).refused


@pytest.mark.parametrize(
    "reply", [failure(429, "check your plan", code="insufficient_quota"), failure(402, "no credits")]
)
def test_an_empty_account_ends_the_work_at_once(serve, pauses, reply):
    server = serve([reply])
    found = backend_on(server, concurrency=1).generate(PROMPTS, SAMPLING, seed=0)
    assert all(one.ends and "the account has nothing left" in one.error.what for one in found)
    assert found[0].error.exit_code == 1 and "OPENAI_API_KEY" in found[0].error.do
    assert (len(server.requests), pauses) == (1, [])


def test_a_silent_server_is_given_up_after_the_timeout(serve):
    server = serve([Reply(completion("late").body, delay=2)])
    assert "did not answer within 0.6 s" in error_of(server, WorkFailed, timeout=0.6, max_retries=1)
    assert len(server.requests) == 2


def test_a_server_that_is_down_ends_the_work_after_the_last_try(pauses):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    backend = backend_at(f"http://127.0.0.1:{port}/v1", concurrency=1)
    found = backend.generate(PROMPTS, SAMPLING, seed=0)
    assert all(one.ends and type(one.error) is WorkFailed for one in found)
    assert re.search("can't reach the server: .*refused", found[0].error.what)
    assert len(pauses) == 5


def test_a_server_that_only_fails_is_given_up_soon(serve):
    """24 in a row are looked into: a harmless request fails as well. The count goes on from batch to batch."""
    server = serve([failure(500, "dead")])
    backend = backend_on(server, max_retries=1)
    first = backend.generate(PROMPTS * 3, SAMPLING, seed=0)
    assert not any(one.ends for one in first)
    second = backend.generate(PROMPTS * 1000, SAMPLING, seed=0)
    assert second[-1].ends and "requests in a row got no answer, a harmless one neither" in second[-1].error.what
    assert len(server.requests) <= 2 * (24 + 7 + 1)


def test_rows_that_fail_in_a_row_do_not_end_the_work_of_a_server_that_works(serve):
    """Fifty rows that the server breaks on: two trials get their answers."""
    server = serve(lambda body, count: completion("ok") if "Hi" in str(body["messages"]) else failure(500, "dead"))
    found = backend_on(server, concurrency=1, max_retries=0).generate([user("x")] * 25, SAMPLING, seed=0)
    assert all(isinstance(one, Failure) and not one.ends for one in found)
    assert len(server.requests) == 27


def test_long_messages_are_cut(serve):
    shown = error_of(serve([Reply(b"<p>\n" * 5000, status=502)]), WorkFailed, max_retries=0)
    assert "status 502: <p> <p>" in shown and len(shown) < 5000


# --- thoughts


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_reasoning_part_is_kept_apart_from_the_answer(serve, name):
    body = {"choices": [{"message": {"content": "4", name: "2 + 2 is \ud83d"}, "finish_reason": "stop"}]}
    assert generate(serve([Reply(body)])) == [Completion("4", "stop", thinking="2 + 2 is \ufffd")]


@pytest.mark.parametrize("thoughts", [None, "", ["a"], {"text": "a"}])
def test_what_is_no_text_is_no_thought(serve, thoughts):
    body = {"choices": [{"message": {"content": "4", "reasoning_content": thoughts}, "finish_reason": "stop"}]}
    assert generate(serve([Reply(body)])) == [Completion("4", "stop")]


# --- what it may cost


def meter(body) -> tuple[int, int]:
    """What a request uses up, by the test's own count: a token a character, and all that the answer may have."""
    return sum(len(message["content"]) for message in body["messages"]), body["max_tokens"]


def test_the_cap_on_tokens_is_never_exceeded_and_the_same_command_goes_on(serve, tmp_path):
    server = serve(lambda body, count: Reply(metered(completion("ok"), *meter(body)).body, delay=0.005))
    settings = EndpointSettings(model="m", base_url=server.url, concurrency=8, max_total_tokens=2000)
    bill = tmp_path / "usage.jsonl"
    found = open_endpoint(settings, bill).generate(PROMPTS * 20, SAMPLING, seed=0)
    used = sum(sum(meter(body)) for body in server.bodies)
    worst = worst_prompt(PROMPTS[0]) + SAMPLING.max_new_tokens
    assert 2000 - worst < used <= 2000
    assert used == 40 * sum(isinstance(one, Completion) for one in found) == 40 * len(server.requests)
    assert type(found[-1].error) is BudgetReached and found[-1].ends and found[-1].error.exit_code == 1
    assert f"took {used} tokens" in found[-1].error.what and "max_total_tokens" in found[-1].error.do

    again = open_endpoint(settings, bill).generate(PROMPTS, SAMPLING, seed=0)
    assert all(type(one.error) is BudgetReached for one in again) and used == 40 * len(server.requests)
    more = settings.model_copy(update={"max_total_tokens": 4000})
    assert all(isinstance(one, Completion) for one in open_endpoint(more, bill).generate(PROMPTS, SAMPLING, seed=0))


def test_the_cap_on_money_is_never_exceeded(serve, tmp_path):
    """20 prompt tokens and 20 of the answer: 20 * 1000 + 20 * 5000 millionths, 0.12 a request."""
    server = serve(lambda body, count: metered(completion("ok"), *meter(body)))
    prices = {"price_prompt": 1000.0, "price_completion": 5000.0}
    settings = EndpointSettings(model="m", base_url=server.url, max_cost=2.0, **prices)
    backend = open_endpoint(settings, tmp_path / "usage.jsonl")
    found = backend.generate(PROMPTS * 20, SAMPLING, seed=0)
    worst = (worst_prompt(PROMPTS[0]) * 1000 + 20 * 5000) / 1e6
    assert 2.0 - worst < 0.12 * len(server.requests) <= 2.0
    assert backend.budget.spent_cost == pytest.approx(0.12 * len(server.requests))
    assert "max_cost" in found[-1].error.do and found[-1].ends


def test_two_models_on_one_bill_each_cost_their_own_price(serve, tmp_path):
    """6 answers of 40 tokens each at 1 a token, then the other model at 10 a token: 240 + 400 for each further one."""
    server = serve(lambda body, count: metered(completion("ok"), *meter(body)))
    bill, cheap, dear = tmp_path / "usage.jsonl", (1e6, 1e6), (1e7, 1e7)

    def opened(model: str, own, **settings) -> EndpointBackend:
        prices = {"price_prompt": own[0], "price_completion": own[1]}
        values = EndpointSettings(model=model, base_url=server.url, **prices, **settings)
        return open_endpoint(values, bill, other_prices={"cheap": cheap, "dear": dear}, where="principles.model")

    opened("cheap", cheap).generate(PROMPTS, SAMPLING, seed=0)
    backend = opened("dear", dear, max_cost=6000.0, concurrency=1)
    assert backend.budget.spent_cost == 240.0 and backend.budget.spent.tokens == 240
    found = backend.generate(PROMPTS * 5, SAMPLING, seed=0)
    answered = sum(isinstance(one, Completion) for one in found)
    worst = 10 * (worst_prompt(PROMPTS[0]) + SAMPLING.max_new_tokens)
    assert backend.budget.spent_cost == 240 + 400 * answered and 6000 - worst < backend.budget.spent_cost <= 6000
    assert "raise principles.model.max_cost" in found[-1].error.do
    assert opened("cheap", cheap).budget.spent_cost == backend.budget.spent_cost, "whoever adds it up"


def test_what_waited_for_room_is_not_sent_after_the_end(serve):
    """The third, longer prompt has room only when both others are through; the first of them ends the work."""
    both = threading.Event()

    def answer(body, count):
        if count == 1:
            both.set()
        both.wait(5)
        kept = metered(completion("kept"), 1, 1)
        return failure(401, "no") if numbered(body) == 0 else Reply(kept.body, delay=0.3)

    class LongOnesLast(Budget):
        def room(self, prompt, completion):
            if prompt > 200:
                both.wait(5)
            return super().room(prompt, completion)

    server = serve(answer)
    cap = 2 * (worst_prompt(PROMPTS[0]) + SAMPLING.max_new_tokens) + 10
    budget = LongOnesLast(settings=EndpointSettings(max_total_tokens=cap))
    longer = user("Question 9? " + "x" * 120, "Be brief.")
    backend = backend_on(server, concurrency=3, budget=budget)
    first, second, third = backend.generate([*PROMPTS[:2], longer], SAMPLING, seed=0)
    assert first.ends and second.text == "kept"
    assert third.ends and type(third.error) is ModelError and len(server.requests) == 2


def test_a_cap_without_reported_usage_ends_the_work_and_keeps_the_answer(serve, tmp_path):
    server = serve([completion("kept")])
    settings = EndpointSettings(model="m", base_url=server.url, concurrency=1, max_total_tokens=10**6)
    first, *others = open_endpoint(settings, None).generate(PROMPTS, SAMPLING, seed=0)
    assert first.text == "kept" and len(server.requests) == 1
    assert all(one.ends and type(one.error) is ModelError and "no usage" in one.error.what for one in others)


def test_without_a_cap_the_bill_is_kept_where_there_is_usage(serve, tmp_path):
    server = serve([metered(completion("a"), 10, 5), completion("b"), metered(completion("c"), 20, 6)])
    settings = EndpointSettings(model="m", base_url=server.url, concurrency=1)
    backend = open_endpoint(settings, tmp_path / "usage.jsonl")
    assert len([one.text for one in backend.generate(PROMPTS[:3], SAMPLING, seed=0)]) == 3
    budget = open_endpoint(settings, tmp_path / "usage.jsonl").budget
    assert (*budget.spent, budget.requests) == (30, 11, 2)
    assert backend.budget.spent.tokens == 41


def test_a_bill_that_can_not_be_written_ends_the_work(serve, tmp_path):
    (tmp_path / "file").write_text("no folder")
    server = serve([metered(completion("a"), 10, 5)])
    settings = EndpointSettings(model="m", base_url=server.url, concurrency=1)
    found = open_endpoint(settings, tmp_path / "file" / "usage.jsonl").generate(PROMPTS, SAMPLING, seed=0)
    assert all(type(one.error) is StorageError and one.ends for one in found) and len(server.requests) == 1


def test_a_recipes_settings_reach_the_backend(serve, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", KEY)
    server = serve([failure(500, "no")])
    settings = EndpointSettings(
        model="org/m", base_url=server.url, api_key_env="OTHER_KEY", concurrency=3, timeout=7.0, max_retries=1
    )
    backend = open_endpoint(settings, None)
    assert backend.settings is settings
    backend.generate(PROMPTS[:1], SAMPLING, seed=0)
    assert len(server.requests) == 2 and server.requests[0][1]["authorization"] == f"Bearer {KEY}"


# --- label log-probs


def labels_of(server: ChatServer, labels=("A", "B")) -> list[list[float | None]]:
    return backend_on(server).label_logprobs(PROMPTS[:1], labels)


def test_one_greedy_token_is_asked_for_with_its_log_probs(serve):
    server = serve([with_logprobs({"A": -0.1, "B": -2.5})])
    assert labels_of(server) == [[-0.1, -2.5]]
    body = server.bodies[0]
    assert (body["max_tokens"], body["temperature"], body["logprobs"], body["top_logprobs"]) == (1, 0, True, 20)


def test_forms_with_a_leading_blank_count_together(serve):
    """0.5 + 0.25 + 0.125; "\u0120B" and "\u2581B" are forms of B; "AB" and "a" are something else."""
    top = {"A": math.log(0.5), " A": math.log(0.25), "\nA": math.log(0.125), "AB": -3.0, "a": -3.0}
    top |= {"\u0120B": math.log(0.01), "\u2581B": math.log(0.02)}
    ((a, b),) = labels_of(serve([with_logprobs(top)]))
    assert a == pytest.approx(math.log(0.875)) and b == pytest.approx(math.log(0.03))


def test_a_label_that_is_not_among_the_likeliest_is_none(serve):
    assert labels_of(serve([with_logprobs({"A": -0.1, "The": -3.0, "B": -9999.0})])) == [[-0.1, None]]
    assert labels_of(serve([with_logprobs({})])) == [[None, None]]  # the model ended at once


def test_very_unlikely_forms_do_not_underflow(serve):
    assert labels_of(serve([with_logprobs({"A": -900.0, " A": -900.0})]), ["A"]) == [
        [pytest.approx(-900 + math.log(2))]
    ]


def test_label_log_probs_are_in_the_order_of_prompts_and_labels(serve):
    def answer(body, count):
        number = numbered(body)
        return Reply(with_logprobs({"A": -float(number), "B": -0.5}).body, delay=0.03 * (3 - number))

    found = backend_on(serve(answer)).label_logprobs(PROMPTS[:3], ["B", "A"])
    assert found == [[-0.5, 0.0], [-0.5, -1.0], [-0.5, -2.0]]


@pytest.mark.parametrize(
    "reply",
    [
        completion("A"),
        completion("A", logprobs=None),
        completion("A", logprobs={"content": None}),
        completion("A", logprobs={"content": [{"token": "A", "logprob": -0.1, "top_logprobs": []}]}),
        completion("A", logprobs={"content": [{"token": "A", "logprob": -0.1}]}),
        completion("A", logprobs={"content": [{"top_logprobs": [{"token": "A", "logprob": None}]}]}),
        failure(400, "logprobs are not supported with this model"),
    ],
)
def test_a_server_without_log_probs_is_told_with_the_way_out(serve, reply):
    with pytest.raises(ModelError, match="text mode"):
        labels_of(serve([reply]))


def test_log_probs_are_for_all_prompts_or_for_none(serve):
    server = serve([failure(400, "no")])
    with pytest.raises(ModelError, match="status 400"):
        backend_on(server, concurrency=2).label_logprobs(PROMPTS * 50, ["A", "B"])
    assert len(server.requests) <= 2


# --- the rest


def test_the_client_is_imported_where_it_is_used():
    code = "import sys, selfsteer.backends.endpoint; print('openai' in sys.modules, 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_a_closed_backend_holds_no_connection(serve):
    server = serve(scripted)
    backend = backend_at(server.url)
    backend.generate(PROMPTS, SAMPLING, seed=0)
    assert server.connections > 0, "they are kept for the next batch"
    backend.close()
    deadline = time.monotonic() + 10
    while server.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.connections == 0


# --- limits


def test_a_redirect_to_another_host_is_refused_and_one_to_the_same_followed(serve):
    there = serve(lambda request, count: completion("there"))
    port = there.url.split(":")[2].partition("/")[0]
    redirect = {"Location": f"http://localhost:{port}/v1/chat/completions"}
    server = serve(lambda request, count: Reply(b"", 307, redirect))
    (failed,) = open_endpoint(EndpointSettings(model="m", base_url=server.url)).generate(PROMPTS[:1], GREEDY, seed=0)
    assert failed.ends and isinstance(failed.error, ModelError)
    assert "sends the request on to localhost" in str(failed.error)
    assert not there.requests

    here = {"Location": there.url + "/chat/completions"}
    server = serve(lambda request, count: Reply(b"", 308, here))
    (found,) = open_endpoint(EndpointSettings(model="m", base_url=server.url)).generate(PROMPTS[:1], GREEDY, seed=0)
    assert found.text == "there"


def test_an_answer_longer_than_the_tokens_asked_for_is_cut(serve):
    server = serve(lambda request, count: completion("long " * 100_000, reasoning="so " * 100_000))
    (found,) = open_endpoint(EndpointSettings(model="m", base_url=server.url)).generate(PROMPTS[:1], GREEDY, seed=0)
    assert found.finish == "length"
    assert len(found.text) == 128 * GREEDY.max_new_tokens


def test_a_body_that_is_too_large_is_not_read_to_its_end(serve, monkeypatch):
    monkeypatch.setattr(http_limits, "LARGEST", 100_000)
    server = serve(lambda request, count: completion("long " * 100_000))
    settings = EndpointSettings(model="m", base_url=server.url, max_retries=0)
    (failed,) = open_endpoint(settings).generate(PROMPTS[:1], GREEDY, seed=0)
    assert "more than 100,000 bytes" in str(failed.error)


def test_an_answer_that_trickles_in_has_a_deadline():
    """The server sends a byte now and then, so it is never silent for long."""
    listening = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        connection, _ = listening.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b" ")
                time.sleep(0.05)

    threading.Thread(target=trickle, daemon=True).start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    started = time.perf_counter()
    settings = EndpointSettings(model="m", base_url=address, max_retries=0, timeout=0.3)
    (failed,) = open_endpoint(settings).generate(PROMPTS[:1], GREEDY, seed=0)
    listening.close()
    assert isinstance(failed.error, WorkFailed)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("echo", [KEY, KEY.upper(), base64.b64encode(KEY.encode()).decode(), KEY[:15]])
def test_a_key_that_the_server_repeats_is_in_no_answer(echo, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve(lambda request, count: completion(f"Your key is {echo}, keep it."))
    (found,) = open_endpoint(EndpointSettings(model="m", base_url=server.url)).generate(PROMPTS[:1], GREEDY, seed=0)
    assert found.text == "Your key is [key], keep it."


def test_usage_in_floats_counts_and_senseless_usage_does_not():
    assert usage_of({"prompt_tokens": 5.0, "completion_tokens": 2}) == Usage(5, 2)
    for one in (5.5, -1, True, 10**400, float("nan"), "5", None):
        assert usage_of({"prompt_tokens": one, "completion_tokens": 2}) is None
