"""Does an answer still address its query? A word test that needs no judge: coarse, the same before and after."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    (
        "what which when where whom whose about with without from into that this these those there their they them "
        "then than have having does doing would could should will your yours please give make write tell explain "
        "describe list some such very just also only most more many much other each every between while because "
        "like need want help using used ways best good following example answer question"
    ).split()
)
_STEM = 5  # letters: "shorten" and "shortest" are one word, in a test without a stemmer
LOOP = 0.5
"""Share of repeated 4-grams above which an answer is a loop."""


def repetition(text: str) -> float:
    """Return the share of word 4-grams that repeat an earlier one: 0 for plain prose, near 1 for a loop."""
    words = _WORD.findall(text.lower())
    grams = list(zip(*(words[i:] for i in range(4)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def answers(query: str, response: str, *, loop: float = LOOP) -> bool:
    """Return whether a response is not empty, doesn't loop, and shares a content word with its query.

    Content words have four letters or more, are not on a short list of common ones, and are compared by their first
    five letters. A query without content words gives nothing to test, so any response that doesn't loop passes. The
    test catches collapse and word salad, not wrong answers.
    """
    if not response.strip() or repetition(response) > loop:
        return False
    wanted = _content(query)
    return not wanted or bool(wanted & _content(response))


def _content(text: str) -> set[str]:
    return {word[:_STEM] for word in _WORD.findall(text.lower()) if len(word) >= 4 and word not in _COMMON}
