"""Texts as words, whatever their spelling."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfsteer.queries.words import normalize

WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), max_size=80)


@given(WORDS)
def test_texts_with_blanks_are_normalised_as_a_whole_would_be(words):
    text = " ".join([*words, "e\u0301 \ufdfa " * 400])
    for form in ("NFC", "NFKC"):
        assert normalize(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_a_megabyte_of_combining_marks_takes_a_moment(form):
    started = time.process_time()
    assert normalize(form, "a" + "\u0316\u0301" * 500_000)
    assert time.process_time() - started < 30  # minutes otherwise
