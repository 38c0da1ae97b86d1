"""Where a sentence, a list line or a code block ends. Used only to cut back text that ran into its length limit.

The rule is simple on purpose; a missed end costs a few words, a wrong one would invent an unfinished sentence:

- a run of ``. ! ? …`` with its closing quotes or brackets, before white space or the end of the text, unless
  * a lower-case letter follows on the same line ("approx. five", '"Why?" he said'), or
  * one full stop follows a known abbreviation, a single capital other than I (an initial), or a line's first number
    ("1."). Decimals, versions and domains ("3.14", "v1.2", "example.com") have no white space after the stop;
- a run of CJK, Arabic, Urdu or Hindi terminators with its closers, whatever follows;
- the line break after a list line ("- Apples"), unless the line ends in a colon, a comma or the like;
- a closed code fence. Nothing inside a fence counts.
"""

from __future__ import annotations

import bisect
import re

_CLOSERS = r"[\"'”’»›)\]}*_`」』）】》〉]*"
# Possessive, and a run is tried from its beginning only: each character is read once, whatever a looping model wrote.
_STOP = re.compile(rf"(?P<run>(?<![.!?…])[.!?…]++){_CLOSERS}+(?=\s|\Z)|[。！？؟۔।｡．]++{_CLOSERS}+")
_LIST_LINE = re.compile(r"^[ \t]*+(?:[-*•+]|\d{1,3}[.)])[ \t]++(?P<body>\S[^\n]*+)(?=\n)", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^`\n]*$", re.MULTILINE)
_LAST_WORD = re.compile(r"[^\W_]+(?:\.[^\W_]+)*\Z")
_LIST_NUMBER = re.compile(r"[\s>#*_(]*\d{1,3}")
_NEXT = re.compile(r"[^\S\n]*+(.?)")
_LONGEST = 12  # characters of a line that may be an abbreviation
_LONGEST_NUMBER = 80  # characters of a line that may be the number of a list's line
_MID_LINE = tuple(":,;-：，；、–—")  # a list line that ends so is not complete
_ABBREVIATIONS = re.compile(
    r"mr|mrs|ms|dr|prof|st|sr|jr|rev|gen|sen|gov|capt|sgt|vs|e\.?g|i\.?e|cf|al|figs?|eqs?|sec|approx|ca|inc|ltd|co|corp|dept"
    r"|est|vol|pp|eds?|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|a\.m|p\.m|ph\.d|u\.s|u\.k",
    re.IGNORECASE,
)


def last_sentence_end(text: str) -> int | None:
    """Return the offset just after the last complete sentence, list line or code block; None if there is none."""
    marks = list(_FENCE.finditer(text))
    # A code block that is still open ends past the text.
    stops = [mark.end() for mark in marks[1::2]] + [len(text) + 1] * (len(marks) % 2)
    code = [(mark.start(), stop) for mark, stop in zip(marks[::2], stops, strict=True)]
    prose = [match.end() for match in _STOP.finditer(text) if _ends_sentence(text, match)]
    for match in _LIST_LINE.finditer(text):
        body = match["body"].rstrip(" \t")
        if not body.endswith(_MID_LINE):
            prose.append(match.start("body") + len(body))
    starts = [start for start, _ in code]
    for end in sorted(prose, reverse=True):
        before = bisect.bisect_left(starts, end) - 1  # the last block that starts before it
        if before < 0 or end >= code[before][1]:
            stops.append(end)
            break
    return max((stop for stop in stops if stop <= len(text)), default=None)


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    if match["run"] is None:  # a terminator of a script that has no abbreviations
        return True
    following = _NEXT.match(text, match.end())
    if following and following[1].islower():
        return False
    if match["run"] != ".":
        return True
    # One full stop may belong to the word or number before it.
    stop = match.start()
    begin = max(0, stop - _LONGEST_NUMBER)
    line = text[max(begin, text.rfind("\n", begin, stop) + 1) : stop]
    if len(line) < _LONGEST_NUMBER and _LIST_NUMBER.fullmatch(line):
        return False
    last = _LAST_WORD.search(line[-_LONGEST:])  # of the whole line, the search would be quadratic
    word = last[0] if last else ""
    is_initial = len(word) == 1 and word.isupper() and word != "I" and word.isascii()
    return not is_initial and _ABBREVIATIONS.fullmatch(word) is None
