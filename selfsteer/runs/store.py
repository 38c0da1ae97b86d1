"""Stages on disk: a key for what each depends on, a workspace to write in, a ledger line at the end."""

from __future__ import annotations

import dataclasses
import glob
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from selfsteer.errors import SelfsteerError, StorageError, WorkFailed
from selfsteer.files import clone, fingerprint, is_inside, open_regular, remove, remove_torn, storage_errors
from selfsteer.records import Contrast, Query, Response, SteeredQuery, read_rows
from selfsteer.runs.events import Callback, StageEvent, notify
from selfsteer.runs.ledger import Ledger, StageRecord
from selfsteer.runs.pipeline import GENERATOR, Split, stage
from selfsteer.runs.progress import Display
from selfsteer.runs.results import StageResult

Item = TypeVar("Item")
Row = TypeVar("Row", Query, SteeredQuery, Response, Contrast)

StageKey = tuple[str, int, str]
"""A stage by its name, its round and its key."""

_WRITTEN_BY_OTHERS = ("report.html", "signal.json")
"""`selfsteer report` and `evaluate signal` write these while a run may be going on."""

_LONG = 4096
"""Characters of a dependency from which on the ledger keeps its fingerprint in its place."""


def stage_key(name: str, depends: dict[str, Any]) -> str:
    """Return the name of everything that a stage's result depends on."""
    return fingerprint([name, stage(name).version, depends])


def recorded_dependencies(name: str, depends: dict[str, Any]) -> dict[str, Any]:
    """Return what the ledger keeps of it: plain JSON (of a long value its fingerprint), the version of the code too."""
    texts = {key: json.dumps(value, default=str) for key, value in depends.items()}
    plain = {key: json.loads(text) if len(text) < _LONG else fingerprint(depends[key]) for key, text in texts.items()}
    return {"version": stage(name).version, **plain}


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


StageFunction = Callable[[Workspace], tuple[list[Path], StageResult]]


@dataclass(frozen=True)
class StageSpec:
    """A stage that is asked for; the fields are the arguments of :meth:`Store.get_or_compute`."""

    name: str
    round: int
    depends: dict[str, Any]
    work: StageFunction
    folder: str
    units: float
    title: str
    note: Callable[[StageRecord], str]

    @cached_property
    def key(self) -> str:
        """The name of everything that its result depends on."""
        return stage_key(self.name, self.depends)

    @property
    def claim(self) -> StageKey:
        """The stage by its name, its round and its key."""
        return self.name, self.round, self.key


