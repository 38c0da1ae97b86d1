"""Reading the JSON that a model was asked for out of what it wrote."""

from __future__ import annotations

import json
import re
from typing import Literal

JsonOutcome = Literal["ok", "repaired", "failed"]

_FENCED = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL | re.IGNORECASE)


def read_json_answer(text: str) -> tuple[object | None, JsonOutcome]:
    """Return the JSON list or object in a model's answer, and how it was found.

    Args:
        text: The answer, without a reasoning model's thoughts.

    Returns:
        The list or object with "ok" where the answer is JSON, alone or in a code fence; with "repaired" where something
        had to be passed over or mended (words around it, quotes, commas, a missing end); None with "failed" where there
        is no list and no object in it. A lone word or number is no answer.
    """
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    try:
        found, outcome = json.loads(fenced[1] if fenced else text), "ok"
    except (ValueError, RecursionError):
        found, outcome = _repaired(text), "repaired"
    return (found, outcome) if found and isinstance(found, list | dict) else (None, "failed")  # type: ignore[return-value]


def _repaired(text: str) -> object:
    from json_repair import loads

    try:
        return loads(text, skip_json_loads=True)
    except (ValueError, RecursionError):  # nested too deep
        return None
