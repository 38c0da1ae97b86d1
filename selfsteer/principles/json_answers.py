"""Reading JSON out of a model's answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Literal

from selfsteer.files import parse_json

JsonOutcome = Literal["ok", "repaired", "failed"]

_LONGEST_REPAIR = 20_000
"""Characters of an answer that is repaired: the time of it grows with their square. A longer one counts as failed."""
_SEPARATORS = re.compile(r"[, \t\r\n]++")


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
    first, _, fenced = text.removesuffix("```").partition("\n")
    closed = text.endswith("```") and fenced.rstrip(" \t").endswith("\n")
    in_fence = closed and first.strip().lower() in ("```", "```json")
    try:
        found, outcome = parse_json(fenced if in_fence else text), "ok"
    except ValueError:
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
        blank = _SEPARATORS.match(text, at)
        at = blank.end() if blank else at


def _repaired(text: str, cut: bool) -> object:
    from json_repair import loads

    if len(text) > _LONGEST_REPAIR:
        return None
    if cut and len(re.findall(r'(?<!\\)"', text)) % 2:
        text = text[: text.rindex('"')]
    try:
        return loads(text, skip_json_loads=True)
    except ValueError:  # nested too deep
        return None
