"""Text made safe to show."""

from __future__ import annotations

import io

from rich.table import Table

from selfsteer.commands.console import say
from selfsteer.sanitize import SafeConsole, escape_controls


def test_control_characters_are_visible_and_act_on_nothing():
    assert escape_controls("\x1b[2Jred\x07\x7f") == "␛[2Jred␇␡"
    assert escape_controls("\x9b31m\x85\ud800\ufffe") == "�31m���"


def test_line_ends_become_one_kind_and_tabs_stay():
    assert escape_controls("a\r\nb\rc\td\n") == "a\nb\nc\td\n"


def test_other_text_stays():
    text = "naïve 𝛽 < 0.1 & “so” 👩‍🔬 שלום [bold]"
    assert escape_controls(text) == text


def test_a_console_prints_what_models_and_files_say_as_text():
    hostile = "[/b] [link=http://x]click[/link] :smile: \x1b]0;title\x07 \u202eevil \x9b2J"
    screen = io.StringIO()
    console = SafeConsole(file=screen, width=200, force_terminal=True, color_system="standard")
    table = Table(hostile, title=hostile)
    table.add_row(hostile)
    say(hostile, console, mark="error: ", style="bold red")
    console.print(table)
    console.print(hostile)

    printed = screen.getvalue()
    assert printed.count("[/b] [link=http://x]click[/link] :smile: ␛]0;title") == 5
    assert "\x1b]" not in printed and "\x9b" not in printed and "\x07" not in printed and "\u202e" not in printed
    assert "\x1b[1;31merror: " in printed  # our own styles stay
