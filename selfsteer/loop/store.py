"""Stages on disk: a key for what each depends on, batches planned once, one shard a batch, a ledger line at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from selfsteer.errors import WorkFailed
from selfsteer.files import fingerprint, remove, storage_errors
from selfsteer.loop.display import Display
from selfsteer.loop.events import Callback, StageEvent, tell
from selfsteer.loop.ledger import Entry, Ledger
from selfsteer.records import Contrast, Principled, Query, Response, read_rows, write_rows

Item = TypeVar("Item")
Row = TypeVar("Row", Query, Principled, Response, Contrast)

STAGE_VERSIONS = {
    "queries": 2,
    "sample": 1,
    "proposals": 1,
    "probe": 1,
    "principles": 3,
    "responses": 4,
    "scores": 4,
    "contrasts": 3,
    "preferences": 1,
    "generator": 1,
    "average": 1,
    "reference": 1,
    "policy": 2,
    "implicit": 2,
    "judgements": 1,
    "reward-data": 1,
    "reward": 1,
    "reward-scores": 1,
}
"""Raise a stage's number when its code would write something else from the same inputs: old results are then redone."""

_LONG = 4096
"""Characters of a dependency from which on the ledger keeps its fingerprint in its place."""


def stage_key(name: str, depends: dict[str, Any]) -> str:
    """Return the name of everything that a stage's result depends on."""
    return fingerprint([name, _version(name), depends])


def kept(name: str, depends: dict[str, Any]) -> dict[str, Any]:
    """Return what the ledger keeps of it: plain JSON (of a long value its fingerprint), the version of the code too."""
    texts = {key: json.dumps(value, default=str) for key, value in depends.items()}
    plain = {key: json.loads(text) if len(text) < _LONG else fingerprint(depends[key]) for key, text in texts.items()}
    return {"version": _version(name), **plain}


def _version(name: str) -> int:
    """Return the number of a stage's code; a generator's data are made by that of the policy's.

    What stands behind a colon says which of several alike it is.
    """
    return STAGE_VERSIONS[name.partition(":")[0].removeprefix("generator-")]


class Workspace:
    """Where one stage works: its folder, its key and the display.

    Everything that a stage writes carries its key in the name, so what another setting left behind stays untouched.
    """

    def __init__(self, run_dir: Path, folder: str, key: str, display: Display) -> None:
        self.run_dir, self.folder, self.key, self.display = run_dir, run_dir / folder, key, display

    def sweep(self) -> None:
        """Remove what a killed process was writing here; the run directory's lock is held, so none is at work."""
        for path in self.folder.rglob(f".*{self.key}*.tmp") if self.folder.is_dir() else []:
            remove(path)

    def path(self, suffix: str) -> Path:
        """Return the name of a file of this stage, e.g. ``path("00003.parquet")``."""
        return self.folder / f"{self.key}-{suffix}"

    def batches(
        self, kind: type[Row], plan: Sequence[Sequence[Item]], work: Callable[[int, Sequence[Item]], Sequence[Row]]
    ) -> list[Path]:
        """Do each planned batch that is not on disk yet, one shard a batch. Returns all shards.

        A shard appears whole or not at all, so a killed run repeats at most the batch it was in.
        """
        paths = [self.path(f"{number:05d}.parquet") for number in range(len(plan))]
        for number, (batch, path) in enumerate(zip(plan, paths, strict=True)):
            if not path.exists():
                write_rows(path, kind, work(number, batch))
            self.display.advance(len(batch))
        return paths


class Store:
    """The run directory: stages by key, and the one process that may write to it."""

    def __init__(self, run_dir: Path, display: Display, callbacks: Sequence[Callback] = ()) -> None:
        self.run_dir, self.display, self._callbacks = run_dir, display, tuple(callbacks)
        self.ledger = Ledger(run_dir)
        self.stages: list[dict[str, Any]] = []
        self._written = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run directory; a second process gets a :class:`WorkFailed`."""
        with storage_errors(self.run_dir):
            self.run_dir.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.run_dir / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise WorkFailed(
                    "another process works in this run directory",
                    where=str(self.run_dir),
                    do="wait for it, stop it, or choose another --run-dir",
                ) from error
        try:
            yield
        finally:
            lock.release()

    def stage(
        self,
        name: str,
        round_number: int,
        depends: dict[str, Any],
        work: Callable[[Workspace], tuple[list[Path], dict[str, Any]]],
        *,
        folder: str,
        units: float,
        title: str,
        note: Callable[[dict[str, Any]], str] = lambda info: "",
    ) -> Entry:
        """Find a stage done, or do it and record it. ``depends`` is everything that its result depends on.

        The newest ledger line of a stage tells which of several results is in force. So a result of an earlier setting
        that is found done gets its line again, and from then on every later stage does: in the ledger, the results in
        force stand in the order of the story.
        """
        key = stage_key(name, depends)
        entry = self.ledger.find(name, round_number, key)
        reused = entry is not None
        if entry is None:
            self.display.begin(title, units)
            tell(self._callbacks, StageEvent("begin", name, round_number, title, {}, []))
            started = time.monotonic()
            space = self.workspace(folder, key)
            space.sweep()
            files, info = work(space)
            seconds = round(time.monotonic() - started, 1)
            names = [str(file.relative_to(self.run_dir)) for file in files]
            entry = self.ledger.add(Entry(name, round_number, key, names, seconds, info, depends=kept(name, depends)))
            self._written = True
        elif self._written or not self.ledger.is_newest(entry):
            self.ledger.repeat(entry)
            self._written = True
        self.display.finish(title, reused=reused, note=note(entry.info))
        self.stages.append({"round": round_number, "stage": title, "seconds": entry.seconds, "reused": reused})
        tell(self._callbacks, StageEvent("end", name, round_number, title, entry.info, entry.files, reused))
        return entry

    def workspace(self, folder: str, key: str) -> Workspace:
        """Return where a stage with that key works; ``folder`` is relative to the run directory."""
        return Workspace(self.run_dir, folder, key, self.display)

    def files(self, entry: Entry) -> list[Path]:
        """Return the files that a stage wrote, one a block."""
        return [self.run_dir / name for name in entry.files]

    def read(self, entry: Entry, kind: type[Row]) -> list[Row]:
        """Return all rows that a stage wrote: for held-out rows and other small numbers."""
        return list(read_rows(self.files(entry), kind))


def in_batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Cut a sequence into batches of ``size``; the last may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]
