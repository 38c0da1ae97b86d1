"""Reading what a chat-completions server answers. Servers differ, so nothing is taken for granted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from selfsteer.backends.base import Completion
from selfsteer.backends.budget import Usage, usage_of

_ENDED = ("stop", "eos_token", "end_turn", "stop_sequence")
_BLOCKED = re.compile(
    r"content.?filter|safety|recitation|prohibited|blocklist|blocked|spii|refusal|sensitive|guardrail|moderation|toxic"
    r"|violation",
    re.IGNORECASE,
)
"""Finish reasons of content filters: OpenAI's and Azure's, Gemini's, Anthropic's, Bedrock's, Zhipu's, Cohere's."""
_FEEDBACK = ("prompt_feedback", "promptFeedback")
_IMPOSSIBLE = -9999.0
"""What servers write for a token that they give no probability."""
_BLANKS = " \t\r\n\u2581\u0120"
"""Leading blanks of a token; some servers give SentencePiece's and byte-level BPE's own signs for a space."""
_THOUGHTS = ("reasoning_content", "reasoning")
"""Where servers put what a model thought, the older name first."""


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Attributes:
        body: As it came.
        choice: The first choice, if it has a message of text (or of nothing).
        error: What went wrong, None where nothing did; some servers tell it with status 200.
        blocked: What a content filter said in place of an answer, "" where there was none.
        usage: What the answer used up, None where the server does not say.
        cut_off: The body breaks off in the middle.
        status: Of an answer with an error; None where it has none.
        pause: Seconds that the server asks to wait, None where it does not say.
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
    """Return what stands in an answer's body, whatever that is."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return Answer(body, cut_off=b'"choices"' in body)
    choice = _first_choice(said)
    whole = said if isinstance(said, dict) else {}
    error = whole.get("error") if choice is None else choice.get("error")
    if choice is not None and choice.get("finish_reason") == "error":
        error = error or "the model failed"
    usage = usage_of(whole.get("usage"))
    return Answer(body, choice, error, _blocked(whole), usage, status=_status(error))


def _status(error: Any) -> int | None:
    """Return the status that some servers put into an error which they send with status 200."""
    code = str(error.get("code")) if isinstance(error, dict) else ""
    return int(code) if re.fullmatch("[45][0-9]{2}", code) else None


def _first_choice(said: Any) -> dict[str, Any] | None:
    try:
        choice: dict[str, Any] = said["choices"][0]
        content = choice["message"].get("content")
    except (LookupError, TypeError, AttributeError):
        return None
    return choice if content is None or isinstance(content, str) else None


def _blocked(said: dict[str, Any]) -> str:
    """Return what a content filter says, "" where there is none.

    It leaves out the choices, the message or the text, names itself as the reason for the end, or gives a refusal.
    """
    feedback: dict[str, Any] = next((said[name] for name in _FEEDBACK if isinstance(said.get(name), dict)), {})
    if reason := feedback.get("block_reason") or feedback.get("blockReason"):
        return f"the prompt is blocked ({reason})"
    choices = said.get("choices")
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
    """Return the completion in a choice. Whatever the server does not call a natural end counts as cut off."""
    message = choice["message"]
    thoughts = (message.get(name) for name in _THOUGHTS)
    thinking = next((one for one in thoughts if one and isinstance(one, str)), "")
    ended = str(choice.get("finish_reason")).lower() in _ENDED
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
