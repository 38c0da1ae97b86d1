"""The forms of a leaked label: "Helpful response:", "Concise answer -", "**Unhelpful Response:**", "Response:"."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

NOUN = r"(?:response|answer|reply)"
_INTRO = r"(?:(?:here\s+is|here['’]s)\s+)?(?:(?:my|the|an?|your)\s+)?(?:(?:very|more|most)\s+)?"
_SEPARATOR = r"(?:[ \t]*[:：]|[ \t]+[-–—]+(?=\s)|[ \t]*(?=\n\s*\S))"


def adjective_list(adjectives: Sequence[str]) -> str:
    """Return a pattern for one or more of ``adjectives``: "helpful", "helpful and concise", "safe, accurate"."""
    longest_first = sorted({word.strip() for word in adjectives if word.strip()}, key=lambda word: (-len(word), word))
    # (?!) matches nothing: without adjectives there is no label with one.
    one = "(?:" + "|".join(re.escape(word) for word in longest_first) + ")" if longest_first else r"(?!)"
    # Bounded, as it may begin at any word: a model that loops over an adjective would be read again and again.
    gap = r"\s{1,20}"
    return rf"{one}(?:(?:\s{{0,20}},\s{{0,20}}(?:and{gap})?|{gap}and{gap}|\s{{0,20}}[&/]\s{{0,20}}|{gap}){one}){{0,9}}"


@functools.lru_cache(maxsize=4096)
def label_pattern(adjectives: tuple[str, ...]) -> re.Pattern[str]:
    """Return the pattern of one label at the front of a response, with white space before it and its separator after.

    A label is a noun ("answer"), alone or with the aspects' adjectives before it, plain or in bold, brackets or a
    heading, and a separator: a colon, a dash between spaces, or a line break with text to follow. An adjective alone
    ("Inaccurate: ...") may be the very answer to a question: the ``leak`` filter, which knows the query, judges that.
    """
    words = adjective_list(adjectives)
    core = rf"(?:(?:{_INTRO}{words}\s+)?{NOUN}(?:\s+\({words}\))?)"
    bold = rf"(?P<mark>[*_]{{1,3}}){core}[ \t]*(?:[:：]\s*(?P=mark)|(?P=mark){_SEPARATOR})"
    bracketed = rf"\[{core}[ \t]*(?:[:：]\s*\]|\]{_SEPARATOR})"
    return re.compile(rf"\s*(?:#{{1,6}}\s+)?(?:{bold}|{bracketed}|{core}{_SEPARATOR})", re.IGNORECASE)


def labels_end(text: str, adjectives: Sequence[str]) -> int:
    """Return the offset just after the leaked labels at the front of ``text``; 0 where there is none."""
    pattern, end = label_pattern(tuple(adjectives)), 0
    # Models stack labels: "Answer: Concise response: ...".
    while match := pattern.match(text, end):
        end = match.end()
    return end
