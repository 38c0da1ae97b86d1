"""The folder through which a job's processes and the process that started them talk; it goes when the job ends.

events.jsonl has what the first process shows, rank-N.json each process's last sign of life, error-N.json what it failed
with; a file ``stop`` asks all of them to save a checkpoint and end.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsteer import errors
from selfsteer.errors import SelfsteerError, SelfsteerWarning, WorkFailed
from selfsteer.files import append_json, atomic_path, read_json, write_json
from selfsteer.jobs.ranks import is_main, local_rank, node_rank, rank
from selfsteer.runs.progress import Display

_STOP, _EVENTS = "stop", "events.jsonl"


@dataclass(frozen=True)
class SignOfLife:
    """What one process last said of itself: micro-batches done, its process id, whether it runs here, and when."""

    rank: int
    done: int
    pid: int
    here: bool
    seconds_ago: float


class JobDisplay(Display):
    """The display of a job's process: the first writes what it would show for the process that started the job."""

    def __init__(self, folder: Path) -> None:
        super().__init__(quiet=True)
        self._folder, self._alive = folder, 0
        self.alive(0)

    def say(self, text: str) -> None:
        """Have a line printed."""
        self._send(say=text)

    def advance(self, units: float = 1) -> None:
        """Have progress shown."""
        self._send(advance=units)

    def figures(self, text: str) -> None:
        """Have the latest figures shown."""
        self._send(figures=text)

    def warn(self, text: str) -> None:
        """Have a warning shown."""
        self._send(warn=text)

    def alive(self, done: int = 1) -> None:
        """Note that this process goes on: ``done`` more micro-batches."""
        self._alive += done
        said = {"done": self._alive, "pid": os.getpid(), "node": node_rank(), "local": local_rank()}
        with atomic_path(self._folder / f"rank-{rank()}.json", sync=False) as path:
            path.write_text(json.dumps(said), encoding="utf-8")

    @property
    def stop_asked(self) -> bool:
        """Whether the process that started the job wants it to save a checkpoint and end."""
        return (self._folder / _STOP).exists()

    def failed(self, error: Exception, where: str = "") -> None:
        """Note what this process ends with; ``where`` is the traceback's file of an unexpected error."""
        own = isinstance(error, SelfsteerError)
        what = {name: getattr(error, name) for name in ("what", "where", "do")} if own else {
            "what": f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}", "where": where,
            "do": "finished work is kept; please report this with that file",
        }  # fmt: skip
        kind = type(error).__name__ if own else WorkFailed.__name__
        write_json(self._folder / f"error-{rank()}.json", {"type": kind, "expected": own, "time": time.time(), **what})

    def _send(self, **event: Any) -> None:
        if is_main():
            append_json(self._folder / _EVENTS, event, sync=False)


class Scratch:
    """The same folder as the process that started the job sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._read = folder, 0
        folder.mkdir(parents=True)

    def stop(self) -> None:
        """Ask the processes to save a checkpoint and end."""
        (self.folder / _STOP).touch()

    def show(self, display: Display) -> None:
        """Show what is new."""
        path = self.folder / _EVENTS
        if not path.exists():
            return
        with path.open("rb") as stream:
            stream.seek(self._read)
            lines = stream.readlines()
        for line in lines:
            if not line.endswith(b"\n"):  # the rest is being written
                break
            self._read += len(line)
            match json.loads(line):
                case {"say": text}:
                    display.say(text)
                case {"advance": units}:
                    display.advance(units)
                case {"figures": text}:
                    display.figures(text)
                case {"warn": text}:
                    warnings.warn(text, SelfsteerWarning, stacklevel=2)

    def signs(self) -> list[SignOfLife]:
        """Return the last sign of life of each process that has given one, in their order."""
        found = []
        for path in self.folder.glob("rank-*.json"):
            said = read_json(path)
            if said:
                own = int(path.stem.removeprefix("rank-"))
                age = time.time() - path.stat().st_mtime
                found.append(SignOfLife(own, said["done"], said["pid"], said["node"] == node_rank(), age))
        return sorted(found, key=lambda sign: sign.rank)

    def failures(self) -> Iterator[tuple[bool, SelfsteerError]]:
        """Yield what processes failed with, the first first, and whether the package raises it on purpose."""
        said = filter(None, map(read_json, self.folder.glob("error-*.json")))
        for one in sorted(said, key=lambda failure: (not failure["expected"], failure["time"])):
            kind = getattr(errors, one["type"])
            yield one["expected"], kind(one["what"], where=one["where"], do=one["do"])
