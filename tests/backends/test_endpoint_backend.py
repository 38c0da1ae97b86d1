"""The endpoint backend against a server of the test's own: what is sent, what comes back, and every way to fail."""

from __future__ import annotations

import logging
import math
import socket
import subprocess
import sys
import time
import traceback
from types import SimpleNamespace

import pytest

from selfsteer.backends import Sampling
from selfsteer.backends.endpoint import EndpointBackend
from selfsteer.errors import ConfigError, DataError, ModelError, SelfsteerError, WorkFailed

from ..chat_templates import user
from .chat_server import ChatServer, Reply, completion, failure, scripted, with_logprobs

KEY = "sk-secret-qwxzvkjpqz"
SAMPLING = Sampling(20, temperature=0.7, top_p=0.9)
GREEDY = Sampling(5, temperature=0.0, top_p=1.0)
PROMPTS = [user(f"Question {i}?", "Be brief.") for i in range(6)]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses before further tries; nothing is waited for (by the client: the server keeps its own clock)."""
    import openai._base_client as client

    waited: list[float] = []
    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=waited.append, time=time.time))
    return waited


@pytest.fixture
def serve(request):
    """Return a function that starts a server with a script; a list is gone through request by request."""
    servers = []

    def start(script) -> ChatServer:
        answer = script if callable(script) else lambda body, count: script[min(count, len(script) - 1)]
        servers.append(ChatServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def backend_on(server: ChatServer, **options) -> EndpointBackend:
    return EndpointBackend("some-model", base_url=server.url, **options)


def generate(server: ChatServer, sampling: Sampling = SAMPLING, **options):
    return backend_on(server, **options).generate(PROMPTS[:1], sampling, seed=3)


def error_of(server: ChatServer, kind: type[SelfsteerError], **options) -> str:
    """The text of the error of one request, and everything that a traceback would show of it."""
    with pytest.raises(kind) as caught:
        generate(server, **options)
    assert type(caught.value) is kind
    return "".join(traceback.format_exception(caught.value))


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


def test_greedy_requests_name_no_top_p(serve):
    server = serve(scripted)
    generate(server, GREEDY)
    assert server.bodies[0]["temperature"] == 0 and "top_p" not in server.bodies[0]


@pytest.mark.parametrize(
    ("finish", "expected"),
    [("stop", "stop"), ("eos_token", "stop"), ("length", "length"), ("content_filter", "length"), (None, "length")],
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
        number = int(body["messages"][-1]["content"].split()[1].rstrip("?"))
        return Reply(completion(str(number)).body, delay=0.05 * (len(PROMPTS) - number))

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


def test_the_address_may_stand_in_the_environment(serve, monkeypatch):
    server = serve(scripted)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert EndpointBackend("m").generate(PROMPTS[:1], SAMPLING, seed=0)[0].text
    assert EndpointBackend("m").base_url == server.url


# --- the key


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "MY_KEY"])
def test_the_key_comes_from_the_named_variable(serve, monkeypatch, variable):
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv(variable, f" {KEY}\n")
    server = serve(scripted)
    generate(server, key_variable=variable)
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
    with pytest.raises(SelfsteerError) as caught:
        generate(server, max_retries=1)
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(backend_on(server))
    assert len(caplog.text) > 100
    assert KEY not in shown and KEY[-4:] not in shown


@pytest.mark.parametrize("key", ["two words", "ключ", "a\tb"])
def test_what_can_not_be_a_key_is_refused_without_showing_it(serve, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    shown = error_of(serve(scripted), ModelError)
    assert "what OPENAI_API_KEY holds can't be a key" in shown and key not in shown


def test_a_key_in_place_of_its_variables_name_is_refused_without_showing_it(serve):
    shown = error_of(serve(scripted), ConfigError, key_variable=KEY)
    assert "never the key itself" in shown.splitlines()[-1]
    assert KEY not in shown


def test_a_password_in_the_address_is_not_shown():
    backend = EndpointBackend("m", base_url="http://me:pass@[::1]:8000/v1?token=x")
    assert backend.base_url == "http://[::1]:8000/v1"
    assert repr(backend) == "EndpointBackend('m', base_url='http://[::1]:8000/v1')"


# --- errors of the input: exit 2


@pytest.mark.parametrize(
    ("status", "what", "do"),
    [
        (401, "the server wants a valid key", "environment variable OPENAI_API_KEY, which is not set"),
        (403, "the server denies access: said so", "may use this model"),
        (404, "no such model or no such address: said so", "check the model's name and base_url"),
        (400, "refuses the request (status 400): said so", "what this server takes"),
        (422, "refuses the request (status 422): said so", "what this server takes"),
    ],
)
def test_refusals_say_what_where_and_what_to_do(serve, pauses, status, what, do):
    server = serve([failure(status, "said so")])
    with pytest.raises(ModelError) as caught:
        generate(server)
    error = caught.value
    assert what in error.what and do in error.do and error.exit_code == 2
    assert error.where == f"{server.url}, model 'some-model'"
    assert (len(server.requests), pauses) == (1, [])


def test_a_wrong_path_is_told_as_one(serve):
    server = serve(scripted)
    with pytest.raises(ModelError, match=r"no such address(.|\n)*it ends before \"/chat/completions\""):
        EndpointBackend("m", base_url=server.url + "/chat/completions").generate(PROMPTS[:1], SAMPLING, seed=0)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Welcome</html>",
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b'"text"',
        b'{"choices": []}',
        b'{"choices": [{"text": "of the older kind"}]}',
        b'{"choices": [{"message": {"content": 5}}]}',
        b'{"choices": [{"message": "hello"}]}',
    ],
)
def test_garbage_is_no_chat_completions_server(serve, body):
    assert "no chat-completions server" in error_of(serve([Reply(body)]), ModelError)


@pytest.mark.parametrize("address", ["", "localhost:8000", "ftp://host/v1", "http://", "http://[::1", "http://h:99999"])
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises(ModelError, match=r"base_url(.|\n)*set OPENAI_BASE_URL"):
        EndpointBackend("m", base_url=address)


@pytest.mark.parametrize("setting", [{"concurrency": 0}, {"timeout": 0.0}, {"timeout": math.nan}, {"max_retries": -1}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))} can't be"):
        EndpointBackend("m", base_url="http://localhost/v1", **setting)


def test_half_a_character_in_a_prompt_is_refused(serve):
    with pytest.raises(DataError, match="half of a surrogate pair"):
        backend_on(serve(scripted)).generate([user("bad \ud83d")], SAMPLING, seed=0)


def test_a_missing_package_is_told_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match="pip install"):
        EndpointBackend("m", base_url="http://localhost/v1")


# --- errors of the work: further tries, then exit 1


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_passing_trouble_is_met_with_further_tries(serve, pauses, status):
    trouble = failure(status, "not now")
    server = serve([trouble, trouble, completion("at last")])
    assert generate(server)[0].text == "at last"
    assert len(server.requests) == 3
    assert 0.3 < pauses[0] <= 0.5 < 0.7 < pauses[1] <= 1.0  # growing, with jitter


def test_the_servers_own_pause_is_kept(serve, pauses):
    server = serve([failure(429, "slow down", Retry_After="0.05"), completion("ok")])
    assert generate(server)[0].text == "ok"
    assert pauses == [0.05]


@pytest.mark.parametrize("status", [429, 500])
def test_trouble_that_lasts_fails_the_work(serve, status):
    server = serve([failure(status, "not now")])
    shown = error_of(server, WorkFailed, max_retries=2)
    assert f"status {status}: not now" in shown and server.url in shown
    assert len(server.requests) == 3


def test_an_error_with_status_200_fails_the_work(serve):
    assert "an error: overloaded" in error_of(serve([failure(200, "overloaded")]), WorkFailed)


def test_a_silent_server_is_given_up_after_the_timeout(serve):
    server = serve([Reply(completion("late").body, delay=0.6)])
    assert "did not answer within 0.2 s" in error_of(server, WorkFailed, timeout=0.2, max_retries=1)
    assert len(server.requests) == 2


def test_a_server_that_is_down_fails_the_work():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(WorkFailed, match=r"can't reach the server: .*refused"):
        EndpointBackend("m", base_url=f"http://127.0.0.1:{port}/v1").generate(PROMPTS, SAMPLING, seed=0)


def test_the_first_error_ends_the_work(serve):
    """Nothing more is sent: with a wrong key, a thousand prompts are not a thousand refusals."""
    server = serve([failure(401, "no")])
    with pytest.raises(ModelError):
        backend_on(server, concurrency=2).generate(PROMPTS * 50, SAMPLING, seed=0)
    assert len(server.requests) < 30


def test_long_messages_are_cut(serve):
    shown = error_of(serve([Reply(b"<p>\n" * 5000, status=502)]), WorkFailed, max_retries=0)
    assert "status 502: <p> <p>" in shown and len(shown) < 5000


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
        number = int(body["messages"][-1]["content"].split()[1].rstrip("?"))
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


# --- the rest


def test_the_client_is_imported_where_it_is_used():
    code = "import sys, selfsteer.backends.endpoint; print('openai' in sys.modules, 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
