"""Steered prompts (x+, x-): where a principle goes in a chat prompt."""

from __future__ import annotations

from collections.abc import Sequence

from selfsteer.chat import SystemRole
from selfsteer.errors import DataError
from selfsteer.records import Message


def steer(prompt: Sequence[Message], system_text: str, system_role: SystemRole) -> list[Message]:
    """Return a copy of a prompt that carries a steering text.

    A system message of the user's own comes first and the text follows it after a blank line; a prompt without one gets
    the text as its system message, which also replaces a default that the template would put there. With "folded" the
    system message then goes in front of the first user turn.

    Raises:
        DataError: "folded", and the prompt has no user turn.
    """
    messages = [dict(message) for message in prompt]
    own = next((message for message in messages if message["role"] == "system"), None)
    if own is None:
        messages.insert(0, {"role": "system", "content": system_text})
    else:
        own["content"] = _paragraphs(own["content"], system_text)
    return fold_system(messages, system_role)


def fold_system(prompt: Sequence[Message], system_role: SystemRole = "folded") -> list[Message]:
    """Return a prompt whose system messages are in front of the first user turn, each with a blank line after it.

    With the system role "native" the prompt is returned as it is.

    Raises:
        DataError: There is a system message and no user turn to take it.
    """
    if system_role == "native":
        return list(prompt)
    texts = [message["content"] for message in prompt if message["role"] == "system"]
    messages = [dict(message) for message in prompt if message["role"] != "system"]
    first = next((message for message in messages if message["role"] == "user"), None)
    if first is not None:
        first["content"] = _paragraphs(*texts, first["content"])
    elif texts:
        raise DataError(
            "the prompt has no user turn to put its system message into", do="start the prompt with a user turn"
        )
    return messages


def _paragraphs(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text.strip())
