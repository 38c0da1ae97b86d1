"""Pairs for a person to judge, and a reader who always finds the longer response better."""

from __future__ import annotations

from typing import Any

from selfsteer.judges import Pair
from selfsteer.judges.human import Presentation
from tests.chat_templates import user


def pair(number: int, **changes: Any) -> Pair:
    """Return a pair whose first response is the longer one."""
    values: dict[str, Any] = {
        "id": f"secret-id-{number}",
        "prompt": user(f"Question {number}?"),
        "first": f"A longer answer to question {number}.",
        "second": f"Short {number}.",
        "label": -1,
        "subset": "secret-subset",
    }
    return Pair(**(values | changes))


def pairs(count: int) -> list[Pair]:
    return [pair(number) for number in range(count)]


def longer(shown: Presentation) -> str:
    """Return the key of a reader who likes length."""
    first, second = map(len, shown.responses)
    return "=" if first == second else "1" if first > second else "2"
