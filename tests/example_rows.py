"""One example of each row that travels between stages."""

from __future__ import annotations

from typing import Any

from selfsteer.records import PROMPTS, ROLES, Contrast, Response, SteeredQuery
from tests.chat_templates import user

QUERY = "Why is the sky blue?"
BRIEF, LONG = "Answer in one sentence.", "Answer at great length."


def principled(id: str = "q1", **changes: Any) -> SteeredQuery:
    values: dict[str, Any] = {
        "id": id,
        "prompt": user(QUERY),
        "split": "train",
        "aspects": ["Concision"],
        "choice": "all",
        "positive_principle": BRIEF,
        "negative_principle": LONG,
        "positive_prompt": user(QUERY, BRIEF),
        "negative_prompt": user(QUERY, LONG),
    }
    return SteeredQuery(**(values | changes))


def responses(id: str = "q1", **changes: dict[str, Any]) -> dict[str, Response]:
    """Three responses by role; ``changes`` are fields by role."""
    texts = {"positive": "It scatters.", "negative": "It is a long story ...", "original": "Blue light scatters."}
    return {
        role: Response(**({"id": id, "role": role, "text": texts[role], "finish": "stop"} | changes.get(role, {})))
        for role in ROLES
    }


def contrast(id: str = "q1", **changes: Any) -> Contrast:
    values: dict[str, Any] = {
        "id": id,
        "prompt": user(QUERY),
        "split": "train",
        "aspects": ["Concision"],
        "positive_principle": BRIEF,
        "negative_principle": LONG,
        "positive_prompt": user(QUERY, BRIEF),
        "negative_prompt": user(QUERY, LONG),
    }
    for role, response in responses(id).items():
        values |= {f"{role}_response": response.text, f"{role}_finish": response.finish}
    return Contrast(**(values | changes))


def scores(positive: tuple[float, float, float], negative: tuple[float, float, float]) -> dict[str, dict[str, float]]:
    """Mean log-probs of y+ and y- under (x, x+, x-), the order of PROMPTS; yo gets -1 everywhere."""
    cells = {"positive": positive, "negative": negative, "original": (-1.0, -1.0, -1.0)}
    return {f"{role}_response": dict(zip(PROMPTS, cells[role], strict=True)) for role in ROLES}