class Store:
    """The run directory: stages by key, and the one process that may write to it.

    Args:
        sweep_dir: The folder of a sweep, whose runs take finished stages from each other.
    """

    computes = True
    """Whether it does what is not done yet; a dry run's store only looks."""

    def __init__(
        self, run_dir: Path, display: Display, callbacks: Sequence[Callback] = (), sweep_dir: Path | None = None
    ) -> None:
        self.run_dir, self.display, self.sweep_dir, self._callbacks = run_dir, display, sweep_dir, tuple(callbacks)
        self.ledger = Ledger(run_dir)
        self._siblings: dict[Path, Ledger] = {}
        self.stages: list[dict[str, Any]] = []
        self.claims: list[StageKey] = []
        """The stages that were asked for, one that failed included."""
        self._written = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run directory; a second process gets a :class:`WorkFailed`.

        Removes what killed processes were writing in the folders of stages, whatever the key.
        """
        with locked(self.run_dir, "run directory"):
            for path in list(self.run_dir.rglob(".*.tmp")):
                folders = path.relative_to(self.run_dir).parts[:-1]
                # A report is written in its own .part folder, without this lock; above it, locked() has removed them.
                if folders and not folders[0].endswith(".part"):
                    remove(path)
            yield

    def get_or_compute(
        self,
        name: str,
        round: int,
        depends: dict[str, Any],
        work: StageFunction,
        *,
        units: float,
        split: Split = "train",
        part: str = "",
        title: str = "",
        folder: str | None = None,
        note: Callable[[StageRecord], str] = lambda record: "",
    ) -> StageRecord:
        """Return a stage's record: find it done, or do it and record it.

        Args:
            depends: Everything that its result depends on; the stage's key is made of it.
            work: Does it: writes into the workspace, and returns the files and what the ledger keeps.
            units: How many steps its progress will count.
            part: Which of several alike it is.
            title, folder: In place of those that follow from name, split and round.
            note: What the display adds about a finished one.
        """
        line = stage(name)
        full = f"{GENERATOR if split == 'generator' else ''}{name}{part and f':{part}'}"
        place, called = folder or line.place(split, round), line.titled(split, round, title)
        asked = StageSpec(full, round, depends, work, place, units, called, note)
        self.claims.append(asked.claim)
        return self._settle(asked)

    def note(self, name: str, round: int, depends: dict[str, Any], info: dict[str, Any]) -> None:
        """Keep what was found out without a file in the ledger, unless its newest line of that round says the same."""
        entry = StageRecord(
            name, round, stage_key(name, depends), [], 0.0, info, depends=recorded_dependencies(name, depends)
        )
        newest = self.ledger.newest(entry.slot)
        if newest is None or (newest.key, newest.info) != (entry.key, entry.info):
            self.ledger.add(entry)

    def _settle(self, asked: StageSpec) -> StageRecord:
        """Find a stage done here, else take it from a sibling, else do it.

        The newest ledger line of a stage says which of several results is active. So a result of an earlier setting
        that is found done gets its line again, and from then on every later stage does: in the ledger, the results in
        results are in the order of the pipeline.
        """
        found = self.ledger.find(*asked.claim)
        entry = found or self._take(asked) or self._do(asked)
        if found is None:
            self._written = True
        elif self._written or not self.ledger.is_newest(found):
            self.ledger.repeat(found)
            self._written = True
        taken_from = "" if found else entry.taken_from
        reused = bool(found or taken_from)
        self.display.finish(asked.title, reused=reused, note=asked.note(entry), taken_from=taken_from)
        done = {"round": asked.round, "stage": asked.title, "seconds": entry.seconds, "reused": reused}
        self.stages.append(done | ({"taken_from": entry.taken_from} if entry.taken_from else {}))
        event = StageEvent("end", asked.name, asked.round, asked.title, entry.info, entry.files, reused)
        notify(self._callbacks, event)
        return entry

    def sibling(self, claim: StageKey) -> tuple[Path, StageRecord] | None:
        """Return a run of the same sweep that has done a stage, and its ledger's entry."""
        for ledger in self.sibling_ledgers():
            if entry := ledger.find(*claim):
                other = ledger.run_dir
                return other, dataclasses.replace(entry, taken_from=entry.taken_from or other.name)
        return None

    def sibling_ledgers(self) -> list[Ledger]:
        """Return the ledgers of the other runs of the same sweep."""
        folders = sorted(path.parent for path in self.sweep_dir.glob("*/ledger.jsonl")) if self.sweep_dir else []
        return [self._siblings.setdefault(other, Ledger(other)) for other in folders if other != self.run_dir]

    def _take(self, asked: StageSpec) -> StageRecord | None:
        """Take a stage from a sibling, as a whole and in place of what was begun here; None where none has it."""
        found = self.sibling(asked.claim)
        if found is None:
            return None
        folder = self.run_dir / asked.folder
        for path in _of_key(folder, asked.key):
            remove(path)
        try:
            for path in _of_key(found[0] / asked.folder, asked.key):
                passing = path.name.startswith((".", "checkpoints-")) or path.suffix == ".pieces"
                if not passing:  # it serves only a stage that is still at work
                    clone(path, folder / path.name)
        except FileNotFoundError:  # the sibling was removed at this moment
            return None
        return None if self.ledger.gone(found[1]) else self.ledger.add(found[1])

    def _do(self, asked: StageSpec) -> StageRecord:
        self.display.begin(asked.title, asked.units)
        notify(self._callbacks, StageEvent("begin", asked.name, asked.round, asked.title, {}, []))
        started = time.monotonic()
        space = self.workspace(asked.folder, asked.key)
        space.sweep()
        # Folders of a finished stage that has lost a file since would be taken for whole; only names with its key.
        for entry in self.ledger.entries():
            if entry.claim == asked.claim:
                for path in self.files(entry):
                    if path.is_dir() and entry.key in path.name:
                        remove(path)
        files, result = asked.work(space)
        seconds = round(time.monotonic() - started, 1)
        names = [str(file.relative_to(self.run_dir)) for result in files for file in _with_contents(result)]
        depends = recorded_dependencies(asked.name, asked.depends)
        return self.ledger.add(
            StageRecord(asked.name, asked.round, asked.key, names, seconds, result.info, depends=depends)
        )

    def workspace(self, folder: str, key: str) -> Workspace:
        """Return where a stage with that key works; ``folder`` is relative to the run directory.

        Raises :class:`StorageError` where a symbolic link in the run directory, which may be someone else's, leads out.
        """
        if not is_inside(self.run_dir, folder):
            do = "replace the symbolic link by a folder of its own"
            raise StorageError("this folder is outside of the run directory", where=str(self.run_dir / folder), do=do)
        return Workspace(self.run_dir, folder, key, self.display)

    def files(self, entry: StageRecord) -> list[Path]:
        """Return the files that a stage wrote, one a block."""
        return [self.run_dir / name for name in entry.files]

    def read(self, entry: StageRecord, kind: type[Row]) -> list[Row]:
        """Return all rows that a stage wrote: for held-out rows and other small numbers."""
        return list(read_rows(self.files(entry), kind))


