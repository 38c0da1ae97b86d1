"""A person judges in the terminal, one key a presentation."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from selfsteer.errors import InputError
from selfsteer.judges.human import BACK, KEYS, AnnotationSession
from selfsteer.sanitize import SafeConsole, escape_controls

QUIT = "q"
_HELP = "1 or 2 the better one, = equally good, s skip, u back, q stop here"
_STATES = {
    "skipped": "You skipped this one before.",
    "answered": "You answered this one before; that answer counts until you give another.",
}


def ask_in_terminal(
    session: AnnotationSession, *, console: Console | None = None, read: Callable[[], str] | None = None
) -> None:
    """Show presentations and read keys, until the person quits, the input ends or all is answered.

    Args:
        read: Returns the next key or line, "" at the end of the input. The default takes single keys from a terminal,
            and lines from anything else.

    Raises:
        InputError: stdin is closed.
        KeyboardInterrupt: Ctrl-C, after a sentence on the answers kept: every answer given.
        StorageError: An answer could not be kept.
    """
    console = console or SafeConsole()
    if read is None and (sys.stdin is None or sys.stdin.closed):
        do = "run the command in a terminal, or add --page to answer on a local web page"
        raise InputError("there is no input to read answers from: stdin is closed", where="--human", do=do)
    read = read or reader(sys.stdin)
    try:
        _show(session, console)
        while (key := _ask_key(session, console, read)) != QUIT:
            session.act(key)
            _show(session, console)
    except KeyboardInterrupt:
        console.print()
        console.print(Text(session.so_far()))
        raise
    console.print(Text(session.so_far()))


def reader(stream: TextIO) -> Callable[[], str]:
    """Return a function that reads a key from a terminal, or a line from any other stream."""
    return (lambda: _read_key(stream)) if stream.isatty() and os.name == "posix" else stream.readline


def _show(session: AnnotationSession, console: Console) -> None:
    shown = session.open
    if shown is None:
        console.rule("All answered")
        return
    console.print()
    console.rule(f"{session.done + 1} of {session.total}")
    if note := _STATES.get(shown.state):
        console.print(Text(note, style="yellow"))
    for message in shown.prompt:
        console.print(Text(message["role"].capitalize(), style="bold cyan"))
        console.print(Padding(_text(message["content"]), (0, 0, 1, 2)))
    for number, (response, cut) in enumerate(zip(shown.responses, shown.cut, strict=True), 1):
        subtitle = "cut off at the length limit" if cut else None
        console.print(Panel(_text(response), title=f"Response {number}", subtitle=subtitle, title_align="left"))
    if shown.criterion:
        console.print(Text(f"Judge by: {shown.criterion}", style="bold"))


def _text(text: str) -> Text:
    # A Text, not a string: rich would read markup in a response.
    return Text(text) if text.strip() else Text("(empty)", style="dim italic")


def _ask_key(session: AnnotationSession, console: Console, read: Callable[[], str]) -> str:
    """Read until a key can be carried out, and return it; the end of the input is :data:`QUIT`."""
    help_text = _HELP if session.open else "Enter to finish, u back"
    while True:
        console.print(Text(f"{help_text}: ", style="bold"), end="")
        line = read()
        key = line.strip().lower()
        console.print(Text(escape_controls(key)))  # neither a single key nor a line from a file is echoed
        if not line or key in (QUIT, "\x04"):  # Ctrl-D is a character like any other where keys come singly
            return QUIT
        if key == BACK:
            problem = "" if session.can_go_back else "There is nothing in this session to go back to."
        elif session.open is None:
            problem = f"All is answered, so {escape_controls(key)!r} does nothing." if key else ""
        else:
            problem = "" if key in KEYS else f"{escape_controls(key)!r} is none of the keys."
        if not problem:
            return key or QUIT
        console.print(Text(problem, style="yellow"))


def _read_key(stream: TextIO) -> str:
    import termios
    import tty

    before = termios.tcgetattr(stream)
    try:
        tty.setcbreak(stream, termios.TCSAFLUSH)  # drops keys pressed before the prompt: they were for something else
        return os.read(stream.fileno(), 64).decode(errors="replace")
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)
