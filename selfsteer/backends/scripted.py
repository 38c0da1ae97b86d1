"""A deterministic backend without a model: for tests, for dry runs of a recipe and for machines without torch.

It answers like a caricature of a chat model: the longer and more elaborate, the more the principle asks for it, and
with JSON of the same form where an example of the prompt is JSON. For a request of new queries (`selfsteer augment`) it
makes some up, and now and then does what models do: talks first, forgets the form, refuses. Its answers depend on the
prompt and the seed alone.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from selfsteer.backends.base import Completion, Prompt, Sampling, cut_at_stop
from selfsteer.backends.source import BackendSource
from selfsteer.records import Message
from selfsteer.seeding import draw

_WORDS = (
    "water light number river teacher question reason garden market letter engine music window history "
    "method answer moment example paper winter morning table language signal"
).split()
_MANNERS = {"good": "Give a short answer about the", "bad": "Give a long and rambling answer about the"}
_LENGTHS = (("concise", 1), ("short", 1), ("direct", 1), ("verbose", 6), ("long", 6), ("rambl", 6))
_VERBS = "Explain Describe Compare Summarize Translate Improve Plan Draft".split()
_PEOPLE = "a child, a nurse, a lawyer, a pilot, my teacher, an old friend, two strangers, a gardener".split(", ")
_FORMS = "in one sentence, as a table, as a poem, step by step, without numbers, in a short letter, as a list".split(
    ", "
)
_LIST = re.compile(r"numbered list from 1 to (\d+)")
_REFUSAL = "I'm sorry, but I can't help with that request."
_SHARE_ODD = 0.1


def open_backend(source: BackendSource) -> ScriptedBackend:
    """Return the backend; it reads no settings."""
    return ScriptedBackend()


class ScriptedBackend:
    """Writes sentences from a small vocabulary; their number follows words such as "short" in the system message.

    With a JSON schema it writes JSON of that form: a "good" text asks for something short, a "bad" one for something
    long.
    """

    name = "scripted"
    chat = None
    context = None

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, shared_prefix: Sequence[int] = ()
    ) -> list[Completion]:
        """Return one completion a prompt; ``max_new_tokens`` counts words."""
        return [cut_at_stop(self._complete(prompt, sampling, seed), sampling.stop) for prompt in prompts]

    def length(self, prompt: Prompt) -> int:
        """Return the number of words of the prompt."""
        return sum(len(message["content"].split()) for message in prompt)

    def _complete(self, prompt: Prompt, sampling: Sampling, seed: int) -> Completion:
        key = repr((seed, [(message["role"], message["content"]) for message in prompt]))
        source = random.Random(int(draw(key)[:16], 16))
        if sampling.json_schema is not None:
            return Completion(json.dumps(_value(sampling.json_schema, "", source)), "stop")
        text = _queries(prompt[-1]["content"], source) or _like_example(prompt, source)
        if not text:
            system = " ".join(message["content"] for message in prompt[:-1]).lower()
            count = next((count for word, count in _LENGTHS if word in system), 3) + source.randint(0, 2)
            sentences = (" ".join(source.choices(_WORDS, k=source.randint(4, 9))) for _ in range(count))
            text = " ".join(f"{sentence.capitalize()}." for sentence in sentences)
        # Words with the white space in front of them, so that a list stays a list.
        words = re.findall(r"\s*\S+", text)
        ended = len(words) <= sampling.max_new_tokens
        return Completion("".join(words[: sampling.max_new_tokens]), "stop" if ended else "length")


def _value(schema: Mapping[str, Any], name: str, source: random.Random) -> Any:
    """Return a value of a schema; of a list of objects, one for each value that a key of theirs is bound to."""
    if schema["type"] == "object":
        return {key: _value(inner, key, source) for key, inner in schema["properties"].items()}
    if schema["type"] == "array":
        bound = [(key, one) for key, inner in schema["items"]["properties"].items() for one in inner.get("enum", ())]
        return [_value(schema["items"], name, source) | {key: one} for key, one in bound]
    return f"{_MANNERS.get(name, 'Speak of the')} {source.choice(_WORDS)}."


def _like_example(prompt: Sequence[Message], source: random.Random) -> str:
    """Return JSON of the form of the last example, with other texts; "" where no example is JSON."""
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


def _queries(asked: str, source: random.Random) -> str | None:
    """Return an answer with new queries, None where none are requested."""
    listed = _LIST.search(asked)
    if not listed and "<request>" not in asked:
        return None
    odd = source.choice(["refusal", "talk", "form"]) if source.random() < _SHARE_ODD else ""
    if odd == "refusal":
        return _REFUSAL
    lead = "Sure, here is what you asked for:\n" * (odd == "talk")
    if listed:
        mark = ")" if odd == "form" else "."
        return lead + "\n".join(f"{i}{mark} {_query(source)}" for i in range(1, int(listed[1]) + 1))
    return _query(source) if odd == "form" else f"{lead}<request>{_query(source)}</request>"


def _query(source: random.Random) -> str:
    first, second, third = source.sample(_WORDS, 3)
    verb, person, form = (source.choice(choices) for choices in (_VERBS, _PEOPLE, _FORMS))
    return f"{verb} the {first} {second} of the {third} to {person}, {form}."
