"""Where commands print: results on stdout, warnings and errors on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from selfsteer.errors import SelfsteerWarning

out = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def say(text: str, console: Console = out) -> None:
    """Print text as it is: names and paths of users may hold what rich takes for markup, and long lines stay whole."""
    console.print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    errors.print("[bold yellow]warning:[/] ", end="")
    say(text, errors)


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    """Print our own warnings as a sentence, others with file and line; replaces :func:`warnings.showwarning`."""
    place = "" if issubclass(category, SelfsteerWarning) else f" ({category.__name__}, {filename}:{lineno})"
    warn(f"{message}{place}")


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C into exit code 130; typer's own handler prints "Aborted!" and exits with 1."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        say("interrupted: finished work is kept; run the same command again to resume", errors)
        raise typer.Exit(130) from interrupt
