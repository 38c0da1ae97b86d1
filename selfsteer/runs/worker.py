"""A worker of :class:`selfsteer.runs.worker_pool.WorkerPool`: a process that loads a task's model and does batches.

Run as ``python -m selfsteer.runs.worker FD``. It reads messages from the socket and answers each:

    ("setup", make)                        make() gives the models that tasks are opened with
    ("open", number, task)                 -> ("opened", number, context)
    ("do", number of the batch, items)     -> ("done", result)
    at an error of either                  -> ("failed", exception, its traceback as text)
    at a warning, in between               -> ("warning", text, category, file, line)
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, NoReturn

_WATCH_SECONDS = 0.5


def main(descriptor: int) -> None:
    """Serve the parent until it closes the connection or is gone."""
    os.set_inheritable(descriptor, False)  # a process started here would keep the connection open
    signal.signal(signal.SIGTERM, _ended)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the workers
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    connection = Connection(descriptor)
    warnings.showwarning = _Warnings(connection)
    with suppress(EOFError, ConnectionError):
        _serve(connection)


def _serve(connection: Connection) -> None:
    models: Any = None
    opened: Any = None
    try:
        while True:
            kind, *given = connection.recv()
            try:
                if kind == "setup":
                    models = given[0]()
                    continue
                if kind == "open":
                    opened = None  # an earlier task's model goes before this one's is loaded
                    opened = given[1].open(models)
                    answer: tuple[Any, ...] = ("opened", given[0], opened.context)
                else:
                    answer = ("done", opened.do(*given))
            except Exception as error:  # noqa: BLE001  # whatever it is, the parent raises it
                opened = None
                answer = ("failed", picklable(error), traceback.format_exc())
                if models is not None:
                    models.free()  # an engine that failed may not answer again
            connection.send(answer)
    finally:
        if models is not None:
            models.free()


def picklable(error: Exception) -> Exception:
    """Return an exception that another process can load: itself, or one that says the same."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # noqa: BLE001  # an exception's own code
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


class _Warnings:
    """Sends warnings to the parent; replaces :func:`warnings.showwarning`."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._thread = connection, threading.get_ident()

    def __call__(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
    ) -> None:
        if threading.get_ident() == self._thread:  # another thread's could cut an answer in two
            try:
                self._connection.send(("warning", str(message), category, filename, lineno))
            except (pickle.PicklingError, AttributeError):  # a category of a library's own function
                self._connection.send(("warning", str(message), UserWarning, filename, lineno))


def _ended(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _end_with_parent(parent: int) -> None:
    """End this process and all that it started when its parent is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
