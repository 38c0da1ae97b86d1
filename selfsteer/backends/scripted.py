"""A deterministic backend without a model: for tests, for dry runs of a recipe and for machines without torch.

It answers like a caricature of a chat model: the longer and more elaborate, the more the principle asks for it, and
with JSON of the same form where an example of the prompt is JSON. What it writes depends on the prompt and the seed
alone.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from typing import Any

from selfsteer.backends.base import Completion, Prompt, Sampling
from selfsteer.records import Message

_WORDS = (
    "water light number river teacher question reason garden market letter engine music window history "
    "method answer moment example paper winter morning table language signal"
).split()
_LENGTHS = (("concise", 1), ("short", 1), ("direct", 1), ("verbose", 6), ("long", 6), ("rambl", 6))


class ScriptedBackend:
    """Writes sentences out of a small vocabulary; their number follows words such as "short" in the system message."""

    name = "scripted"
    chat = None
    context = None

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, shared_prefix: Sequence[int] = ()
    ) -> list[Completion]:
        """Return one completion a prompt; ``max_new_tokens`` counts words."""
        return [self._complete(prompt, sampling, seed) for prompt in prompts]

    def length(self, prompt: Prompt) -> int:
        """Return the number of words of the prompt."""
        return sum(len(message["content"].split()) for message in prompt)

    def _complete(self, prompt: Prompt, sampling: Sampling, seed: int) -> Completion:
        source = random.Random(_digest(prompt, seed))
        words = (_like_example(prompt, source) or _prose(prompt, source)).split()
        ended = len(words) <= sampling.max_new_tokens
        return Completion(" ".join(words[: sampling.max_new_tokens]), "stop" if ended else "length")


def _prose(prompt: Sequence[Message], source: random.Random) -> str:
    return " ".join(_sentence(source) for _ in range(_wanted(prompt) + source.randint(0, 2)))


def _like_example(prompt: Sequence[Message], source: random.Random) -> str:
    """Return JSON of the form of the last example, the texts in it made anew; "" where no example is JSON."""
    answers = [message["content"] for message in prompt if message["role"] == "assistant"]
    try:
        example = json.loads(answers[-1])
    except (LookupError, ValueError):
        return ""
    return json.dumps(_like(example, source)) if isinstance(example, list | dict) else ""


def _like(value: Any, source: random.Random) -> Any:
    """Return a value of the same form: texts get as many words of the vocabulary, everything else stays."""
    if isinstance(value, dict):
        return {key: _like(item, source) for key, item in value.items()}
    if isinstance(value, list):
        return [_like(item, source) for item in value]
    return " ".join(source.choices(_WORDS, k=len(value.split()))) if isinstance(value, str) else value


def _wanted(prompt: Sequence[Message]) -> int:
    system = " ".join(message["content"] for message in prompt[:-1]).lower()
    return next((count for word, count in _LENGTHS if word in system), 3)


def _sentence(source: random.Random) -> str:
    words = source.choices(_WORDS, k=source.randint(4, 9))
    return " ".join(words).capitalize() + "."


def _digest(prompt: Sequence[Message], seed: int) -> int:
    text = repr((seed, [(message["role"], message["content"]) for message in prompt]))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
