"""Reading the answers of chat-completions servers. Servers differ, so nothing is taken for granted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from selfsteer.backends.base import Completion
from selfsteer.backends.budget import Usage, usage_of
from selfsteer.files import parse_json

_ENDED = ("stop", "eos_token", "end_turn", "stop_sequence")
_BLOCKED = re.compile(
    r"content.?filter|safety|recitation|prohibited|blocklist|blocked|spii|refusal|sensitive|guardrail|moderation|toxic"
    r"|violation",
    re.IGNORECASE,
)
"""Finish reasons of content filters: OpenAI's and Azure's, Gemini's, Anthropic's, Bedrock's, Zhipu's, Cohere's."""
_FEEDBACK = ("prompt_feedback", "promptFeedback")
_IMPOSSIBLE = -9999.0
"""Written by servers for a token without a probability."""
_BLANKS = " \t\r\n\u2581\u0120"
"""Leading blanks of a token; some servers give SentencePiece's and byte-level BPE's own signs for a space."""
_THOUGHTS = ("reasoning_content", "reasoning")
"""Keys of a model's thoughts, the older name first."""


@dataclass(frozen=True)
class Answer:
    """An answer of a server; what it does not say is None.

    Attributes:
        choice: The first choice, if it has a message of text (or of nothing).
        error: The error it reports; some servers do so with status 200.
        blocked: The message of a content filter in place of an answer, "" where there was none.
        cut_off: The body breaks off in the middle.
        status: Of an answer with an error.
        pause: Seconds that the server asks to wait.
    """

    body: bytes
    choice: dict[str, Any] | None = None
    error: Any = None
    blocked: str = ""
    usage: Usage | None = None
    cut_off: bool = False
    status: int | None = None
    pause: float | None = None


def read_answer(body: bytes) -> Answer:
    """Return the content of an answer's body, whatever its form."""
    try:
        found = parse_json(body)
    except ValueError:
        return Answer(body, cut_off=b'"choices"' in body)
    whole = found if isinstance(found, dict) else {}
    choice: dict[str, Any] | None
    try:
        choice = whole["choices"][0]
        if not isinstance(choice["message"].get("content"), str | None):
            choice = None
    except (LookupError, TypeError, AttributeError):
        choice = None
    error = whole.get("error") if choice is None else choice.get("error")
    if choice is not None and choice.get("finish_reason") == "error":
        error = error or "the model failed"
    code = str(error.get("code")) if isinstance(error, dict) else ""  # some servers put the status there, and send 200
    status = int(code) if re.fullmatch("[45][0-9]{2}", code) else None
    return Answer(body, choice, error, _blocked(whole), usage_of(whole.get("usage")), status=status)


def _blocked(body: dict[str, Any]) -> str:
    """Return the message of a content filter, "" where there is none.

    It leaves out the choices, the message or the text, names itself as the reason for the end, or gives a refusal. Half
    an answer that it ended is blocked as well: as a cut-off response it could be trained on.
    """
    feedback: dict[str, Any] = next((body[name] for name in _FEEDBACK if isinstance(body.get(name), dict)), {})
    if reason := feedback.get("block_reason") or feedback.get("blockReason"):
        return f"the prompt is blocked ({reason})"
    choices = body.get("choices")
    if choices == []:
        return "there is no choice in the answer"
    choice = choices[0] if isinstance(choices, list) and isinstance(choices[0], dict) else {}
    finish, message = choice.get("finish_reason"), choice.get("message", {})
    if isinstance(finish, str) and _BLOCKED.search(finish):
        return f"finish_reason {finish}"
    if message is None:
        return "there is no message in the answer"
    refusal = message.get("refusal") if isinstance(message, dict) and not message.get("content") else None
    return f"refusal: {refusal}" if refusal else ""


def completion_of(choice: dict[str, Any]) -> Completion:
    """Return the completion in a choice. Any end that the server does not call a natural one counts as cut off."""
    message = choice["message"]
    thoughts = (message.get(name) for name in _THOUGHTS)
    thinking = next((one for one in thoughts if one and isinstance(one, str)), "")
    ended = str(choice.get("finish_reason")).lower() in _ENDED
    text = _whole(message.get("content") or "")
    return Completion(text, "stop" if ended else "length", thinking=_whole(thinking))


def top_logprobs(choice: dict[str, Any]) -> list[tuple[str, float]] | None:
    """Return the likeliest first tokens with their log-probs (nats), none where the model ended at once.

    None: the server gives no log-probs.
    """
    try:
        first = choice["logprobs"]["content"][:1]
        top = [(str(entry["token"]), float(entry["logprob"])) for at in first for entry in at["top_logprobs"]]
    except (LookupError, TypeError, ValueError, OverflowError):
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
    """Return a text without half a character: at the end of a text that was cut, it could not be written to a file."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
