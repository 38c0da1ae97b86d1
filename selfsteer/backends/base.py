"""The interface of backends: prompts in, completions with token ids and finish reason out, in the same order."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal, Protocol

from selfsteer.backends.registry import BACKENDS
from selfsteer.chat import Chat
from selfsteer.errors import SelfsteerError
from selfsteer.records import Finish, Message

Prompt = Sequence[Message]


@dataclass(frozen=True)
class Sampling:
    """How a completion is drawn.

    Attributes:
        max_new_tokens: Where it is cut off.
        temperature: 0 is greedy.
        top_p: Share of the probability that is drawn from.
        json_schema: The form of a completion, for backends that can decode by it: vllm, scripted, and servers that take
            it. The others leave it to the prompt, so the caller must be ready for any text.
        stop: Strings that end a completion before them, see :func:`stop_place`.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    json_schema: Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    ``token_ids`` are the sampled ids, with the end token if and only if ``finish`` is "stop"; None where the backend
    has no tokens. ``text`` is their decoding without special tokens. ``thinking`` is a reasoning part that a server
    returns apart from the answer; elsewhere it is still in ``text``.

    A completion that a stop string ended has ``finish`` "stop" and the text before that string; its ids end with the
    token that completed the string.
    """

    text: str
    finish: Finish
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    thinking: str = ""


@dataclass(frozen=True)
class Failure:
    """A request that got no completion.

    Attributes:
        error: Why.
        refused: The request itself is at fault, so repeating it is in vain.
        ends: No further request makes sense for now: the cap is reached, the key is invalid, the server is gone.
        blocked: What the server refuses of this prompt, "" where it is something else; others may well be answered.
    """

    error: SelfsteerError
    refused: bool = False
    ends: bool = False
    blocked: Literal["", "content", "length"] = ""


Outcome = Completion | Failure


def stop_place(text: str, stop: Sequence[str]) -> int | None:
    """Return where a text is cut: at the stop string that is complete first; None where there is none.

    So the place depends only on the text up to there: a text that was generated further is cut at the same place.
    """
    found = [(place + len(one), place) for one in stop if (place := text.find(one)) >= 0]
    return min(found)[1] if found else None


def cut_at_stop(completion: Completion, stop: Sequence[str]) -> Completion:
    """Return a completion without tokens, cut at the first stop string."""
    place = stop_place(completion.text, stop)
    return completion if place is None else replace(completion, text=completion.text[:place], finish="stop")


def cut_tokens_at_stop(completion: Completion, stop: Sequence[str], decode: Callable[[list[int]], str]) -> Completion:
    """Return a completion cut at the first stop string, its ids after the token that completes the string."""
    cut = cut_at_stop(completion, stop)
    ids = completion.token_ids
    if cut is completion or ids is None:
        return cut
    whole = bisect.bisect_left(
        range(len(ids) + 1), True, key=lambda count: stop_place(decode(ids[:count]), stop) is not None
    )
    return replace(cut, token_ids=ids[:whole])


class Backend(Protocol):
    """A source of completions; its name is stored in the provenance."""

    name: str

    @property
    def chat(self) -> Chat | None:
        """The template that renders prompts; None where the backend has no tokens."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, shared_prefix: Sequence[int] = ()
    ) -> Sequence[Outcome]:
        """Return one outcome a prompt, in order. The same prompts, sampling and seed give the same completions.

        A local backend raises an error where it fails; one that sends requests returns a :class:`Failure` for each
        failed one, so that no answer of a batch is lost. ``shared_prefix`` are leading token ids that all prompts have
        in common (see :func:`shared_prefix`); a backend may compute them once.
        """
        ...

    def length(self, prompt: Prompt) -> int:
        """Return the length of a prompt, in tokens (or the backend's nearest measure), for sorting and for limits."""
        ...

    @property
    def context(self) -> int | None:
        """Prompt + response tokens that fit, None where there is no limit."""
        ...


def completed(outcomes: Sequence[Outcome]) -> list[Completion]:
    """Return the completions of a batch that is useless in part; raises the error of the first failure."""
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise outcome.error
    return [outcome for outcome in outcomes if isinstance(outcome, Completion)]


def may_think(backend: str, chat: Chat | None) -> bool:
    """Return whether a model may think before it answers: its template has tags for thoughts, or a server hides it."""
    if chat is not None:
        return chat.thinking is not None
    # Nothing is known of a model behind a server, so it gets room for thoughts. A backend object of a caller's own may
    # have a name that is not registered.
    return backend in BACKENDS and BACKENDS[backend].remote


def shared_prefix(chat: Chat | None, one: Prompt, other: Prompt) -> list[int]:
    """Return the token ids that two prompts have in common at their start."""
    pairs = zip(chat.encode(one), chat.encode(other), strict=False) if chat else ()
    return [ours for ours, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