@contextmanager
def locked(folder: Path, what: str, option: str = "--run-dir", wait: float = 0) -> Iterator[None]:
    """Hold a folder; a second process gets, after ``wait`` seconds, a :class:`WorkFailed`.

    That error calls the folder ``what`` and names its option.

    Removes what a killed process was writing in it; in the folders of stages their workspaces do so.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=wait)
        except Timeout as error:
            raise WorkFailed(
                f"another process works in this {what}",
                where=str(folder),
                do=f"wait for it, stop it, or choose another {option}",
            ) from error
    try:
        remove_torn(folder, spare=_WRITTEN_BY_OTHERS)
        yield
    except Exception as error:
        if not isinstance(error, SelfsteerError):
            error.add_note(_log_traceback(folder, error))
        raise
    finally:
        lock.release()


_EARLIER = "earlier"


@contextmanager
def output_folder(output: Path, option: str = "--output", wait: float = 0) -> Iterator[Path]:
    """Hold ``.NAME.part`` beside an output without a lock of its own, for what is not finished; it goes at the end.

    What a killed process left in it, or beside it by an earlier version, is removed, and an earlier output that it had
    moved there (:func:`make_way`) comes back, as it does after a failure.

    Args:
        output: A file or folder that the user named, or a file of a run directory that is written without its lock.
        option: How the user named it.
        wait: Seconds to wait for another process that writes it.

    Raises:
        WorkFailed: Another process is writing that output.
    """
    part = output.with_name(f".{output.name}.part")
    if part.is_symlink():  # in a run directory from elsewhere it could lead to anything
        part.unlink()
    with locked(part, "output", option, wait):
        _put_back(part, output)
        for left in output.parent.glob(f".{glob.escape(output.name)}.????????.tmp"):
            remove(left)
        try:
            yield part
        except BaseException as error:
            _put_back(part, output)
            if isinstance(error, SelfsteerError) or not isinstance(error, Exception):  # of others it keeps the log
                remove(part)
            raise
        remove(part)


def restore_output(output: Path) -> None:
    """Bring back the earlier output where a process was killed while it replaced it, and remove what it left."""
    if output.with_name(f".{output.name}.part").is_dir():
        with output_folder(output):
            pass


def make_way(output: Path, part: Path) -> None:
    """Move an earlier output, if there is one, into its :func:`output_folder`."""
    if output.exists():
        output.rename(part / _EARLIER)


def _put_back(part: Path, output: Path) -> None:
    earlier = part / _EARLIER
    if earlier.exists() and not output.exists():
        earlier.rename(output)
    remove(earlier)


def _log_traceback(folder: Path, error: Exception) -> str:
    """Append the traceback of an unexpected error to the folder's log, and return where it is."""
    log = folder / "errors.log"
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    text = f"{stamp}\n{''.join(traceback.format_exception(error))}\n"
    try:
        with open_regular(log, "ab") as stream:
            stream.write(text.encode(errors="backslashreplace"))
    except OSError:  # a full disk, perhaps the very error
        return "its traceback could not be written to the run directory"
    return f"the traceback is in {log}"


def _of_key(folder: Path, key: str) -> list[Path]:
    """Return everything in a stage's folder that carries its key."""
    return sorted(folder.glob(f"*{key}*")) if folder.is_dir() else []


def _with_contents(path: Path) -> list[Path]:
    """Return a file, or a folder and the files in it that whoever loads it may need."""
    inside = sorted(path.rglob("*")) if path.is_dir() else []
    return [path, *(file for file in inside if file.is_file() and file.name != "README.md")]


def in_batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Cut a sequence into batches of ``size``; the last may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]
