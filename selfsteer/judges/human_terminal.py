"""A person judges in the terminal: one presentation after the other, one key each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from selfsteer.judges.human import BACK, KEYS, AnnotationSession, Presentation
from selfsteer.sanitize import escape_controls

QUIT = "q"
_HELP = "1 or 2 the better one, = equally good, s skip, u back, q stop here"
_STATES = {
    "new": "",
    "skipped": "You skipped this one before.",
    "answered": "You answered this one before; that answer stands until you give another.",
}


def ask_in_terminal(
    sitting: AnnotationSession, *, console: Console | None = None, read: Callable[[], str] | None = None
) -> None:
    """Show what is open and read a key, until the reader quits, the input ends or all is answered.

    Args:
        sitting: What to show.
        console: Where to print; the standard output unless given.
        read: Returns the next key or line, "" at the end of the input. The default takes single keys from a terminal,
            and lines from anything else.

    Raises:
        KeyboardInterrupt: Ctrl-C, once it is said what is kept: every answer given.
        StorageError: An answer could not be kept.
    """
    console = console or Console(highlight=False)
    read = read or reader(sys.stdin)
    try:
        _go_through(sitting, console, read)
    except KeyboardInterrupt:
        console.print()
        console.print(Text(sitting.so_far()))
        raise
    console.print(Text(sitting.so_far()))


def reader(stream: TextIO) -> Callable[[], str]:
    """Return a function that reads a key from a terminal, or a line from what is none."""
    return (lambda: _read_key(stream)) if stream.isatty() and os.name == "posix" else stream.readline


def _go_through(sitting: AnnotationSession, console: Console, read: Callable[[], str]) -> None:
    while True:
        _show(sitting, console)
        key = _ask_key(sitting, console, read)
        if key == QUIT:
            return
        sitting.act(key)


def _show(sitting: AnnotationSession, console: Console) -> None:
    shown = sitting.open
    if shown is None:
        console.rule("All answered")
        return
    console.print()
    console.rule(f"{sitting.done + 1} of {sitting.total}")
    if _STATES[shown.state]:
        console.print(Text(_STATES[shown.state], style="yellow"))
    _show_conversation(shown, console)
    for number, (response, cut) in enumerate(zip(shown.responses, shown.cut, strict=True), 1):
        subtitle = "cut off at the length limit" if cut else None
        console.print(Panel(_text(response), title=f"Response {number}", subtitle=subtitle, title_align="left"))
    if shown.criterion:
        console.print(Text(f"Judge by: {shown.criterion}", style="bold"))


def _show_conversation(shown: Presentation, console: Console) -> None:
    for message in shown.prompt:
        console.print(Text(message["role"].capitalize(), style="bold cyan"))
        console.print(Padding(_text(message["content"]), (0, 0, 1, 2)))


def _text(text: str) -> Text:
    """Return a text in which no markup is read."""
    return Text(text) if text.strip() else Text("(empty)", style="dim italic")


def _ask_key(sitting: AnnotationSession, console: Console, read: Callable[[], str]) -> str:
    """Read until there is something to do, and return it; the end of the input is :data:`QUIT`."""
    help_text = _HELP if sitting.open else "Enter to finish, u back"
    while True:
        console.print(Text(f"{help_text}: ", style="bold"), end="")
        line = read()
        key = line.strip().lower()
        console.print(Text(escape_controls(key)))  # neither a single key nor a line from a file is echoed
        if not line or key in (QUIT, "\x04"):  # Ctrl-D is a character like any other where keys come singly
            return QUIT
        problem = _problem(sitting, key)
        if not problem:
            return key or QUIT
        console.print(Text(problem, style="yellow"))


def _problem(sitting: AnnotationSession, key: str) -> str:
    """Return why a key can't be acted on, "" where it can."""
    if key == BACK:
        return "" if sitting.can_go_back else "There is nothing in this sitting to go back to."
    if sitting.open is None:
        return f"All is answered, so {escape_controls(key)!r} does nothing." if key else ""
    return "" if key in KEYS else f"{escape_controls(key)!r} is none of the keys."


def _read_key(stream: TextIO) -> str:
    """Read what one key press sends. Keys pressed before the prompt are thrown away: they were for something else."""
    import termios
    import tty

    before = termios.tcgetattr(stream)
    try:
        tty.setcbreak(stream, termios.TCSAFLUSH)
        return os.read(stream.fileno(), 64).decode(errors="replace")
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)
