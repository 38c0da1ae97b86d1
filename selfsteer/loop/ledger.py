"""The run directory's memory: which stage was finished with which key, and what it left behind (DESIGN 4.4)."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selfsteer.files import append_json, read_json_lines


@dataclasses.dataclass(frozen=True)
class Entry:
    """One finished stage. ``files`` are relative to the run directory; ``info`` is what later stages and reports need.

    ``key`` names everything the stage depends on, so a second run with the same key finds it done.
    """

    stage: str
    round: int
    key: str
    files: list[str]
    seconds: float
    info: dict[str, Any]
    finished: str = ""


_FIELDS = {field.name for field in dataclasses.fields(Entry)}


class Ledger:
    """RUN/ledger.jsonl: append-only; a torn last line (a crash while writing) is passed over."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.path = run_dir / "ledger.jsonl"

    def find(self, stage: str, round: int, key: str) -> Entry | None:
        """Return the newest entry of that stage with that key whose files are all there."""
        for values in reversed(read_json_lines(self.path)):
            if (values.get("stage"), values.get("round"), values.get("key")) == (stage, round, key):
                entry = Entry(**{name: values[name] for name in values if name in _FIELDS})
                if all((self.run_dir / name).exists() for name in entry.files):
                    return entry
        return None

    def add(self, entry: Entry) -> Entry:
        """Record a stage as finished; call it after its files are in place."""
        stamped = dataclasses.replace(entry, finished=datetime.now(UTC).isoformat(timespec="seconds"))
        append_json(self.path, dataclasses.asdict(stamped))
        return stamped
