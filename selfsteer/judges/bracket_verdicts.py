"""Verdicts in brackets, with which judges end a reply in words: MT-Bench's ratings, Arena-Hard's and MT-Bench's labels.

Each reader returns the verdict, or in a few words that can be counted why there is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

VERSION = "1"
"""Version of the rules below: another rule is another score."""

RATING = re.compile(r"\[\[([0-9]+(?:\.[0-9]*)?)\]\]")
WINNER = re.compile(r"\[\[[ABC]\]\]")
COMPARISON = re.compile(r"\[\[([AB<>=]+)\]\]")
_SINGLE_RATING = re.compile(r"\[([0-9]+(?:\.[0-9]*)?)\]")
_SINGLE_COMPARISON = re.compile(r"\[([AB<>=]+)\]")

NO_RATING, OUT_OF_RANGE, NO_VERDICT = "no rating in the reply", "rating outside 1 to 10", "no verdict in the reply"


@dataclass(frozen=True)
class Comparison:
    """A verdict on two answers.

    Attributes:
        first: What the answer shown first gets: 1 it won, 0.5 a tie, 0 it lost.
        games: As how many games the verdict counts: 3 where one answer is called significantly better.
    """

    first: float
    games: int = 1


_COMPARISONS = {
    **dict.fromkeys(["A>>B", "B<<A"], Comparison(1.0, 3)),
    **dict.fromkeys(["A>B", "B<A"], Comparison(1.0)),
    **dict.fromkeys(["A=B", "B=A"], Comparison(0.5)),
    **dict.fromkeys(["B>A", "A<B"], Comparison(0.0)),
    **dict.fromkeys(["B>>A", "A<<B"], Comparison(0.0, 3)),
}


def read_rating(text: str) -> float | str:
    """Return the rating in a reply, 1 to 10: the first "[[7]]", else the first "[7]" (FastChat 0.2.36).

    A number outside 1 to 10 is no rating, although the pattern finds it, e.g. "[[85]]".
    """
    found = RATING.search(text) or _SINGLE_RATING.search(text)
    if found is None:
        return NO_RATING
    rating = float(found[1])
    return rating if 1 <= rating <= 10 else OUT_OF_RANGE


def read_comparison(text: str) -> Comparison | str:
    """Return the last "[[A>>B]]", "[[A>B]]", "[[A=B]]", "[[B>A]]" or "[[B>>A]]" in a reply, else the last "[A>>B]" ...

    As in arena-hard-auto, lower case counts, and so do labels such as "[[A<B]]". Of other texts in brackets, such as
    "[[A]]", its table knows no score; they are passed over here.
    """
    capitals = text.upper()
    for pattern in (COMPARISON, _SINGLE_COMPARISON):
        if known := [label for label in pattern.findall(capitals) if label in _COMPARISONS]:
            return _COMPARISONS[known[-1]]
    return NO_VERDICT


def read_winner(text: str) -> Comparison | str:
    """Return the verdict in a reply of MT-Bench's pairwise mode: "[[A]]", else "[[B]]", else "[[C]]" for a tie.

    As in FastChat, "[[A]]" wins wherever it is, also where another label is in the reply.
    """
    for label, first in (("[[A]]", 1.0), ("[[B]]", 0.0), ("[[C]]", 0.5)):
        if label in text:
            return Comparison(first)
    return NO_VERDICT
