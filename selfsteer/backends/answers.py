"""Reading what a chat-completions server answers. Servers differ, so nothing is taken for granted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from selfsteer.backends.base import Completion
from selfsteer.backends.budget import Usage, usage_of

_ENDED = ("stop", "eos_token")
_IMPOSSIBLE = -9999.0
"""What servers write for a token that they give no probability."""
_BLANKS = " \t\r\n\u2581\u0120"
"""Leading blanks of a token; some servers give SentencePiece's and byte-level BPE's own signs for a space."""
_THOUGHTS = ("reasoning_content", "reasoning")
"""Where servers put what a model thought, the older name first."""


@dataclass(frozen=True)
class Answer:
    """What a server answered with status 200.

    Attributes:
        body: As it came.
        choice: The first choice, if it has a message of text (or of nothing).
        error: What went wrong all the same, None where nothing did.
        usage: What the answer used up, None where the server does not say.
        cut_off: The body breaks off in the middle.
    """

    body: bytes
    choice: dict[str, Any] | None
    error: Any
    usage: Usage | None
    cut_off: bool


def read_answer(body: bytes) -> Answer:
    """Return what stands in an answer's body, whatever that is."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return Answer(body, None, None, None, cut_off=b'"choices"' in body)
    choice = _first_choice(said)
    whole = said if isinstance(said, dict) else {}
    error = whole.get("error") if choice is None else choice.get("error")
    if choice is not None and choice.get("finish_reason") == "error":
        error = error or "the model failed"
    return Answer(body, choice, error, usage_of(whole.get("usage")), cut_off=False)


def _first_choice(said: Any) -> dict[str, Any] | None:
    try:
        choice: dict[str, Any] = said["choices"][0]
        content = choice["message"].get("content")
    except (LookupError, TypeError, AttributeError):
        return None
    return choice if content is None or isinstance(content, str) else None


def completion_of(choice: dict[str, Any]) -> Completion:
    """Return the completion in a choice. Whatever the server does not call a natural end counts as cut off."""
    message = choice["message"]
    thoughts = (message.get(name) for name in _THOUGHTS)
    thinking = next((one for one in thoughts if one and isinstance(one, str)), "")
    ended = choice.get("finish_reason") in _ENDED
    text = _whole(message.get("content") or "")
    return Completion(text, "stop" if ended else "length", thinking=_whole(thinking))


def top_logprobs(choice: dict[str, Any]) -> list[tuple[str, float]] | None:
    """Return the likeliest first tokens with their log-probs (nats), none where the model ended at once.

    None stands for a server that gives no log-probs.
    """
    try:
        first = choice["logprobs"]["content"][:1]
        top = [(str(entry["token"]), float(entry["logprob"])) for at in first for entry in at["top_logprobs"]]
    except (LookupError, TypeError, ValueError):
        return None
    return top if top or not first else None


def label_logprob(label: str, top: Iterable[tuple[str, float]]) -> float | None:
    """Return log of the summed probabilities of a label's forms, None where it has none."""
    found = [logprob for token, logprob in top if token.lstrip(_BLANKS) == label and logprob > _IMPOSSIBLE]
    if not found:
        return None
    highest = max(found)
    return highest + math.log(math.fsum(math.exp(logprob - highest) for logprob in found))


def _whole(text: str) -> str:
    """Return a text without half a character: at the end of what was cut, it could not be written to any file."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
