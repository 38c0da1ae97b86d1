"""Text made safe to show."""

from __future__ import annotations

from selfsteer.sanitize import escape_controls


def test_control_characters_are_visible_and_act_on_nothing():
    assert escape_controls("\x1b[2Jred\x07\x7f") == "␛[2Jred␇␡"
    assert escape_controls("\x9b31m\x85\ud800\ufffe") == "�31m���"


def test_line_ends_become_one_kind_and_tabs_stay():
    assert escape_controls("a\r\nb\rc\td\n") == "a\nb\nc\td\n"


def test_other_text_stays():
    text = "naïve 𝛽 < 0.1 & “so” 👩‍🔬 שלום [bold]"
    assert escape_controls(text) == text
