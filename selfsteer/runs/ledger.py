"""The run directory's memory: which stage was finished with which key, and what it left behind (DESIGN 4.4)."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from selfsteer.errors import ConfigError, SelfsteerWarning
from selfsteer.files import append_json, is_inside, read_json_lines


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """One finished stage. ``files`` are relative to the run directory; ``info`` is what later stages and reports need.

    Where it made a folder, ``files`` has that first, then what is in it.

    ``key`` names everything the stage depends on, so a second run with the same key finds it done. ``depends`` is that
    everything, so that a plan can say what has changed; None in ledgers of versions that kept the key alone.
    ``taken_from`` names the run of the same sweep that did the stage, "" where this one did.
    """

    stage: str
    round: int
    key: str
    files: list[str]
    seconds: float
    info: dict[str, Any]
    finished: str = ""
    depends: dict[str, Any] | None = None
    taken_from: str = ""

    @property
    def heldout(self) -> bool:
        """Whether the stage worked on held-out queries."""
        return any("/heldout/" in name for name in self.files)

    @property
    def claim(self) -> tuple[str, int, str]:
        """What the stage is found by: its name, its round and its key."""
        return self.stage, self.round, self.key

    @property
    def slot(self) -> Slot:
        """What the stage is, whatever its settings: of one slot the newest record is active."""
        return self.stage, self.round, self.heldout


Slot = tuple[str, int, bool]
"""Stage, round, whether held-out."""

VERDICT = "guards"
"""The stage of the entries that say what became of a round: they have no files."""

_FIELDS = {field.name for field in dataclasses.fields(StageRecord)}
_ENTRY = TypeAdapter(StageRecord)
_NEEDED = _FIELDS - {"finished", "depends", "taken_from"}
_OF_REWARD = {"reward-data", "reward", "reward-scores"}
"""Stages of `selfsteer reward`; all others are those of a run."""


class Ledger:
    """RUN/ledger.jsonl: append-only; a torn last line (a crash while writing) is passed over.

    A line counts only if its values have the types of :class:`StageRecord` and its files lie inside the run directory:
    what it names is read, linked to and removed, so a ledger from elsewhere must not reach anything outside.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.path = run_dir / "ledger.jsonl"
        self._stamp: tuple[int, int, int] | None = None
        self._entries: list[StageRecord] = []
        self._by_claim: dict[tuple[str, int, str], list[StageRecord]] = {}
        self._by_slot: dict[Slot, list[StageRecord]] = {}

    def find(self, stage: str, round: int, key: str) -> StageRecord | None:
        """Return the newest entry of that stage with that key whose files are all there."""
        self._read()
        found = reversed(self._by_claim.get((stage, round, key), []))
        return next((entry for entry in found if not self.gone(entry)), None)

    def entries(self) -> list[StageRecord]:
        """Return all entries, the oldest first, whether their files are there or not.

        Warns:
            SelfsteerWarning: A line does not validate; it is ignored.
        """
        self._read()
        return list(self._entries)

    def _read(self) -> None:
        """Read the file if it has changed: a walk asks for each stage, and of many rounds there are thousands."""
        try:
            state = self.path.stat()
            stamp = state.st_ino, state.st_size, state.st_mtime_ns
        except OSError:
            stamp = None
        if stamp is not None and stamp == self._stamp:
            return
        rows = [values for values in read_json_lines(self.path) if values.keys() >= _NEEDED]
        self._stamp, self._entries = stamp, [entry for entry in map(self._validated, rows) if entry]
        self._by_claim, self._by_slot = defaultdict(list), defaultdict(list)
        for entry in self._entries:
            self._by_claim[entry.claim].append(entry)
            self._by_slot[entry.slot].append(entry)

    def _validated(self, values: dict[str, Any]) -> StageRecord | None:
        """Return a line's entry, None (and a warning) where a value has another type or a file lies outside."""
        try:
            known = {name: values[name] for name in values if name in _FIELDS}
            entry = _ENTRY.validate_json(json.dumps(known), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            fault = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        else:
            outside = next((name for name in entry.files if not is_inside(self.run_dir, name)), None)
            if outside is None:
                return entry
            fault = f"its file {outside!r} is not inside the run directory"
        stage = str(values["stage"])[:80]
        what = f"{self.path}: the line of stage {stage!r} is ignored, so the stage counts as not done: {fault}"
        warnings.warn(what, SelfsteerWarning, stacklevel=2)
        return None

    def gone(self, entry: StageRecord) -> list[str]:
        """Return which files of an entry are not there any more."""
        return [name for name in entry.files if not (self.run_dir / name).exists()]

    def newest(self, slot: Slot) -> StageRecord | None:
        """Return the entry that was written last for a slot, whether its files are there or not."""
        self._read()
        found = self._by_slot.get(slot)
        return found[-1] if found else None

    def is_newest(self, entry: StageRecord) -> bool:
        """Return whether no other entry of the same slot was written after this one."""
        return self.newest(entry.slot) == entry

    def add(self, entry: StageRecord) -> StageRecord:
        """Record a stage as finished; call it after its files are in place."""
        stamped = dataclasses.replace(entry, finished=datetime.now(UTC).isoformat(timespec="seconds"))
        append_json(self.path, dataclasses.asdict(stamped))
        return stamped

    def repeat(self, entry: StageRecord) -> None:
        """Append an entry again, unchanged: its result is active again, after that of another setting."""
        append_json(self.path, dataclasses.asdict(entry))


def check_place(run_dir: Path, command: Literal["run", "reward", "sweep"]) -> None:
    """Raise :class:`ConfigError` where a directory is another command's, whose files would be mixed with this one's."""
    made = {entry.stage.partition(":")[0] for entry in Ledger(run_dir).entries()}
    others = {"reward" if stage in _OF_REWARD else "run" for stage in made} - {command}
    if not made and _is_sweep(run_dir):
        others = {"sweep"} - {command}
    if others:
        kind = "runs" if others == {"sweep"} else "a run"
        what = f"this directory holds {kind} of `selfsteer {others.pop()}`"
        raise ConfigError(what, where=str(run_dir), do="choose another --run-dir")


def _is_sweep(folder: Path) -> bool:
    """Return whether a sweep works, or worked, in a folder: its table comes last, its lock and its runs before that."""
    return (folder / "sweep.json").is_file() or (
        (folder / ".lock").is_file() and any(path.is_file() for path in folder.glob("*/ledger.jsonl"))
    )
