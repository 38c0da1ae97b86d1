"""Which language a text is in, where that can be told: no network, the same answer every time."""

from __future__ import annotations

import functools
import re
from typing import Any

SURE = 0.7
"""Least probability of a language that is told: of 6,506 real queries 93 % are (docs/quality.md has the mistakes)."""

_READ = 1000  # characters: more of a text changes no answer, and costs time
_NO_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\$[^$\n]+\$", re.DOTALL)
_NONE = "zxx"  # the detector's name for what is in no language
# Told apart on a few words, close relatives are a coin's toss.
_RELATIVES = {
    "arz": "ar", "ary": "ar", "bs": "hr", "sr": "hr", "ms": "id", "nn": "no", "da": "no", "pcm": "en", "gl": "pt",
    "wuu": "zh", "yue": "zh", "uzs": "uz",
}  # fmt: skip


def language(text: str) -> str | None:
    """Return the ISO 639 code of the language that ``text`` is in, None where it is too short or too mixed to tell.

    Close relatives have one code: "hr" also stands for Serbian and Bosnian, "no" for Danish, "id" for Malay, "pt" for
    Galician, "zh" and "ar" for their varieties. Code, formulas and addresses are not looked at; of a long text, the
    first 1,000 characters are.
    """
    prose = _NO_PROSE.sub(" ", text[:_READ]).strip()
    if not prose:
        return None
    code, probability = _identifier().classify(prose)
    return _RELATIVES.get(code, code) if probability >= SURE and code != _NONE else None


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # reads its model, from its own wheel, in a second

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def known_languages() -> list[str]:
    """Return the codes that :func:`language` may return."""
    return sorted({_RELATIVES.get(code, code) for code in map(str, _identifier().labels)} - {_NONE})
