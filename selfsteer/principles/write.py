"""Writing the principle pair of a query: a pair for each of its aspects (PAPER 4, v1), or one guideline pair (v2).

The model is told to answer in JSON. Its answer is used as it is, repaired, or replaced by the set's own pair, and that
outcome is stored with the row. v2's code writes the two guidelines in two calls; here both come in one answer, which
costs half the prompts and lets the two be compared.
"""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from selfsteer.chat import SystemRole
from selfsteer.principles.choose import shortened
from selfsteer.principles.json_answers import read_json_answer
from selfsteer.principles.pair import PrinciplePair, pair_for
from selfsteer.principles.principle_set import PrincipleSet, Steering
from selfsteer.principles.prompt_templates import exported, message
from selfsteer.principles.steer import fold_system
from selfsteer.records import Message

Outcome = Literal["ok", "repaired", "fallback", "cut"]

LONGEST = 400
"""Characters that a principle may have. Longer ones are mostly an answer to the query."""

_PAIRS, _GUIDELINE = "write_pairs", "write_guideline"
_DEEPEST = 5
"""Levels of JSON that are searched for principles."""
_CONTROL = re.compile(
    r"<[|｜][^<>]{1,40}>|<[^<>]{1,40}[|｜]>|<[A-Z]+_\d+>|\[/?[A-Z]+(?:_[A-Z]+)*\]|<</?SYS>>"
    r"|(?i:</?(?:s|bos|eos|pad|unk|think|(?:start|end)_of_turn)>)"
)
"""Marks of chat templates. They would stay text, but a text that holds one is a piece of a prompt, or an attack."""

Pair = tuple[str, str]
"""A good and a bad principle."""


@dataclasses.dataclass(frozen=True)
class Written:
    """A pair and what became of the model's answer.

    ``outcome`` is "ok" (JSON of the requested form, and every principle is valid), "repaired" (everything was there, in
    another form), "fallback" (some or all principles are the set's) or "cut" (the same, and the answer was cut off).
    """

    pair: PrinciplePair
    outcome: Outcome


def pair_messages(
    principle_set: PrincipleSet, aspects: Sequence[str], query_text: str, system_role: SystemRole = "native"
) -> list[Message]:
    """Return the chat prompt that asks a model for a principle pair for each of a query's aspects.

    All messages but the last are the same for every query. Long queries are shortened as for choosing aspects, and like
    there the query is data: markup in it is not run.
    """
    named = [(a.name, a.positive, a.negative, a.meaning) for a in map(principle_set.aspect, aspects)]
    messages = [message(_PAIRS, "system")]
    for example in exported(_PAIRS, "examples"):
        written = [dict(zip(("aspect", "good", "bad"), one, strict=True)) for one in example["principles"]]
        messages.append(message(_PAIRS, "user", query=example["query"], aspects=example["aspects"]))
        answer = json.dumps({"principles": written}, ensure_ascii=False)
        messages.append(message(_PAIRS, "assistant", answer=answer))
    messages.append(message(_PAIRS, "user", query=shortened(query_text), aspects=named))
    return fold_system(messages, system_role)


def guideline_messages(query_text: str, system_role: SystemRole = "native") -> list[Message]:
    """Return the chat prompt that asks a model for one good and one bad guideline; as :func:`pair_messages`."""
    messages = [message(_GUIDELINE, "system")]
    for example in exported(_GUIDELINE, "examples"):
        answer = json.dumps({key: example[key] for key in ("good", "bad")}, ensure_ascii=False)
        messages.append(message(_GUIDELINE, "user", query=example["query"]))
        messages.append(message(_GUIDELINE, "assistant", answer=answer))
    messages.append(message(_GUIDELINE, "user", query=shortened(query_text)))
    return fold_system(messages, system_role)


def pairs_schema(principle_set: PrincipleSet) -> dict[str, Any]:
    """Return the JSON schema of an answer to :func:`pair_messages`: the same for all queries of a set."""
    aspect = {"type": "string", "enum": [aspect.name for aspect in principle_set.aspects]}
    return _object(principles={"type": "array", "items": _object(aspect=aspect, good=_TEXT, bad=_TEXT)})


def guideline_schema() -> dict[str, Any]:
    """Return the JSON schema of an answer to :func:`guideline_messages`."""
    return _object(good=_TEXT, bad=_TEXT)


