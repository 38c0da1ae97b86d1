"""Does a response refuse? A test by phrases, in the languages of ``refusals.yaml``.

A response refuses where one of the phrases is in its first 200 characters ("I can't help with that", "Es tut mir leid,
aber ich kann ...") and nothing after it, in the first 400, says that it answers all the same ("However, I can ...",
English only). Phrases that people use in answers as well ("you can't", "I can't help but smile") are not among them. A
refusal in other words ("There is no reason why ..."), after a long opening or in another language is missed. (A
classifier would be another dependency, and cost more than the other text filters together.)
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from selfsteer.files import fingerprint

_FILE = Path(__file__).parent / "refusals.yaml"
_OPENING, _READ = 200, 400  # characters


def refusal(text: str) -> str:
    """Return the words in which ``text`` refuses, "" where it doesn't."""
    start = " ".join(text[:_READ].replace("\u2019", "'").split())
    refuses, answers = _patterns()
    match = refuses.search(start, 0, _OPENING)
    return "" if match is None or answers.search(start, match.end()) else match[0]


def phrases_fingerprint() -> str:
    """Return 16 hex digits that name the phrases."""
    return fingerprint(_FILE.read_text(encoding="utf-8"))


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of phrases that refuse, and of those that answer all the same."""
    known = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    lists = {f"{{{name}}}": known[name].replace(" |", "|") for name in ("able", "help", "proper")}

    def compiled(phrases: Iterable[str]) -> re.Pattern[str]:
        joined = "|".join(phrases)
        for name, listed in lists.items():
            joined = joined.replace(name, listed)
        return re.compile(joined, re.IGNORECASE)

    refusing = (phrase for phrases in known["languages"].values() for phrase in phrases)
    return compiled(refusing), compiled(known["answers"])
