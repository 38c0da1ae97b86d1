"""Generation by any server with OpenAI's chat-completions interface: hosted models, vLLM, llama.cpp, Ollama, ...

The key comes from an environment variable and goes into the requests alone: not into errors, logs or files.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selfsteer.backends.base import Completion, Failure, Outcome, Prompt, Sampling
from selfsteer.backends.budget import Budget, Prices, worst_prompt
from selfsteer.backends.openai_response import Answer, completion_of, label_logprob, read_answer, top_logprobs
from selfsteer.backends.parameters import LIMIT, Options, Parameters
from selfsteer.backends.rejections import Rejection
from selfsteer.backends.request_scheduler import LONGEST_PAUSE, RequestError, RequestScheduler, retry_after
from selfsteer.config import EndpointSettings
from selfsteer.errors import ConfigError, DataError, ModelError, SelfsteerError, WorkFailed

TOP_LOGPROBS = 20
"""As many as the interface gives for one position."""

_NO_KEY = "none"
"""Sent where there is no key: servers without keys take anything, but the client wants one."""
_SAID = 300
"""Characters of a server's message that are worth a reader's time."""
_NEGOTIABLE = (400, 422, 501)
"""What servers answer to a parameter that they don't take."""
_FILTERED = "leave such prompts out, or ask another server or model"
_SHORTER = "lower the tokens that are asked for (generation.max_new_tokens), or ask a model with a longer context"
_FORM = 'it ends before "/chat/completions", mostly with "/v1", as in http://localhost:8000/v1'
_TEXT_MODE = "use the judge's text mode, or a server that gives log-probs"
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached")
"""Codes of an account that has nothing left; the first comes with status 429, as if waiting would help."""
_NOT_THERE = (401, 404, 405, 410)
"""What no request to this address gets over: no key that is taken, no model, nothing that answers chats."""
_PASSING = (408, 409, 425)
_CROWDED = (429, 529)
_UNREACHED = ("ConnectError", "ConnectTimeout")
"""The client's causes where there was no connection at all."""


