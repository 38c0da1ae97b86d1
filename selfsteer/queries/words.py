"""A text as its words, so that spelling, layout and punctuation don't hide that two texts are the same."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Literal

# Scripts that are written without blanks: each of their characters counts as a word.
_UNSPACED = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")


_PIECE = re.compile(r".{1,1000}(?:\s|\Z)|.{1,1000}", re.DOTALL)


def normalize(form: Literal["NFC", "NFKC"], text: str) -> str:
    """Return a text in a Unicode normal form, as :func:`unicodedata.normalize` but in linear time.

    Python sorts a run of combining marks in the square of its length. Here a text is normalised in pieces that end at
    white space; a run of more than 1,000 characters without any is cut.
    """
    if len(text) <= 1000 or text.isascii():
        return unicodedata.normalize(form, text)
    return "".join(unicodedata.normalize(form, piece) for piece in _PIECE.findall(text))


def words_of(text: str) -> list[str]:
    """Return the words of a text: runs of letters and digits, after Unicode NFKC and without case.

    A Chinese character or a Japanese kana is a word of its own. Punctuation, blanks and markup separate words and are
    none, so "$x^2$" has the words x and 2.
    """
    return _WORD.findall(normalize("NFKC", text).casefold())


def changed_words(one: str, other: str) -> int:
    """Return how many words one of two texts has that the other has not, both ways, each as often as it occurs."""
    first, second = Counter(words_of(one)), Counter(words_of(other))
    return ((first - second) | (second - first)).total()
