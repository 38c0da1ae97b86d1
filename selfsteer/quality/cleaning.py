"""Clean one response: strip leaked labels, end cut-off sentences (paper, section 4). Text and token ids stay together.

Invariants of a response that carries token ids, with ``decode`` skipping special tokens:

- ``token_ids`` is a slice ``[start:end]`` of the sampled ids, so training sees exactly what was sampled;
- ``text == decode(token_ids).strip()``;
- a response that ended by itself (finish "stop") is never cut at its tail, so it keeps its end token;
- no cut falls inside a character: byte-level tokens may hold a part of one, and then the cut moves to a whole one.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NamedTuple

from selfsteer.errors import InputError
from selfsteer.quality.leaked_labels import labels_end
from selfsteer.quality.sentences import last_sentence_end
from selfsteer.records import Finish, Response

Decode = Callable[[list[int]], str]

MIN_KEPT = 0.5
"""Least share of a cut-off text (in characters) that ending its last sentence must keep. Below it the text stays whole:
losing more would change the lengths that the direction filters and the length statistics compare."""

_PARTIAL = "\ufffd"  # what a tokenizer decodes a part of a character to


def clean_response(response: Response, decode: Decode | None, labels: Sequence[str]) -> Response:
    """Return ``response`` without leaked labels at its front and, where it ran into the limit, without a broken end.

    Where token ids are there, the text is derived from them, not from ``response.text``: they are trained on. An
    empty result has text "" and is dropped later by the ``empty`` filter. Cleaning twice is not promised to equal
    cleaning once: a list line cut back to its end no longer shows that it was complete.

    Args:
        decode: Token ids to text, skipping special tokens; may be None only where ``response.token_ids`` is None.
        labels: The adjectives of the row's aspects, of both signs, e.g. ["concise", "verbose"].

    Raises:
        InputError: The response carries token ids and ``decode`` is None.
    """
    if response.token_ids is None:
        span = _kept_span(response.text, response.finish, labels)
        return dataclasses.replace(response, text=response.text[span.start : span.end].strip())
    if decode is None:
        raise InputError(
            f"response {response.id!r} ({response.role}) carries token ids, but no decode was given to clean them with",
            do="pass the tokenizer's decode (skipping special tokens), or a response without token ids",
        )
    ids = response.token_ids
    whole = decode(ids)
    span, boundaries = _kept_span(whole, response.finish, labels), _Boundaries(ids, decode, whole)
    start = boundaries.start(span)
    # A response that ended by itself keeps its end token, on which it is trained as well.
    end = len(ids) if response.finish == "stop" else boundaries.end(span, start)
    kept = ids[start:end]
    return dataclasses.replace(response, text=decode(kept).strip() if kept else "", token_ids=kept)


def first_boundary(ids: list[int], decode: Decode, offset: int) -> int:
    """Return the number of tokens that hold the first ``offset`` characters, never ending inside a character."""
    return _Boundaries(ids, decode, decode(ids)).start(_Span(offset, offset, offset))


class _Span(NamedTuple):
    """Character offsets: the labels end at ``label_end``, white space follows up to ``start``; kept is [start, end)."""

    label_end: int
    start: int
    end: int


def _kept_span(text: str, finish: Finish, labels: Sequence[str]) -> _Span:
    label_end = labels_end(text, labels)
    start = len(text) - len(text[label_end:].lstrip())
    if finish == "stop":
        return _Span(label_end, start, len(text))
    body = text[start:].rstrip().rstrip(_PARTIAL).rstrip()
    end = last_sentence_end(body)
    return _Span(label_end, start, start + (len(body) if end is None or end < MIN_KEPT * len(body) else end))


@dataclasses.dataclass(frozen=True)
class _Boundaries:
    """Token boundaries of a response against the characters of its decoded text. Boundary i is before token i."""

    ids: list[int]
    decode: Decode
    whole: str

    def start(self, span: _Span) -> int:
        """Return the boundary to start at: never inside a label or a character; a straddled label moves it forward."""
        if span.start == 0:
            return 0
        reached = self._first_covering(span.start)
        for i in range(reached, -1, -1):  # at the text, or else before the white space that a token shares with it
            covered = self._covered(i)
            if covered < span.label_end:
                break
            if covered <= span.start and self._is_whole(i):
                return i
        return next(i for i in range(reached, len(self.ids) + 1) if self._is_whole(i))

    def end(self, span: _Span, start: int) -> int:
        """Return the smallest boundary that keeps the text up to ``span.end`` and adds only white space.

        A token that straddles the cut is left out; only where that would leave nothing is the response kept whole.
        """
        for i in range(self._first_covering(span.end), start, -1):
            covered = self._covered(i)
            if self._is_whole(i) and not self.whole[span.end : covered].strip() and covered > span.start:
                return i
        return start if span.end <= span.start else len(self.ids)

    def _first_covering(self, length: int) -> int:
        return bisect_left(range(len(self.ids) + 1), length, key=self._covered)

    def _prefix(self, i: int) -> str:
        return self.decode(self.ids[:i]) if i else ""

    def _is_whole(self, i: int) -> bool:
        return self.whole.startswith(self._prefix(i))

    def _covered(self, i: int) -> int:
        """Return how many characters of the whole text the first ``i`` tokens hold for certain."""
        text = self._prefix(i)
        if self.whole.startswith(text):
            return len(text)
        # Part of a character decodes to U+FFFD, so the common front alone is certain.
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, self.whole, strict=False)))
