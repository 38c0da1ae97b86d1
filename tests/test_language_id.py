"""Languages that can be told, and None where they can't."""

from __future__ import annotations

import pytest

from selfsteer.language_id import language


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("What are the advantages and disadvantages of free trade?", "en"),
        ("Das Wetter war gestern so schlecht, dass wir zu Hause geblieben sind.", "de"),
        ("Quiero dejar de fumar, ¿podrías darme distintas alternativas o métodos que me ayuden?", "es"),
        ("東京は日本の首都です。", "ja"),
        ("Сегодня мы идём в кино вместе с друзьями.", "ru"),
    ],
)
def test_sentences_are_told(text: str, code: str) -> None:
    assert language(text) == code


@pytest.mark.parametrize("text", ["", "  \n", "42 + 17 = 59", "Paris.", "Hello", "1. Apples 2. Kiwis", "🙂🙂🙂"])
def test_what_is_too_short_or_no_prose_is_not_told(text: str) -> None:
    assert language(text) is None


def test_code_formulas_and_addresses_are_not_looked_at() -> None:
    prose = "Diese Funktion gibt die Summe aller Zahlen in der Liste zurück."
    code = "```python\nfor the_item in the_list: print('this is the English comment of the code')\n```"
    assert language(f"{code}\n{prose}") == language(prose) == "de"
    assert language(code) is None


def test_close_relatives_have_one_code() -> None:
    danish = "Jeg kunne godt tænke mig at vide, hvordan man laver en rigtig god kage derhjemme."
    assert language(danish) == "no"
