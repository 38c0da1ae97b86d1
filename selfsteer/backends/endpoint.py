"""Generation by any server with OpenAI's chat-completions interface: hosted models, vLLM, llama.cpp, Ollama, ...

The key comes from an environment variable and goes into the requests alone: not into errors, logs or files.
"""

from __future__ import annotations

import base64
import os
import re
import weakref
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import urlsplit

from selfsteer.backends.base import Completion, Failure, Outcome, Prompt, Sampling, cut_at_stop
from selfsteer.backends.budget import Budget, worst_prompt
from selfsteer.backends.http_limits import OtherServer, limiting_hooks
from selfsteer.backends.openai_response import Answer, completion_of, label_logprob, read_answer, top_logprobs
from selfsteer.backends.parameters import LIMIT, Options, Parameters
from selfsteer.backends.rejections import Rejection
from selfsteer.backends.request_scheduler import LONGEST_PAUSE, RequestError, RequestScheduler, retry_after
from selfsteer.backends.source import BackendSource
from selfsteer.config import EndpointSettings
from selfsteer.errors import ConfigError, DataError, ModelError, SelfsteerError, WorkFailed

TOP_LOGPROBS = 20
"""As many as the interface gives for one position."""

_LONG_KEY = 12
"""Characters from which on a key is taken out of answers too, and parts of it are recognised."""
_CHARACTERS = 128
"""Characters of a token, at most (vocabularies have runs of blanks); a longer answer is cut off."""
_NO_KEY = "none"
"""Sent where there is no key: servers without keys take anything, but the client wants one."""
_SHOWN = 300
"""Characters of a server's message in an error."""
_FILTERED = "leave such prompts out, or use another server or model"
_SHORTER = "lower the number of requested tokens (generation.max_new_tokens), or use a model with a longer context"
_FORM = 'it ends before "/chat/completions", mostly with "/v1", as in http://localhost:8000/v1'
_TEXT_MODE = "use the judge's text mode, or a server that gives log-probs"
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached")
"""Codes of an account that has nothing left; the first comes with status 429, as if waiting would help."""
_NEGOTIABLE = (400, 422, 501)
"""Statuses of an answer that refuses a parameter."""
_NOT_THERE = (401, 404, 405, 410)
"""Statuses that every request to this address would get: no valid key, no such model, no chats."""
_PASSING = (402, 408, 409, 425)
_CROWDED = (429, 529)
_UNREACHED = ("ConnectError", "ConnectTimeout")
"""The client's causes where there was no connection at all."""


def open_backend(source: BackendSource) -> EndpointBackend:
    """Return the backend of a recipe, with its bill; raises as :class:`EndpointBackend` and :class:`Budget`."""
    settings = source.settings.endpoint
    budget = Budget(source.usage, settings, others=source.other_prices, where=source.where)
    return EndpointBackend(settings, budget=budget, chat_template_kwargs=source.chat_template_kwargs)


