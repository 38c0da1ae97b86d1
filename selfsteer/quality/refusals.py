"""Does a response refuse? A test by phrases, in the languages of ``refusals.yaml``.

A response refuses where one of the phrases stands in its first 200 characters: "I can't help with that", "Es tut mir
leid, aber ich kann ...". Phrases that people use in answers as well ("you can't", "sorry for your loss") are not among
them. A refusal in other words, after a long opening or in another language goes unseen.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import yaml

_FILE = Path(__file__).parent / "refusals.yaml"
_OPENING = 200  # characters


def refusal(text: str) -> str:
    """Return the words in which ``text`` refuses, "" where it doesn't."""
    match = _pattern().search(" ".join(text[:_OPENING].replace("’", "'").split()))
    return match[0] if match else ""


@functools.cache
def _pattern() -> re.Pattern[str]:
    known = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    lists = {"{able}": known["able"], "{help}": known["help"].replace(" |", "|")}
    phrases = "|".join(phrase for phrases in known["languages"].values() for phrase in phrases)
    for name, listed in lists.items():
        phrases = phrases.replace(name, listed)
    return re.compile(phrases, re.IGNORECASE)
