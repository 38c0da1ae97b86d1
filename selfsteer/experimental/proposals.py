"""Aspects that a model proposes for a few queries: the prompt, and the rules for its answer.

The authors of SSO announced a principle generator (PAPER 4) and did not release one; this one is our own.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from selfsteer.chat import SystemRole
from selfsteer.experimental.prompt_templates import message, render
from selfsteer.principles.choose import shortened
from selfsteer.principles.json_answers import JsonOutcome, read_json_answer
from selfsteer.principles.principle_set import Aspect, PrincipleSet
from selfsteer.principles.steer import fold_system
from selfsteer.records import Message, Query

TEMPLATE = "invent_aspects"
TOKENS = 200
"""Token limit of an answer for each requested aspect; most take some 120."""

_EXAMPLES = 2
_HEAD, _TAIL = 400, 200
"""Characters of a long query that the prompt shows: its start and its end."""
_DEPTH = 4
"""Depth of nested lists and objects to which proposals are searched."""
_TEXTS = ("name", "positive", "negative", "meaning", "positive_principle", "negative_principle")
_MOST_WORDS = {"name": 3, "positive": 3, "negative": 3}
_LENGTHS = {"name": 40, "positive": 40, "negative": 40, "meaning": 200, "positive_principle": 400}
_LENGTHS["negative_principle"] = _LENGTHS["positive_principle"]
"""Largest numbers of characters."""
_LEAST_WORDS = {"meaning": 2, "positive_principle": 3, "negative_principle": 3}
_ADJECTIVE = re.compile(r"[^\W\d_]+(?:[ '’-][^\W\d_]+)*")
_THIS = re.compile(
    r"\b(?:this|these|that|the (?:above|given|first|second|third|last)) (?:quer|question|request|prompt|task)"
    r"|\brequests? \d",
    re.IGNORECASE,
)
_RUN = 5
"""A proposal that shares this many words in a row with a query, or with an example, is a copy."""
_WORD = re.compile(r"[^\W_]+(?:['’+#-][^\W_]*)*")
_INSIDE = re.compile(r"\w[A-Z]|[A-Za-z]\d|\d[A-Za-z]")
_SENTENCE = re.compile(r"[.!?:;\n\"“(]+\s*")
_SHOUTED = 0.3
"""If more than this share of a query's words have capitals, capitals do not indicate names."""


@dataclass(frozen=True)
class Proposal:
    """An aspect that passed all rules.

    Attributes:
        queries: Ids of the prompt's queries that it matters for, according to the model; may be empty.
    """

    aspect: Aspect
    prompt: int
    queries: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """A proposal that a rule rejected."""

    name: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """One parsed answer."""

    outcome: JsonOutcome
    proposals: tuple[Proposal, ...]
    refused: tuple[Refused, ...]


def inventor_messages(
    queries: Sequence[str], known: Sequence[str], count: int, system_role: SystemRole = "native"
) -> list[Message]:
    """Return the chat prompt that asks a model for ``count`` aspects of quality that matter for some queries.

    All messages but the last, which alone holds the queries (markup in them is not run), are the same for every prompt.
    Of a long query its first 400 and last 200 characters are shown.
    """
    messages = [message(TEMPLATE, "system", known=list(known), count=count)]
    for number in range(_EXAMPLES):
        messages.append(message(TEMPLATE, "user", "example_user", number=number, count=count))
        messages.append(message(TEMPLATE, "assistant", "example_answer", number=number, count=count))
    shown = [shortened(query, _HEAD, _TAIL) for query in queries]
    messages.append(message(TEMPLATE, "user", requests=shown, count=count))
    return fold_system(messages, system_role)


def read_proposals(text: str, prompt: int, queries: Sequence[Query], *, cut: bool) -> Reading:
    """Return the aspects that an answer proposes, and the rejected ones.

    A proposal is rejected if it lacks a part, is too long, is no aspect by the rules of a principle set, copies an
    example of the prompt, or refers to a query: it says "this question", shares five words in a row with a query, or
    holds a name from one.

    Args:
        cut: The answer was cut off, so the end of its last proposal is missing.
    """
    found, outcome = read_json_answer(text)
    items = list(_items(found))
    proposals: list[Proposal] = []
    refused: list[Refused] = []
    for item in items:
        texts = {key: _tidied(key, item.get(key)) for key in _TEXTS}
        reason = _form_fault(texts) or _set_fault(texts) or _content_fault(texts, queries)
        if cut and outcome == "repaired" and item is items[-1]:
            reason = "its end is cut off"
        if reason:
            refused.append(Refused(texts["name"][: _LENGTHS["name"]], reason))
            continue
        # Models give the numbers of the queries in any form: [1, 3], "1 and 3", "request 1".
        numbers = {int(digits) for digits in re.findall(r"\b\d{1,6}\b", json.dumps(item.get("requests")))}
        ids = tuple(query.id for number, query in enumerate(queries, 1) if number in numbers)
        proposals.append(Proposal(Aspect.model_validate(texts), prompt, ids))
    return Reading(outcome, tuple(proposals), tuple(refused))


