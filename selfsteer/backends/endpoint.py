"""Generation by any server with OpenAI's chat-completions interface: hosted models, vLLM, llama.cpp, Ollama, ...

The key comes from an environment variable and goes into the requests alone: not into errors, logs or files.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar
from urllib.parse import urlsplit

from selfsteer.backends.base import Completion, Prompt, Sampling
from selfsteer.errors import ConfigError, DataError, ModelError, SelfsteerError, WorkFailed

T = TypeVar("T")

TOP_LOGPROBS = 20
"""As many as the interface gives for one position."""

_NO_KEY = "none"
"""Sent where there is no key: servers without keys take anything, but the client wants one."""
_ENDED = ("stop", "eos_token")
_IMPOSSIBLE = -9999.0
"""What servers write for a token that they give no probability."""
_BLANKS = " \t\r\n\u2581\u0120"
"""Leading blanks of a token; some servers give SentencePiece's and byte-level BPE's own signs for a space."""
_SAID = 300
"""Characters of a server's message that are worth a reader's time."""
_FORM = 'it ends before "/chat/completions", mostly with "/v1", as in http://localhost:8000/v1'
_TEXT_MODE = "use the judge's text mode, or a server that gives log-probs"


class EndpointBackend:
    """Completions from a server, several requests at a time. Failing requests are repeated with growing pauses.

    The same requests go out for the same prompts, sampling and seed; whether the same texts come back is the server's.

    Args:
        model: The model's name on the server.
        base_url: The address up to and with "/v1"; None takes the environment's OPENAI_BASE_URL.
        key_variable: The environment variable that holds the key; unset or empty where the server wants none.
        concurrency: Requests under way at once.
        timeout: Seconds that a server may keep silent in one request.
        max_retries: Further tries after a timeout, a lost connection or status 408, 409, 429 and 5xx. The pauses are
            the server's own (Retry-After) or grow from half a second to eight.

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
    ) -> None:
        _check_range(concurrency, timeout, max_retries)
        address = base_url or os.environ.get("OPENAI_BASE_URL", "")
        key = _key(key_variable)
        self.model, self.base_url = model, _without_secrets(address)
        self.concurrency, self.timeout = concurrency, timeout
        self._key_variable, self._has_key = key_variable, key != _NO_KEY
        self._create = _client(address, key, timeout, max_retries).chat.completions.with_raw_response.create
        # A closure, so that the key stands in no attribute.
        self._without_key: Callable[[str], str] = lambda text: text if key == _NO_KEY else text.replace(key, "[key]")
        self._limit = "max_tokens"

    def __repr__(self) -> str:
        """Show the model and where it is."""
        return f"EndpointBackend({self.model!r}, base_url={self.base_url!r})"

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, shared_prefix: Sequence[int] = ()
    ) -> list[Completion]:
        """Return one completion a prompt, in order; ``shared_prefix`` is left to the server's own cache.

        Raises:
            ModelError: The key, the model or the address is wrong, or the server refuses a request.
            WorkFailed: A request still failed after the last try.
        """
        options: dict[str, Any] = {"temperature": sampling.temperature, "seed": seed}
        if sampling.temperature > 0:  # beside temperature 0 some servers refuse it
            options["top_p"] = sampling.top_p
        return self._each(prompts, lambda prompt: self._completion(prompt, sampling.max_new_tokens, options))

    def label_logprobs(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[list[float | None]]:
        """Return the log-probs (nats) of each label as the first token of the reply, per prompt in the labels' order.

        The forms of a label with and without a leading blank count together. None stands for a label that is not among
        the :data:`TOP_LOGPROBS` likeliest tokens.

        Raises:
            ModelError, WorkFailed: As :meth:`generate`; also where the server gives no log-probs.
        """
        return self._each(prompts, lambda prompt: self._label_logprobs(prompt, labels))

    def length(self, prompt: Prompt) -> int:
        """Return the number of characters of the prompt."""
        return sum(len(message["content"]) for message in prompt)

    def _each(self, prompts: Sequence[Prompt], ask: Callable[[Prompt], T]) -> list[T]:
        """Ask for all prompts, ``concurrency`` at a time. The first error ends the work: nothing more is sent."""
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = [pool.submit(ask, prompt) for prompt in prompts]
            try:
                for future in as_completed(futures):
                    future.result()
            finally:
                for future in futures:
                    future.cancel()
        return [future.result() for future in futures]

    def _completion(self, prompt: Prompt, max_new_tokens: int, options: dict[str, Any]) -> Completion:
        """Return the completion. Whatever the server does not call a natural end counts as cut off."""
        choice = self._ask(prompt, max_new_tokens, options)
        text = choice["message"].get("content") or ""
        # Half a character, at the end of a text that was cut, could not be written to any file.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return Completion(text, "stop" if choice.get("finish_reason") in _ENDED else "length")

    def _label_logprobs(self, prompt: Prompt, labels: Sequence[str]) -> list[float | None]:
        options = {"temperature": 0.0, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        choice = self._ask(prompt, 1, options)
        try:
            first = choice["logprobs"]["content"][:1]
            top = [(str(entry["token"]), float(entry["logprob"])) for at in first for entry in at["top_logprobs"]]
        except (LookupError, TypeError, ValueError) as error:
            raise self._no_logprobs() from error
        if first and not top:
            raise self._no_logprobs()
        return [_of_label(label, top) for label in labels]

    def _ask(self, prompt: Prompt, max_tokens: int, options: dict[str, Any]) -> dict[str, Any]:
        """Return the server's choice for one prompt. Every request goes through here."""
        import openai

        limit = self._limit
        try:
            return self._choice(self._send(prompt, {limit: max_tokens, **options}))
        except openai.BadRequestError as error:
            # Some models of OpenAI's own know the limit by its newer name only, most other servers by the older one.
            if limit == "max_tokens" and "max_completion_tokens" in str(error):
                self._limit = "max_completion_tokens"
                return self._ask(prompt, max_tokens, options)
            # "from None", here and below: what the client raises may quote the key.
            raise self._explain(error) from None
        except openai.OpenAIError as error:
            raise self._explain(error) from None

    def _send(self, prompt: Prompt, options: dict[str, Any]) -> bytes:
        """Return the body of the answer to one request; the client repeats it as need be."""
        try:
            answer = self._create(model=self.model, messages=[dict(message) for message in prompt], **options)
        except UnicodeEncodeError as error:
            do = "leave that prompt out, or correct its text"
            raise DataError("a prompt holds half of a surrogate pair, which is no text", do=do) from error
        body: bytes = answer.http_response.content
        return body

    def _choice(self, body: bytes) -> dict[str, Any]:
        """Return the first choice of an answer.

        Raises:
            WorkFailed: The answer is an error after all.
            ModelError: It is no answer of a chat-completions server.
        """
        answer = _read_json(body)
        choice = _first_choice(answer)
        if choice is not None:
            return choice
        if isinstance(answer, dict) and answer.get("error"):
            raise self._failed(f"the server answers with an error: {self._said(answer['error'])}")
        what = f"what answers there is no chat-completions server: {self._said(body.decode(errors='replace'))!r}"
        raise ModelError(what, where=self._where, do=f"check base_url: {_FORM}")

    @property
    def _where(self) -> str:
        return f"{self.base_url}, model {self.model!r}"

    def _explain(self, error: Exception) -> SelfsteerError:
        """Return our error for one of the client's."""
        import openai

        if isinstance(error, openai.APITimeoutError):
            return self._failed(f"the server did not answer within {self.timeout:g} s")
        if isinstance(error, openai.APIConnectionError):
            return self._failed(f"can't reach the server: {self._said(str(error.__cause__ or error))}")
        status = error.status_code if isinstance(error, openai.APIStatusError) else 0
        said = self._said(getattr(error, "body", None) or str(error))
        if status in (408, 409, 429) or status >= 500:
            return self._failed(f"the server answers with status {status}: {said}")
        return self._refused(status, said)

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

    def _no_logprobs(self) -> ModelError:
        return ModelError("the server gives no log-probs", where=self._where, do=_TEXT_MODE)

    def _said(self, body: object) -> str:
        """Return what a body says, in one short line."""
        if isinstance(body, dict):
            body = next((body[name] for name in ("message", "error", "detail") if body.get(name)), body)
        text = self._without_key(" ".join(str(body).split()))
        return text if len(text) <= _SAID else f"{text[:_SAID]}..."


def _read_json(body: bytes) -> Any:
    """Return what a body says, None where it is no JSON."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def _first_choice(answer: Any) -> dict[str, Any] | None:
    """Return the first choice of an answer that has one, with a message of text (or of nothing)."""
    try:
        choice: dict[str, Any] = answer["choices"][0]
        content = choice["message"].get("content")
    except (LookupError, TypeError, AttributeError):
        return None
    return choice if content is None or isinstance(content, str) else None


def _of_label(label: str, top: Iterable[tuple[str, float]]) -> float | None:
    """Return log of the summed probabilities of a label's forms."""
    found = [logprob for token, logprob in top if token.lstrip(_BLANKS) == label and logprob > _IMPOSSIBLE]
    if not found:
        return None
    highest = max(found)
    return highest + math.log(math.fsum(math.exp(logprob - highest) for logprob in found))


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


def _client(address: str, key: str, timeout: float, max_retries: int) -> Any:
    try:
        import openai
    except ImportError as error:
        do = "pip install 'openai>=3'"
        raise ConfigError("the endpoint backend needs the openai package, which is not installed", do=do) from error
    # A server that does not even take the connection needs no long wait.
    patience = openai.Timeout(timeout, connect=min(timeout, 10.0))
    return openai.OpenAI(base_url=address, api_key=key, timeout=patience, max_retries=max_retries)
