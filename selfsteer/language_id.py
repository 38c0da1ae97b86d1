"""Detects the language of a text, offline and deterministically."""

from __future__ import annotations

import functools
import re
from typing import Any

SURE = 0.7
"""Least probability of a language: 93 % of 6,506 real queries reach it (docs/quality.md has the mistakes)."""

_READ = 1000  # characters: more of a text changes no answer, and costs time
_NO_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\$[^$\n]+\$", re.DOTALL)
_NONE = "zxx"  # the detector's name for text in no language
# On a few words the detector can't separate close relatives.
_RELATIVES = {
    "arz": "ar", "ary": "ar", "bs": "hr", "sr": "hr", "ms": "id", "nn": "no", "da": "no", "pcm": "en", "gl": "pt",
    "wuu": "zh", "yue": "zh", "uzs": "uz",
}  # fmt: skip


def language(text: str) -> str | None:
    """Return the ISO 639 code of the language of ``text``, None where it is too short or too mixed.

    Close relatives have one code: Serbian and Bosnian "hr", Danish "no", Malay "id", Galician "pt", the varieties of
    Chinese and Arabic "zh" and "ar". Code, formulas and addresses are ignored; of a long text the first 1,000
    characters are read.
    """
    prose = _NO_PROSE.sub(" ", text[:_READ]).strip()
    if not prose:
        return None
    code, probability = _identifier().classify(prose)
    return _RELATIVES.get(code, code) if probability >= SURE and code != _NONE else None


@functools.cache
def _identifier() -> Any:
    # py3langid: its model is in its wheel, it needs numpy alone, and its probabilities are honest about short texts.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def known_languages() -> list[str]:
    """Return the codes that :func:`language` may return."""
    return sorted({_RELATIVES.get(code, code) for code in map(str, _identifier().labels)} - {_NONE})
