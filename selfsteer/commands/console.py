"""Where commands print (results on stdout, warnings and errors on stderr) and how they end."""

from __future__ import annotations

import signal
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from selfsteer.errors import SelfsteerError, SelfsteerWarning, Terminated
from selfsteer.files import STORAGE_ADVICE
from selfsteer.sanitize import SafeConsole

out = SafeConsole()
errors = SafeConsole(stderr=True)


def say(text: str, console: Console = out, *, mark: str = "", style: str = "") -> None:
    """Print text behind a mark in a style; long lines stay whole."""
    console.print(Text.assemble((mark, style), text), soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    say(text, errors, mark="warning: ", style="bold yellow")


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    """Print our own warnings as a sentence, others with file and line; replaces :func:`warnings.showwarning`."""
    place = "" if issubclass(category, SelfsteerWarning) else f" ({category.__name__}, {filename}:{lineno})"
    warn(f"{message}{place}")


def progress_bar() -> Progress:
    """Return a bar on stderr that goes when it is done; its description is text, not markup."""
    text = TextColumn("{task.description}", markup=False)
    return Progress(text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=errors, transient=True)


@contextmanager
def handled_signals() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, and a second signal end it at once; the earlier handlers come back."""
    before = {number: signal.signal(number, _end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_INTERRUPTED = "interrupted: finished work is kept; run the same command again to resume"
_at_work = False


def _end(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # the second needs no Python, so it ends code of any library too
    if not _at_work:  # typer, which reads the arguments, would end any KeyboardInterrupt with 130 and without a word
        say(_INTERRUPTED, errors)
        raise SystemExit(128 + number)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C into exit code 130 and SIGTERM into 143; typer's own handler prints "Aborted!" and exits with 1."""
    global _at_work
    try:
        _at_work = True
        yield
    except KeyboardInterrupt as interrupt:
        say(_INTERRUPTED, errors)
        raise typer.Exit(143 if isinstance(interrupt, Terminated) else 130) from interrupt
    finally:
        _at_work = False


def explain_failure(error: Exception) -> int:
    """Print one message for whatever ended a command, and return the exit code.

    An error that this package does not raise on purpose is one line; its traceback is in a file that the line names.
    """
    if not isinstance(error, SelfsteerError):
        error = _unexpected(error)
    say(str(error), errors, mark="error: ", style="bold red")
    return error.exit_code


def _unexpected(error: Exception) -> SelfsteerError:
    if isinstance(error, OSError) and (advice := STORAGE_ADVICE.get(error.errno or 0)):
        return SelfsteerError(str(error.strerror), where=str(error.filename or ""), do=advice)
    # A run directory's lock has noted where the traceback is.
    logged = next(reversed(getattr(error, "__notes__", ())), "") or _log_traceback(error)
    told = " ".join(str(error).split())
    what = f"unexpected {type(error).__name__}: {told[:300]}"
    return SelfsteerError(what, where=logged, do="finished work is kept; please report this with that file")


def _log_traceback(error: Exception) -> str:
    """Write the traceback of a command without a run directory to a file of its own, and return where it is."""
    text = "".join(traceback.format_exception(error)).encode(errors="backslashreplace")
    try:
        with tempfile.NamedTemporaryFile(prefix="selfsteer-", suffix=".log", delete=False) as file:
            file.write(text)
    except OSError:
        return "no folder for its traceback could be written to"
    return f"the traceback is in {file.name}"
