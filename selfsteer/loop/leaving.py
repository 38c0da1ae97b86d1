"""What a stage leaves out as it reads a source: each with its reason in a file, the first ones named in the ledger."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from selfsteer.files import atomic_path
from selfsteer.loop.blocks import NAMED
from selfsteer.loop.store import Workspace
from selfsteer.queries import Fault


class LeftOutFile:
    """Writes a line for each that is left out, and counts.

    Attributes:
        first: The first ones, as the ledger and the report name them.
        faults: How many each check took.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.first: list[dict[str, str]] = []
        self.faults: Counter[str] = Counter()
        self._hits: Counter[str] = Counter()
        self._count = 0

    def drop(self, where: str, reason: str, found: Mapping[str, str] | None = None) -> None:
        """Note one: where it stands, why it is left out, and what else is known of that, by name."""
        line = {"where": where, "reason": reason}
        self._file.write(json.dumps(line | dict(found or {}), ensure_ascii=True) + "\n")
        self._count += 1
        self.first += [line] if len(self.first) < NAMED else []

    def fault(self, where: str, fault: Fault) -> None:
        """Note one that a check takes."""
        self.faults[fault.check] += 1
        if fault.check == "contaminated":
            self._hits[fault.found["benchmark"]] += 1
        self.drop(where, fault.reason, {"check": fault.check} | fault.found)

    @property
    def counts(self) -> str:
        """How many each check took, in words; "" where none took any."""
        return ", ".join(f"{check} {count}" for check, count in self.faults.most_common())

    @property
    def info(self) -> dict[str, Any]:
        """What the ledger keeps."""
        checked = {"faults": dict(self.faults), "contaminated": dict(self._hits)}
        return checked | {"left_out": self._count, "dropped": self.first}


@contextmanager
def leaving(space: Workspace) -> Iterator[LeftOutFile]:
    """Open the file of what a stage leaves out; it appears when the stage is through with its source."""
    with atomic_path(space.path("left-out.jsonl")) as path, path.open("w", encoding="utf-8") as file:
        yield LeftOutFile(file)


def left_out_note(info: Mapping[str, Any]) -> str:
    """Return what the display adds about a stage's :attr:`LeftOutFile.info`: ", 3 left out (too_short 2)"."""
    if not info["left_out"]:
        return ""
    faults = ", ".join(f"{check} {count}" for check, count in info["faults"].items())
    return f", {info['left_out']} left out" + (f" ({faults})" if faults else "")