def parse_pairs(text: str, principle_set: PrincipleSet, aspects: Sequence[str], *, cut: bool = False) -> Written:
    """Read a model's answer to :func:`pair_messages`. An aspect without two principles gets the set's own pair.

    A principle is a text with letters in it, of at most :data:`LONGEST` characters, without control text, that says
    something else than its opposite and than those of the aspects before it: what serves two aspects is about neither.
    Its line breaks become blanks.

    Args:
        cut: The answer ran into its length limit, so a text that is still open at its end is no principle.
    """
    value, read = read_json_answer(text, cut=cut)
    entries = list(_entries(value))
    found: dict[str, Pair] = {}
    said: set[str] = set()
    for name in aspects:
        pairs = [pair for aspect, pair in entries if _plain(aspect) == _plain(name)]
        if not pairs and len(aspects) == len(entries) == 1:  # a single pair can only be that of the single aspect
            pairs = [entries[0][1]]
        written = _checked(pairs[0]) if pairs else None
        if written and said.isdisjoint(own := {_plain(text) for text in written}):
            found[name] = written
            said |= own
    fixed = pair_for(principle_set, aspects)
    sets = [(aspect.positive_principle, aspect.negative_principle) for aspect in map(principle_set.aspect, aspects)]
    positive, negative = zip(*(found.get(name, pair) for name, pair in zip(aspects, sets, strict=True)), strict=True)
    pair = dataclasses.replace(fixed, positive_principle="\n".join(positive), negative_principle="\n".join(negative))
    complete = len(found) == len(aspects)
    return Written(pair, _outcome(complete, read == "ok" and _has_form(value, aspects), cut))


def parse_guideline(text: str, steering: Steering, *, cut: bool = False) -> Written | None:
    """Read a model's answer to :func:`guideline_messages`; None where it holds no two guidelines.

    Args:
        steering: How the principle set steers. There are no adjectives to state, as there are no aspects.
    """
    value, read = read_json_answer(text, cut=cut)
    entries = list(_entries(value))
    pair = _checked(entries[0][1]) if entries else None
    if pair is None:
        return None
    as_asked = isinstance(value, dict) and {"good", "bad"} <= value.keys()
    return Written(PrinciplePair([], [], [], *pair, steering), _outcome(True, read == "ok" and as_asked, cut))


_TEXT = {"type": "string"}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _outcome(complete: bool, as_asked: bool, cut: bool) -> Outcome:
    if not complete:
        return "cut" if cut else "fallback"
    return "ok" if as_asked else "repaired"


def _entries(value: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, Pair]]:
    """Yield each good text with the bad one beside it, and the aspect that is named there or by a key above."""
    if isinstance(value, list) and depth < _DEEPEST:
        for item in value:
            yield from _entries(item, name, depth + 1)
    elif isinstance(value, dict) and depth < _DEEPEST:
        own = {_plain(str(key)): item for key, item in value.items()}
        good, bad = own.get("good"), own.get("bad")
        if isinstance(good, str) and isinstance(bad, str):
            yield str(own.get("aspect") or name), (good, bad)
        else:
            for key, item in value.items():
                yield from _entries(item, str(key), depth + 1)


def _has_form(value: object, aspects: Sequence[str]) -> bool:
    items = value.get("principles") if isinstance(value, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return False
    whole = [item["aspect"] for item in items if {"aspect", "good", "bad"} <= item.keys()]
    return len(whole) == len(items) and all(name in whole for name in aspects)


def _checked(pair: Pair) -> Pair | None:
    """Return a pair of principles, one line each, None where one of the two is none."""
    good, bad = (" ".join(text.split()) for text in pair)
    equal = _plain(good) == _plain(bad)
    return None if equal or not (_is_principle(good) and _is_principle(bad)) else (good, bad)


def _is_principle(text: str) -> bool:
    # Cc: control characters; Cs: halves of surrogate pairs, which no file can hold
    kinds = {unicodedata.category(character) for character in text}
    has_letters = any(kind[0] == "L" for kind in kinds)
    return has_letters and len(text) <= LONGEST and not kinds & {"Cc", "Cs"} and not _CONTROL.search(text)


def _plain(text: str) -> str:
    """Return a text's words alone, for comparing."""
    return " ".join(re.findall(r"\w+", text.casefold()))