def _items(found: object, depth: int = _DEPTH) -> Iterator[dict[str, Any]]:
    """Yield the objects that have keys of an aspect, however they are nested."""
    if isinstance(found, dict) and found.keys() & set(_TEXTS):
        yield found
    elif isinstance(found, list | dict) and depth:
        for value in found.values() if isinstance(found, dict) else found:
            yield from _items(value, depth - 1)


def _tidied(key: str, value: object) -> str:
    """Return a text with single blanks and without emphasis; "" for other types."""
    text = " ".join(value.split()).strip("*_`\"' ") if isinstance(value, str) else ""
    if key in ("positive", "negative"):
        return text.rstrip(".").lower()
    if key == "name":
        return text[:1].upper() + text[1:].rstrip(".:")
    return text.rstrip(".") if key == "meaning" else text


def _form_fault(texts: dict[str, str]) -> str:
    for key, text in texts.items():
        words = len(text.split())
        if not text:
            return f"{key} is missing"
        if not text.isprintable():
            return f"{key} can't be printed"
        if len(text) > _LENGTHS[key] or words > _MOST_WORDS.get(key, words):
            return f"{key} is too long"
        if words < _LEAST_WORDS.get(key, 1):
            return f"{key} is too short"
        if key in ("positive", "negative") and not _ADJECTIVE.fullmatch(text):
            return f"{key} is not an adjective"
    for good, bad in (("positive", "negative"), ("positive_principle", "negative_principle")):
        if _bare(texts[good]) == _bare(texts[bad]):
            return f"{good} and {bad} are the same"
    return ""


def _set_fault(texts: dict[str, str]) -> str:
    """Return the fault that a principle set of this aspect alone reports."""
    try:
        PrincipleSet(name="proposal", version=1, aspects_per_query=1, aspects=[Aspect.model_validate(texts)])
    except ValidationError as error:
        first = error.errors()[0]
        return str(first.get("ctx", {}).get("what", first["msg"]))
    return ""


@functools.cache
def _example_texts() -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
    """Return the texts of the prompt's examples and explanations of the keys, and their runs of words."""
    answers = [read_json_answer(render(TEMPLATE, "example_answer", number=n, count=9))[0] for n in range(_EXAMPLES)]
    texts = re.findall(r"^- \w+: (.*)$", render(TEMPLATE, "system", known=[], count=1), re.MULTILINE)
    texts += [item[key] for answer in answers for item in _items(answer) for key in ("name", *_LEAST_WORDS)]
    return frozenset(map(_bare, texts)), frozenset(run for text in texts for run in _runs(text))


def _content_fault(texts: dict[str, str], queries: Sequence[Query]) -> str:
    own, runs = _example_texts()
    if any(_bare(texts[key]) in own or _runs(texts[key]) & runs for key in ("name", *_LEAST_WORDS)):
        return "it copies an example of the prompt"
    if any(_THIS.search(text) for text in texts.values()):
        return "it refers to one query"
    texts_of_queries = [query.prompt[-1]["content"] for query in queries]
    for text in texts.values():
        if any(_runs(text) & _runs(query) for query in texts_of_queries):
            return "it repeats words of a query"
        if any(_names(text) & _names(query, most=_SHOUTED) for query in texts_of_queries):
            return "it names something in a query"
    return ""


def _bare(text: str) -> str:
    """Return the words of a text, in lower case."""
    return " ".join(_WORD.findall(text.casefold()))


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return {tuple(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1)}


def _names(text: str, *, most: float = 1.0) -> set[str]:
    """Return the words that look like names: capitals or digits inside, or a capital within a sentence.

    If they are a larger share than ``most`` of the words, capitals do not count.
    """
    words = _WORD.findall(text)
    found = {word for word in words if _INSIDE.search(word)}
    for sentence in _SENTENCE.split(text):
        found |= {word for word in _WORD.findall(sentence)[1:] if word.istitle() and len(word) > 1}
    return found if len(found) <= most * len(words) else set()