class EndpointBackend:
    """Completions from a server, several requests at a time. Failing requests are repeated with growing pauses.

    The same requests go out for the same prompts, sampling and seed; whether the same texts come back depends on the
    server. The pauses after a timeout, a lost connection, a damaged answer or status 408, 409, 429 and 5xx are the
    server's own (Retry-After) or grow from half a second to a minute.

    Args:
        settings: The server's address (None: the environment's OPENAI_BASE_URL), its model, the variable that holds the
            key (unset or empty where the server wants none) and the limits; its caps are the budget's.
        budget: Caps the usage and notes it; None sets no cap and notes nothing.
        chat_template_kwargs: Variables for the chat template, sent as ``chat_template_kwargs``, which vLLM, SGLang and
            llama.cpp take.

    Raises:
        ModelError: There is no address, or address or key are malformed.
        ConfigError: The variable's name is malformed, or the openai package is missing.
    """

    name = "endpoint"
    chat = None
    context = None

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        budget: Budget | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        address = settings.base_url or os.environ.get("OPENAI_BASE_URL", "")
        key = _key(settings.api_key_env)
        self.settings, self.base_url = settings, _without_secrets(address)
        self.budget = budget or Budget()
        self._where, self._has_key = f"{self.base_url}, model {settings.model!r}", key != _NO_KEY
        self._scheduler = RequestScheduler(settings.concurrency, settings.max_retries)
        client = _client(address, key, settings.timeout)
        self._create, self._close = client.chat.completions.with_raw_response.create, client.close
        self._without_key = _hiding(key)  # a closure, so that no attribute holds the key
        self._echoes = len(key) >= _LONG_KEY  # a short one may be a word of an answer
        self._parameters = Parameters(self._where)
        kwargs = {"chat_template_kwargs": dict(chat_template_kwargs)} if chat_template_kwargs else {}
        self._extra: Options = {"extra_body": kwargs} if kwargs else {}

    def __repr__(self) -> str:
        """Show the model and its address."""
        return f"EndpointBackend({self.settings.model!r}, base_url={self.base_url!r})"

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, shared_prefix: Sequence[int] = ()
    ) -> list[Outcome]:
        """Return one outcome a prompt, in order; ``shared_prefix`` is left to the server's own cache.

        A failure is ``refused`` where the server does not take this request, and ``ends`` the work where every other
        would fail as well: no valid key, no such model or address, no connection, the cap is reached or the account
        empty, many failures in a row. Its error is then a ModelError, DataError, BudgetReached, StorageError or
        WorkFailed; any other failure is a WorkFailed: there was no answer at the last try. A failure is ``blocked``
        where the server refuses this prompt, for its content or its length.

        A schema is sent as ``response_format``. A parameter that the server refuses while it accepts the same request
        without it is not sent any more, with one warning.
        """
        options: Options = {"temperature": sampling.temperature, "seed": seed}
        if sampling.temperature > 0 and sampling.top_p < 1:  # some servers refuse it beside others
            options["top_p"] = sampling.top_p
        if sampling.json_schema is not None:
            schema = {"name": "answer", "schema": dict(sampling.json_schema), "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        if sampling.stop:
            options["stop"] = list(sampling.stop)

        def ask(prompt: Prompt, ready: Callable[[], None]) -> Completion:
            found = completion_of(self._ask(prompt, ready, options | {LIMIT: sampling.max_new_tokens}))
            found = cut_at_stop(found, sampling.stop)  # some servers leave the string there, some refuse `stop`
            longest = _CHARACTERS * sampling.max_new_tokens
            if max(len(found.text), len(found.thinking)) <= longest:
                return found
            return replace(found, text=found.text[:longest], thinking=found.thinking[:longest], finish="length")

        return list(self._scheduler.each(prompts, ask, trial=_harmless))

    def label_logprobs(
        self, prompts: Sequence[Prompt], labels: Sequence[str], *, keep_failures: bool = False
    ) -> list[list[float | None] | Failure]:
        """Return the log-probs (nats) of each label as the first token of the reply, per prompt in the labels' order.

        The forms of a label with and without a leading blank count together. None: the label is not among the
        :data:`TOP_LOGPROBS` likeliest tokens (fewer where the server takes no such number). A prompt that the server
        blocks has a failure in its place; with ``keep_failures`` every other failure too, as in :meth:`generate`, and
        nothing is raised.

        Raises:
            ModelError: The key, the model or the address is wrong, the server refuses a request or gives no log-probs.
            DataError: A prompt is not valid text.
            WorkFailed: A request still failed after the last try. The first error ends the work: nothing more is sent.
        """
        options = {"temperature": 0.0, "logprobs": True, "top_logprobs": TOP_LOGPROBS, LIMIT: 1}

        def ask(prompt: Prompt, ready: Callable[[], None]) -> list[float | None]:
            top = top_logprobs(self._ask(prompt, ready, options, {"logprobs", "top_logprobs"}))
            if top is None:
                error = ModelError("the server gives no log-probs", where=self._where, do=_TEXT_MODE)
                raise RequestError(Failure(error, ends=True))
            return [label_logprob(label, top) for label in labels]

        found = self._scheduler.each(prompts, ask, trial=_harmless if keep_failures else None)
        for one in found:
            if isinstance(one, Failure) and not one.blocked and not keep_failures:
                raise one.error
        return found

    def length(self, prompt: Prompt) -> int:
        """Return the number of characters of the prompt."""
        return sum(len(message["content"]) for message in prompt)

    def close(self) -> None:
        """Close the connections to the server; the backend can't be used afterwards."""
        self._close()

    def _ask(
        self, prompt: Prompt, ready: Callable[[], None], options: Options, needed: Set[str] = frozenset()
    ) -> dict[str, Any]:
        """Return the server's choice for one prompt; raises RequestError. Every request goes through here.

        ``ready`` is called right before a request is sent. Without the ``needed`` ones of the ``options`` (parameters
        besides model and messages) the answer is useless.
        """
        attempt = self._parameters.attempt(options | self._extra, needed)
        while (answer := self._answer(prompt, ready, attempt.sent, options[LIMIT])).error:
            negotiable = answer.status in _NEGOTIABLE
            if not (negotiable and attempt.yields(Rejection(answer.error), self._text(answer.error))):
                raise self._error(answer)
        if answer.choice is None and not answer.blocked:
            body = self._text(answer.body.decode(errors="replace"))
            # Damaged if it breaks off or others were answered.
            if self._scheduler.answers or answer.cut_off:
                raise self._passing(f"the server's answer is damaged: {body!r}")
            what = f"no chat-completions server at this address, it answers {body!r}"
            error = ModelError(what, where=self._where, do=f"check base_url: {_FORM}")
            raise RequestError(Failure(error, ends=True))
        attempt.taken()  # also of a blocked prompt: the server read it, so it accepts the parameters
        if answer.blocked or answer.choice is None:
            raise self._blocked(self._text(answer.blocked))
        return answer.choice

    def _answer(self, prompt: Prompt, ready: Callable[[], None], options: Options, max_tokens: int) -> Answer:
        """Send one request when there is room for it; return whatever comes; raises RequestError."""
        try:
            with self.budget.room(worst_prompt(prompt), max_tokens) as count:
                ready()
                answer = self._send(prompt, options)
                if answer.choice is not None or answer.usage is not None:  # without usage a cap can't be kept
                    count(answer.usage)
                return answer
        except SelfsteerError as error:  # the budget's: the next request would meet it as well
            raise RequestError(Failure(error, ends=True)) from None

    def _send(self, prompt: Prompt, options: Options) -> Answer:
        """Send one request; raises RequestError where no answer comes."""
        import openai

        messages = [dict(message) for message in prompt]
        try:
            response = self._create(model=self.settings.model, messages=messages, **options)
            body: bytes = response.http_response.content
            if self._echoes:
                body = self._without_key(body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
            return read_answer(body)
        except UnicodeEncodeError:
            do = "leave that prompt out, or correct its text"
            error = DataError("a prompt holds half of a surrogate pair, which is not valid text", do=do)
            raise RequestError(Failure(error, refused=True, blocked="content")) from None
        except openai.APIStatusError as error:
            pause = retry_after(error.response.headers)
            return Answer(b"", error=error.body or str(error), status=error.status_code, pause=pause)
        except openai.APITimeoutError:
            # "from None", here and below: the client's errors may quote the key.
            raise self._passing(f"the server did not answer within {self.settings.timeout:g} s") from None
        except openai.OpenAIError as error:
            cause = error.__cause__
            if isinstance(cause, OtherServer):
                do = "give the address where the server really is"
                refused = ModelError(str(cause), where=self._where, do=do)
                raise RequestError(Failure(refused, ends=True)) from None
            unreached = type(cause).__name__ in _UNREACHED
            raise self._passing(
                f"can't reach the server: {self._text(str(cause or error))}", unreached=unreached
            ) from None

    def _error(self, answer: Answer) -> RequestError:
        """Return the error that an answer reports."""
        status, pause, rejection, text = answer.status, answer.pause, Rejection(answer.error), self._text(answer.error)
        whole = answer.error if isinstance(answer.error, dict) else {}
        codes = whole.get("code"), whole.get("type")
        if (status == 402 and pause is None) or any(code in codes for code in _NO_MONEY):
            do = f"check the account of the key in {self.settings.api_key_env}, then run the same command again"
            error: SelfsteerError = WorkFailed(f"the account has nothing left: {text}", where=self._where, do=do)
            return RequestError(Failure(error, ends=True))
        refused = status is not None and status < 500 and status not in (*_PASSING, *_CROWDED)
        ends = status in _NOT_THERE
        if (refused or status is None) and not ends and rejection.content:
            return self._blocked(f"{rejection.categories}: {text}" if rejection.categories else text)
        if refused and not ends and (rejection.length or status == 413):
            what = f"the prompt, or the requested answer, is too long for the server (status {status}): {text}"
            return self._blocked(what, _SHORTER, "length")
        if refused and status is not None:
            failure = Failure(self._refusal(status, text), refused=not ends, ends=ends)
            return RequestError(failure, doubtful=status == 403)
        if pause is not None and pause > LONGEST_PAUSE:
            do = "run the same command again then"
            error = WorkFailed(f"the server asks to wait {pause:.0f} s: {text}", where=self._where, do=do)
            return RequestError(Failure(error, ends=True))
        what = f"the server answers with {'an error' if status is None else f'status {status}'}: {text}"
        return self._passing(what, pause=pause, crowded=status in _CROWDED or pause is not None)

    def _blocked(self, what: str, do: str = _FILTERED, kind: Literal["content", "length"] = "content") -> RequestError:
        """Return the error for a prompt that the server does not answer, for its content or its length."""
        what = f"the server's content filter blocks it: {what}" if kind == "content" else what
        return RequestError(Failure(ModelError(what, where=self._where, do=do), refused=True, blocked=kind))

    def _passing(self, what: str, **traits: Any) -> RequestError:
        """Return an error that may pass; ``traits`` are fields of RequestError."""
        do = "check that the server runs and is not overloaded (lower concurrency?), then run the same command again"
        return RequestError(Failure(WorkFailed(what, where=self._where, do=do)), again=True, **traits)

    def _refusal(self, status: int, text: str) -> ModelError:
        variable = self.settings.api_key_env
        if status == 401:  # without the message, which may quote part of the key
            state = "holds a key that is not valid there" if self._has_key else "is not set"
            do = f"put this server's key into the environment variable {variable}, which {state}"
            return ModelError("the server wants a valid key", where=self._where, do=do)
        do = _TEXT_MODE if "logprobs" in text else "change the settings or the prompts to what this server takes"
        what = f"the server refuses the request (status {status}): {text}"
        if status == 403:
            what, do = f"the server denies access: {text}", f"check that the key in {variable} may use this model"
        if status == 404:
            what, do = f"no such model or no such address: {text}", f"check the model's name and base_url: {_FORM}"
        return ModelError(what, where=self._where, do=do)

    def _text(self, body: object) -> str:
        """Return a body's message, in one short line without the key."""
        if isinstance(body, dict):
            body = next((body[name] for name in ("message", "error", "detail") if body.get(name)), body)
        text = self._without_key(" ".join(str(body).split()))
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _harmless(prompt: Prompt) -> Prompt:
    return [{**message, "content": "Hi"} for message in prompt]


def _key(variable: str) -> str:
    """Return the key in an environment variable. A malformed name of one may be a key itself: it is not shown."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        do = "give the name of an environment variable in capitals, e.g. OPENAI_API_KEY, never the key itself"
        raise ConfigError("this is not the name of an environment variable for the key", where="api_key_env", do=do)
    key = os.environ.get(variable, "").strip() or _NO_KEY
    if not re.fullmatch(r"[!-~]+", key):
        do = "set it to the key alone: letters, digits and signs, no blanks"
        raise ModelError(f"the value of {variable} can't be a key", where=f"environment variable {variable}", do=do)
    return key


def _without_secrets(address: str) -> str:
    """Return an address without name, password and query; ModelError where it is malformed."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        what = "base_url is not an address" if address else "no base_url: the server is not named"
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
    http = openai.DefaultHttpxClient(event_hooks=limiting_hooks(address, timeout))
    # The client's own retries ignore pauses above two minutes, and each thread would retry by itself.
    client = openai.OpenAI(base_url=address, api_key=key, timeout=patience, max_retries=0, http_client=http)
    weakref.finalize(client, http.close)
    return client


def _hiding(key: str) -> Callable[[str], str]:
    """Return a function that takes the key out of a text, also in other case, in base64 and cut short."""
    if key == _NO_KEY:
        return lambda text: text
    forms = [re.escape(key)]
    if len(key) >= _LONG_KEY:
        coded = base64.b64encode(key.encode()).decode()
        forms += [rf"{re.escape(form[:_LONG_KEY])}[\w.+/=-]{{0,{len(form) - _LONG_KEY}}}" for form in (key, coded)]
    pattern = re.compile("|".join(forms), re.IGNORECASE)
    return lambda text: pattern.sub("[key]", text)
