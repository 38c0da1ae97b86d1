"""Doing the planned batches of a stage in several processes, each with a model or an engine of its own."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from selfsteer.errors import SelfsteerError, WorkFailed
from selfsteer.runs.executor import BatchFunction, BatchResult, BatchTask, InProcess, PlannedBatch
from selfsteer.runs.store import Item, Row
from selfsteer.sanitize import escape_controls

_CLOSE_SECONDS = 90.0
"""What an idle worker gets to shut its engine down; vLLM's own limit is 60."""
_STOP_SECONDS = 10.0
"""What a worker gets at Ctrl-C or after an error of another."""
_TRIES = 2
"""Deaths of a worker over the same batch that end the stage."""
_SHOWN = 600
"""Characters of a dead worker's messages in an error."""

_HINTS = {
    signal.SIGKILL: "the system may have run out of memory (see dmesg): lower generation.engines or "
    "generation.batch_size",
    signal.SIGBUS: "shared memory may be full (df -h /dev/shm; in a container: --shm-size)",
    signal.SIGSEGV: "a compiled library crashed: check that torch, CUDA and vLLM belong together",
}


class WorkerPool:
    """Does planned batches in ``count`` processes, which stay, with their models, from stage to stage.

    They are new processes (nothing is forked) in sessions of their own, and end with this one, however it ends. A
    worker that dies is started again and its batch repeated; one that dies twice over the same batch ends the stage
    with a :class:`WorkFailed`. What the others have under way then, or at an error, is still waited for and returned.

    Args:
        make: A picklable function without arguments: what a worker opens tasks with, and frees with ``free()``.
        count: The number of workers.
        environments: Variables of each worker, such as its share of the GPUs; set before it imports anything.
        name: What a worker is called in messages.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        count: int,
        *,
        environments: Sequence[Mapping[str, str]] | None = None,
        name: str = "engine",
    ) -> None:
        own: Sequence[Mapping[str, str]] = environments or [{}] * count
        self._workers = [_Worker(f"{name} {number + 1}", make, own[number]) for number in range(count)]
        self._task: Any = None
        self._opening = 0
        self._warned: set[tuple[str, type[Warning]]] = set()
        self._end = weakref.finalize(self, _stop, self._workers)  # at the latest when the interpreter ends

    @property
    def pids(self) -> list[int]:
        """The processes that run."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    def open(self, task: BatchTask[Item, Row], batches: int | None = None) -> int | None:
        """Start workers, at most one for each of ``batches``, and load the task's model; return its context."""
        self._task, self._opening = task, self._opening + 1
        chosen = self._workers[: max(1, batches or len(self._workers))]
        try:
            for worker in chosen:
                worker.open(self._opening, task)
            while True:
                for worker in chosen:
                    if worker.opened == self._opening:
                        return worker.context
                for _, answer in self._answers():
                    if isinstance(answer, Exception):
                        raise answer
        except BaseException:
            _stop(self._workers)
            raise

    def run(
        self, work: BatchTask[Item, Row] | BatchFunction[Item, Row], batches: Iterator[PlannedBatch]
    ) -> Iterator[tuple[PlannedBatch, BatchResult[Row]]]:
        """Yield what came of each batch as soon as it is done; a plain function is called in this process."""
        if not isinstance(work, BatchTask):
            yield from InProcess().run(work, batches)
            return
        try:
            yield from self._run(work, batches)
        except BaseException:
            _stop(self._workers)
            raise

    def _run(self, task: Any, batches: Iterator[PlannedBatch]) -> Iterator[tuple[PlannedBatch, Any]]:
        ready: deque[PlannedBatch] = deque()
        error: Exception | None = None

        def plan(most: int) -> None:
            nonlocal error
            while error is None and len(ready) < most:
                try:
                    ready.append(next(batches))
                except StopIteration:
                    return
                except SelfsteerError as problem:
                    error = problem

        if self._task is not task:
            plan(len(self._workers))
            if ready:
                self.open(task, len(ready))
        while True:
            own = [worker for worker in self._workers if worker.asked == self._opening]
            free = [worker for worker in own if worker.opened == self._opening and worker.batch is None]
            plan(len(free))
            for worker in free:
                if error is None and ready:
                    worker.do(ready.popleft())
            plan(len(own))  # while they work
            under_way = any(worker.batch is not None for worker in own)
            if not under_way and (error is not None or not ready):
                break
            for batch, answer in self._answers(repeat=error is None):
                if isinstance(answer, Exception):
                    error = error or answer
                else:
                    assert batch is not None
                    yield batch, answer
        if error is not None:
            raise error

    def _answers(self, repeat: bool = True) -> Iterator[tuple[PlannedBatch | None, Any]]:
        """Wait for workers, and yield each result or error with its batch."""
        running = {worker.connection: worker for worker in self._workers if worker.connection is not None}
        for connection in wait(list(running)):
            worker = running[connection]  # type: ignore[index]
            batch = worker.batch
            try:
                kind, *given = worker.receive()
            except (EOFError, OSError, pickle.UnpicklingError):
                error = worker.died()
                if repeat and worker.deaths < _TRIES:
                    worker.start_again()
                else:
                    worker.batch = None
                    yield batch, error
                continue
            if kind == "warning":
                self._warn(*given)
            elif kind == "failed":
                if not isinstance(given[0], SelfsteerError):
                    given[0].__cause__ = _WorkerTraceback(given[1])
                yield batch, given[0]
            elif kind == "done":
                yield batch, given[0]

    def _warn(self, text: str, category: type[Warning], filename: str, line: int) -> None:
        """Warn once of what each worker warns of."""
        if (text, category) not in self._warned:
            self._warned.add((text, category))
            warnings.warn_explicit(text, category, filename, line, module="selfsteer.worker")

    def close(self) -> None:
        """End the workers and wait until they are gone, and the memory that they hold with them."""
        for worker in self._workers:
            worker.hang_up()
        _stop(self._workers, polite=all(worker.batch is None for worker in self._workers))
        self._task = None


