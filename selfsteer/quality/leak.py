"""Find a response that gives away its instructions: its principle, its adjectives, or that there are any.

Four signs, each discounted by the words of the query itself (a requested text about concise writing is no leak):

1. ``ngram`` consecutive words of the principle or of the steering system message;
2. at least ``share`` of the principle's 4-grams, scattered (only of principles with 4 or more 4-grams);
3. an adjective label that cleaning left: "Concise: ..." at the front, "Concise answer: ..." at the start of any line;
4. a self-reference: "as a concise assistant", "my answer should be verbose", "the guidelines I follow".

Words are runs of letters and digits, compared without case. Scripts without spaces are so compared by clauses: in
them signs 1 and 2 find only near-exact copies.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable

from selfsteer.quality.leaked_labels import NOUN, adjective_list

SHARE_NGRAM = 4
MIN_SHARED = 4  # 4-grams a principle needs before a share of them means anything: 7 words
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_TOLD = r"(?:told|asked|instructed|required|supposed|expected|meant|directed|programmed)"
_GIVEN = (
    r"(?:I\s+(?:must\s+|have\s+to\s+)?follow|I(?:\s+was|\s+have\s+been|['’]ve\s+been)\s+given"
    r"|(?:provided|given)\s+to\s+me)"
)
_GENERIC = re.compile(
    rf"\b(?:the|these|those|my)\s+(?P<key>guidelines?|principles?)\s+(?:(?:that|which)\s+)?{_GIVEN}"
    r"|\b(?:the|these|those)\s+(?:given|provided|above)\s+(?P<key2>guidelines?|principles?)\b"
    r"|\b(?:the|this|my|your)\s+(?P<key3>system\s+(?:prompt|message))\b",
    re.IGNORECASE,
)

Ngram = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Guidance:
    """The instructions of one response.

    Attributes:
        system: The texts of the steering system messages.
        query: The texts of the plain prompt, which the response may repeat.
    """

    principle: str
    system: tuple[str, ...]
    query: tuple[str, ...]
    adjectives: tuple[str, ...]

    def unasked_adjectives(self) -> tuple[str, ...]:
        """Return the adjectives that the query doesn't use."""
        asked = " ".join(["", *(word for text in self.query for word in words(text)), ""])
        return tuple(word for word in self.adjectives if f" {' '.join(words(word))} " not in asked)


def words(text: str) -> list[str]:
    """Return the words of ``text``, case folded."""
    return _WORD.findall(text.casefold().replace("’", "'"))


def ngrams(text: str, size: int) -> list[Ngram]:
    """Return the runs of ``size`` consecutive words of ``text``, in order, with repeats."""
    found = _words(text)
    return list(zip(*(found[i:] for i in range(size)), strict=False))


def repeated_run(response: str, guidance: Guidance, size: int) -> str:
    """Return the first ``size`` consecutive words that ``response`` repeats from its guidance, or ""."""
    own = _ngram_set((guidance.principle, *guidance.system), size) - _ngram_set(guidance.query, size)
    return next((" ".join(run) for run in ngrams(response, size) if run in own), "") if own else ""


def repeated_share(response: str, guidance: Guidance) -> float:
    """Return the share (0 to 1) of the principle's 4-grams that ``response`` repeats; 0 for a short principle."""
    own = _ngram_set((guidance.principle,), SHARE_NGRAM) - _ngram_set(guidance.query, SHARE_NGRAM)
    return len(own.intersection(ngrams(response, SHARE_NGRAM))) / len(own) if len(own) >= MIN_SHARED else 0.0


def surviving_label(response: str, guidance: Guidance) -> str:
    """Return the adjective label that ``response`` still carries, or ""."""
    front, any_line = _label_patterns(guidance.unasked_adjectives())
    match = front.match(response) or any_line.search(response)
    return match[0].strip() if match else ""


def self_reference(response: str, guidance: Guidance) -> str:
    """Return the words in which ``response`` refers to its instructions, or ""."""
    if match := _self_reference_pattern(guidance.unasked_adjectives()).search(response):
        return match[0]
    asked = {word.removesuffix("s") for text in guidance.query for word in words(text)}
    for match in _GENERIC.finditer(response):
        key = match["key"] or match["key2"] or match["key3"]
        if key.lower().split()[0].removesuffix("s") not in asked:
            return match[0]
    return ""


@functools.lru_cache(maxsize=1024)  # rows often share their principles and system messages
def _words(text: str) -> tuple[str, ...]:
    return tuple(words(text))


def _ngram_set(texts: Iterable[str], size: int) -> set[Ngram]:
    return {run for text in texts for run in ngrams(text, size)}


@functools.lru_cache(maxsize=4096)
def _label_patterns(adjectives: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    listed, opening, closing = adjective_list(adjectives), r"(?:#{1,6}\s+)?[*_\[(\"“]{0,3}", r"[*_\])\"”]{0,3}"
    separator = r"\s*(?:[:：]|\s[-–—]\s)"
    front = rf"\s*{opening}{listed}(?:\s+{NOUN})?{closing}{separator}"
    any_line = rf"^[ \t]*{opening}{listed}\s+{NOUN}{closing}{separator}"
    return re.compile(front, re.IGNORECASE), re.compile(any_line, re.IGNORECASE | re.MULTILINE)


@functools.lru_cache(maxsize=4096)
def _self_reference_pattern(adjectives: tuple[str, ...]) -> re.Pattern[str]:
    listed = adjective_list(adjectives)
    phrases = (
        rf"\bas\s+an?\s+(?:\w+\s+)?{listed},?\s+(?:AI\s+)?(?:assistant|chatbot|AI|language\s+model|model)\b",
        rf"\bmy\s+{NOUN}\s+(?:should|must|will|needs\s+to|has\s+to|is\s+\w+\s+to)\s+(?:not\s+)?be\s+(?:\w+\s+){{0,2}}?{listed}\b",
        rf"\bthis\s+{NOUN}\s+is\s+{_TOLD}\s+to\s+be\s+(?:\w+\s+){{0,2}}?{listed}\b",
        rf"\bI(?:\s+am|\s+was|\s+have\s+been|['’]m|['’]ve\s+been)\s+{_TOLD}\s+to\s+[^.!?\n]{{0,60}}?\b{listed}\b",
    )
    return re.compile("|".join(phrases), re.IGNORECASE)
