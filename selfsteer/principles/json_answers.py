"""Reading JSON out of a model's answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Literal

JsonOutcome = Literal["ok", "repaired", "failed"]

_FENCED = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL | re.IGNORECASE)


def read_json_answer(text: str, *, cut: bool = False) -> tuple[object | None, JsonOutcome]:
    """Return the JSON list or object in a model's answer, without its thoughts, and how it was found.

    Args:
        cut: It ran into its length limit, so a text that is still open at its end is dropped.

    Returns:
        The list or object with "ok" where the answer is JSON, alone or in a code fence; with "repaired" where something
        had to be skipped or fixed (words around it, quotes, commas, a missing end); None with "failed" where there is
        no list and no object in it. A lone word or number is no answer.
    """
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    try:
        found, outcome = json.loads(fenced[1] if fenced else text), "ok"
    except (ValueError, RecursionError):
        start = min((at for at in map(text.find, "{[") if at >= 0), default=len(text))
        values = list(_sound(text, start))
        found = _repaired(text[start:], cut) if not values else values[0] if len(values) == 1 else values
        outcome = "repaired"
    return (found, outcome) if found and isinstance(found, list | dict) else (None, "failed")  # type: ignore[return-value]


def _sound(text: str, at: int) -> Iterator[object]:
    """Yield the lists and objects from ``at`` on that have nothing but blanks and commas between them."""
    while text[at : at + 1] in ("{", "["):
        try:
            value, at = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):
            return
        yield value
        at = len(text) - len(text[at:].lstrip(", \t\r\n"))


def _repaired(text: str, cut: bool) -> object:
    from json_repair import loads

    if cut and len(re.findall(r'(?<!\\)"', text)) % 2:
        text = text[: text.rindex('"')]
    try:
        return loads(text, skip_json_loads=True)
    except (ValueError, RecursionError):  # nested too deep
        return None