def open_endpoint(
    settings: EndpointSettings,
    usage: Path | None,
    *,
    others: Mapping[str, Prices] | None = None,
    where: str = "generation.endpoint",
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> EndpointBackend:
    """Return the backend that a recipe asks for.

    Args:
        settings: What the recipe says; its ``model`` is given.
        usage: The file that keeps what the server has used up, a line an answer; None keeps none.
        others: Prices of the other models that a run asks, by name: their answers stand in the same file.
        where: The recipe's section with the caps, for messages.
        chat_template_kwargs: Variables for the chat template that the server renders with.

    Raises:
        ModelError, ConfigError: As :class:`EndpointBackend`.
        StorageError: The file can't be read.
    """
    assert settings.model is not None  # the recipe is not valid without
    budget = Budget(
        usage,
        max_tokens=settings.max_total_tokens,
        max_cost=settings.max_cost,
        price_prompt=settings.prices[0],
        price_completion=settings.prices[1],
        model=settings.model,
        others=others,
        where=where,
    )
    return EndpointBackend(
        settings.model,
        base_url=settings.base_url,
        key_variable=settings.api_key_env,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        max_retries=settings.max_retries,
        budget=budget,
        chat_template_kwargs=chat_template_kwargs,
    )


class EndpointBackend:
    """Completions from a server, several requests at a time. Failing requests are repeated with growing pauses.

    The same requests go out for the same prompts, sampling and seed; whether the same texts come back is the server's.

    Args:
        model: The model's name on the server.
        base_url: The address up to and with "/v1"; None takes the environment's OPENAI_BASE_URL.
        key_variable: The environment variable that holds the key; unset or empty where the server wants none.
        concurrency: Requests under way at once.
        timeout: Seconds that a server may keep silent in one request.
        max_retries: Further tries after a timeout, a lost connection, a damaged answer or status 408, 409, 429 and 5xx.
            The pauses are the server's own (Retry-After) or grow from half a second to a minute.
        budget: What the requests may use up, and where it is noted; None sets no cap and notes nothing.
        chat_template_kwargs: Variables for the chat template, sent as ``chat_template_kwargs``, which vLLM, SGLang and
            llama.cpp take.

    Raises:
        ModelError: There is no address, or address or key can't be one.
        ConfigError: Another argument is out of range, or the openai package is missing.
    """

    name = "endpoint"
    chat = None
    context = None

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 300.0,
        max_retries: int = 5,
        budget: Budget | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        _check_range(concurrency, timeout, max_retries)
        address = base_url or os.environ.get("OPENAI_BASE_URL", "")
        key = _key(key_variable)
        self.model, self.base_url = model, _without_secrets(address)
        self.concurrency, self.timeout = concurrency, timeout
        self.budget = budget or Budget()
        self._key_variable, self._has_key = key_variable, key != _NO_KEY
        self._traffic = RequestScheduler(concurrency, max_retries)
        client = _client(address, key, timeout)
        self._create, self._close = client.chat.completions.with_raw_response.create, client.close
        # A closure, so that the key stands in no attribute.
        self._without_key: Callable[[str], str] = lambda text: text if key == _NO_KEY else text.replace(key, "[key]")
        self._parameters = Parameters(self._where)
        self._extra: Options = (
            {"extra_body": {"chat_template_kwargs": dict(chat_template_kwargs)}} if chat_template_kwargs else {}
        )

    def __repr__(self) -> str:
        """Show the model and where it is."""
        return f"EndpointBackend({self.model!r}, base_url={self.base_url!r})"

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, shared_prefix: Sequence[int] = ()
    ) -> list[Outcome]:
        """Return one outcome a prompt, in order; ``shared_prefix`` is left to the server's own cache.

        A failure is ``refused`` where the server does not take this request, and ``ends`` the work where every other
        would fail as well: no key that is taken, no such model or address, nothing that can be reached, the cap is
        reached or the account empty, many failures in a row. Its error is then a ModelError, DataError, BudgetReached,
        StorageError or WorkFailed; any other failure is a WorkFailed: there was no answer at the last try.

        A failure is ``blocked`` where the server refuses this prompt, for its content or its length.

        A schema goes along as ``response_format``. A parameter that the server refuses while it takes the same request
        without it is not sent any more, with one warning.
        """
        options: Options = {"temperature": sampling.temperature, "seed": seed}
        if sampling.temperature > 0 and sampling.top_p < 1:  # some servers refuse it beside others
            options["top_p"] = sampling.top_p
        if sampling.json_schema is not None:
            schema = {"name": "answer", "schema": dict(sampling.json_schema), "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}

        def ask(prompt: Prompt, ready: Callable[[], None]) -> Completion:
            return completion_of(self._ask(prompt, ready, options | {LIMIT: sampling.max_new_tokens}))

        return list(self._traffic.each(prompts, ask, trial=_harmless))

    def label_logprobs(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[list[float | None] | Failure]:
        """Return the log-probs (nats) of each label as the first token of the reply, per prompt in the labels' order.

        The forms of a label with and without a leading blank count together. None stands for a label that is not among
        the :data:`TOP_LOGPROBS` likeliest tokens (fewer where the server takes no such number). A prompt that the
        server blocks has a failure in its place.

        Raises:
            ModelError: The key, the model or the address is wrong, the server refuses a request or gives no log-probs.
            DataError: A prompt is no text.
            WorkFailed: A request still failed after the last try. The first error ends the work: nothing more is sent.
        """
        options = {"temperature": 0.0, "logprobs": True, "top_logprobs": TOP_LOGPROBS, LIMIT: 1}
        needed = {"logprobs", "top_logprobs"}

        def ask(prompt: Prompt, ready: Callable[[], None]) -> list[float | None]:
            top = top_logprobs(self._ask(prompt, ready, options, needed))
            if top is None:
                raise RequestError(
                    ModelError("the server gives no log-probs", where=self._where, do=_TEXT_MODE), ends=True
                )
            return [label_logprob(label, top) for label in labels]

        found = self._traffic.each(prompts, ask)
        for one in found:
            if isinstance(one, Failure) and not one.blocked:
                raise one.error
        return found

    def length(self, prompt: Prompt) -> int:
        """Return the number of characters of the prompt."""
        return sum(len(message["content"]) for message in prompt)

    def close(self) -> None:
        """Close the connections to the server; nothing can be asked afterwards."""
        self._close()

    def _ask(
        self, prompt: Prompt, ready: Callable[[], None], options: Options, needed: Set[str] = frozenset()
    ) -> dict[str, Any]:
        """Return the server's choice for one prompt; raises Trouble. Every request goes through here.

        Args:
            prompt: What to ask.
            ready: Called when there is room for a request, right before it goes.
            options: The parameters besides model and messages.
            needed: Those of them that the answer is of no use without.
        """
        attempt = self._parameters.attempt(options | self._extra, needed)
        while (answer := self._answer(prompt, ready, attempt.sent, options[LIMIT])).error:
            negotiable = answer.status in _NEGOTIABLE
            if not (negotiable and attempt.yields(Rejection(answer.error), self._said(answer.error))):
                raise self._told(answer)
        if not (answer.choice or answer.blocked):
            raise self._no_answer(answer)
        attempt.taken()
        if answer.blocked:
            raise self._blocked(answer.blocked)
        assert answer.choice is not None
        return answer.choice

    def _answer(self, prompt: Prompt, ready: Callable[[], None], options: Options, max_tokens: int) -> Answer:
        """Send one request when there is room for it; return whatever comes; raises Trouble."""
        try:
            with self.budget.room(worst_prompt(prompt), max_tokens) as count:
                ready()
                answer = self._send(prompt, options)
                if answer.choice is not None or answer.usage is not None:
                    count(answer.usage)
                return answer
        except SelfsteerError as error:  # the budget's: the next request would meet it as well
            raise RequestError(error, ends=True) from None

    def _send(self, prompt: Prompt, options: Options) -> Answer:
        """Send one request; raises Trouble where no answer comes."""
        import openai

        messages = [dict(message) for message in prompt]
        try:
            return read_answer(self._create(model=self.model, messages=messages, **options).http_response.content)
        except UnicodeEncodeError:
            do = "leave that prompt out, or correct its text"
            error = DataError("a prompt holds half of a surrogate pair, which is no text", do=do)
            raise RequestError(error, blocked="content") from None
        except openai.APIStatusError as error:
            return Answer(
                b"",
                error=error.body or str(error),
                status=error.status_code,
                pause=retry_after(error.response.headers),
            )
        except openai.APITimeoutError:
            # "from None", here and below: what the client raises may quote the key.
            raise RequestError(
                self._failed(f"the server did not answer within {self.timeout:g} s"), again=True
            ) from None
        except openai.OpenAIError as error:
            cause = error.__cause__
            what = f"can't reach the server: {self._said(str(cause or error))}"
            raise RequestError(self._failed(what), again=True, unreached=type(cause).__name__ in _UNREACHED) from None

    def _no_answer(self, answer: Answer) -> RequestError:
        """Return the trouble of a body that is no answer: cut off, or from what has answered before, it is damaged."""
        said = self._said(answer.body.decode(errors="replace"))
        if self._traffic.answers or answer.cut_off:
            return RequestError(self._failed(f"the server's answer is damaged: {said!r}"), again=True)
        what = f"what answers there is no chat-completions server: {said!r}"
        return RequestError(ModelError(what, where=self._where, do=f"check base_url: {_FORM}"), ends=True)

    def _told(self, answer: Answer) -> RequestError:
        """Return the trouble that an answer with an error tells of; the status is None where it has none."""
        status, pause, rejection = answer.status, answer.pause, Rejection(answer.error)
        said = self._said(answer.error)
        whole = answer.error if isinstance(answer.error, dict) else {}
        codes = (whole.get("code"), whole.get("type"))
        if any(code in codes for code in _NO_MONEY) or (status == 402 and pause is None):
            do = f"see to the account of the key in {self._key_variable}, then run the same command again"
            error = WorkFailed(f"the account has nothing left: {said}", where=self._where, do=do)
            return RequestError(error, ends=True)
        refused = status is not None and status < 500 and status not in (402, *_PASSING, *_CROWDED)
        ends = status in _NOT_THERE
        if (refused or status is None) and not ends and rejection.content:
            return self._blocked(f"{rejection.categories}: {said}" if rejection.categories else said)
        if refused and not ends and (rejection.length or status == 413):
            what = f"the prompt, or the answer asked for, is too long for the server (status {status}): {said}"
            return RequestError(ModelError(what, where=self._where, do=_SHORTER), blocked="length")
        if refused and status is not None:
            return RequestError(self._refused(status, said), ends=ends, refused=not ends, doubtful=status == 403)
        if pause is not None and pause > LONGEST_PAUSE:
            do = "run the same command again then"
            error = WorkFailed(f"the server asks to wait {pause:.0f} s: {said}", where=self._where, do=do)
            return RequestError(error, ends=True)
        what = f"the server answers with {'an error' if status is None else f'status {status}'}: {said}"
        crowded = status in _CROWDED or pause is not None
        return RequestError(self._failed(what), again=True, pause=pause, crowded=crowded)

    def _blocked(self, said: str) -> RequestError:
        """Return the trouble of a prompt that the server does not answer for its content."""
        what = f"the server's content filter blocks it: {self._said(said)}"
        return RequestError(ModelError(what, where=self._where, do=_FILTERED), blocked="content")

    @property
    def _where(self) -> str:
        return f"{self.base_url}, model {self.model!r}"

    def _failed(self, what: str) -> WorkFailed:
        do = "see that the server runs and is not overloaded (lower concurrency?), then run the same command again"
        return WorkFailed(what, where=self._where, do=do)

    def _refused(self, status: int, said: str) -> ModelError:
        if status == 401:  # without the message, which may quote part of the key
            state = "holds a key that is not taken" if self._has_key else "is not set"
            do = f"put this server's key into the environment variable {self._key_variable}, which {state}"
            return ModelError("the server wants a valid key", where=self._where, do=do)
        if status == 403:
            do = f"check that the key in {self._key_variable} may use this model"
            return ModelError(f"the server denies access: {said}", where=self._where, do=do)
        if status == 404:
            do = f"check the model's name and base_url: {_FORM}"
            return ModelError(f"no such model or no such address: {said}", where=self._where, do=do)
        do = _TEXT_MODE if "logprobs" in said else "change the settings or the prompts to what this server takes"
        return ModelError(f"the server refuses the request (status {status}): {said}", where=self._where, do=do)

    def _said(self, body: object) -> str:
        """Return what a body says, in one short line."""
        if isinstance(body, dict):
            body = next((body[name] for name in ("message", "error", "detail") if body.get(name)), body)
        text = self._without_key(" ".join(str(body).split()))
        return text if len(text) <= _SAID else f"{text[:_SAID]}..."


def _harmless(prompt: Prompt) -> Prompt:
    """Return a prompt of the same form that no server has a reason to refuse."""
    return [{**message, "content": "Hi"} for message in prompt]


def _check_range(concurrency: int, timeout: float, max_retries: int) -> None:
    for name, value, least in (
        ("concurrency", concurrency, 1),
        ("timeout", timeout, 1e-3),
        ("max_retries", max_retries, 0),
    ):
        if not least <= value < math.inf:
            raise ConfigError(f"{name} can't be {value}", where=name, do=f"give a number from {least:g} up")


def _key(variable: str) -> str:
    """Return the key in an environment variable. What is no variable's name may be a key itself: it is not shown."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        do = "give the name of an environment variable in capitals, e.g. OPENAI_API_KEY, never the key itself"
        raise ConfigError("the name of the key's variable is none", where="key_variable", do=do)
    key = os.environ.get(variable, "").strip() or _NO_KEY
    if not re.fullmatch(r"[!-~]+", key):
        do = "set it to the key alone: letters, digits and signs, no blanks"
        raise ModelError(f"what {variable} holds can't be a key", where=f"environment variable {variable}", do=do)
    return key


def _without_secrets(address: str) -> str:
    """Return an address without name, password and query; ModelError where it is none."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        what = "base_url is no address" if address else "no base_url: the server to ask is not named"
        do = "give one such as http://localhost:8000/v1 or https://api.openai.com/v1, or set OPENAI_BASE_URL"
        raise ModelError(what, where="base_url", do=do)
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path}"


def _client(address: str, key: str, timeout: float) -> Any:
    try:
        import openai
    except ImportError as error:
        do = "pip install 'openai>=3'"
        raise ConfigError("the endpoint backend needs the openai package, which is not installed", do=do) from error
    # A server that does not even take the connection needs no long wait.
    patience = openai.Timeout(timeout, connect=min(timeout, 10.0))
    # Its own further tries keep no pause that is longer than two minutes, and each thread goes its own way.
    return openai.OpenAI(base_url=address, api_key=key, timeout=patience, max_retries=0)