class _WorkerTraceback(Exception):
    """Where an error was raised, in the worker."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _Worker:
    """One worker as the parent sees it.

    Attributes:
        asked, opened: The opening that it was asked for, and the last that it has done.
        batch: What it is doing.
        deaths: How often it has died since it last finished something.
    """

    def __init__(self, name: str, make: Callable[[], Any], environment: Mapping[str, str]) -> None:
        self._name, self._make, self._environment = name, make, environment
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self.asked = self.opened = self.deaths = 0
        self.context: int | None = None
        self.batch: PlannedBatch | None = None
        self._task: Any = None
        self._log: IO[bytes] | None = None
        self._last = ""

    def open(self, number: int, task: Any) -> None:
        """Have it load a task's model; starts it where it does not run."""
        self.asked, self._task = number, task
        if self.process is None:
            self._start()
        self._send("open", number, task)

    def do(self, batch: PlannedBatch) -> None:
        """Have it do a batch."""
        self.batch = batch
        self._send("do", batch.number, batch.items)

    def receive(self) -> tuple[Any, ...]:
        """Return its next message."""
        assert self.connection is not None
        message: tuple[Any, ...] = self.connection.recv()
        if message[0] == "opened":
            _, self.opened, self.context = message
            if self.batch is None:
                self.deaths = 0
            else:  # it was started again
                self._send("do", self.batch.number, self.batch.items)
        elif message[0] in ("done", "failed"):
            self.batch = None
            self.deaths = 0
        return message

    def died(self) -> WorkFailed:
        """Take note that it is gone, and return what to say of it."""
        process = self.process
        assert process is not None
        self.stop(1.0)
        self.deaths += 1
        code = process.returncode
        how, hint = f"ended with exit code {code}", ""
        if code < 0:
            with suppress(ValueError):
                how, hint = f"was ended by {signal.Signals(-code).name}", _HINTS.get(signal.Signals(-code), "")
        doing = "loading its model" if self.batch is None else f"in batch {self.batch.number}"
        what = f"{self._name} (process {process.pid}) {how} {doing}, twice" + (
            f"; it wrote: {self._last}" if self._last else ""
        )
        do = f"{hint + '; ' if hint else ''}run the same command again: finished batches are on disk"
        return WorkFailed(what, where="generation.engines", do=do)

    def start_again(self) -> None:
        """Start it again after a death, for the same task and batch."""
        self._start()
        self._send("open", self.asked, self._task)

    def hang_up(self) -> None:
        """Close the connection: it ends when it is idle."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def stop(self, seconds: float) -> None:
        """Wait for its end, so long; then kill it, and in any case everything that it has started."""
        process, self.process = self.process, None
        self.hang_up()
        self.opened = 0
        if process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._log is not None:
            self._last = _end_of(self._log)
            self._log.close()

    def _start(self) -> None:
        ours, theirs = Pipe()
        # Its own messages would be mixed with those of the others; the last lines are shown if it dies.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process
        # -P: python -m would put the working directory in front of the module path.
        command = [sys.executable, "-P", "-m", "selfsteer.runs.worker", str(theirs.fileno())]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, pass_fds=[theirs.fileno()],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path), **self._environment},
        )  # fmt: skip
        theirs.close()
        self.connection = ours
        self._send("setup", self._make)

    def _send(self, *message: Any) -> None:
        assert self.connection is not None
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead, which the next receive says
            self.connection.send(message)


def _end_of(log: IO[bytes]) -> str:
    """Return the last lines of what a worker wrote, in one line."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - 4 * _SHOWN))
    text = log.read().decode(errors="replace").strip()
    return escape_controls(" / ".join(line.strip() for line in text.splitlines())[-_SHOWN:])


def _stop(workers: Sequence[_Worker], polite: bool = False) -> None:
    """End workers: idle ones that were hung up on by themselves, others by SIGTERM, at the latest by SIGKILL."""
    for worker in workers:
        if worker.process is not None and not polite:
            worker.process.terminate()
        worker.hang_up()
        worker.batch = None
    until = time.monotonic() + (_CLOSE_SECONDS if polite else _STOP_SECONDS)
    for worker in workers:
        worker.stop(max(0.0, until - time.monotonic()))
