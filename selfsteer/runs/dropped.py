"""What a stage leaves out as it reads a source: each with its reason in a file, the first ones named in the ledger."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from selfsteer.files import atomic_path
from selfsteer.queries import Fault
from selfsteer.queries.tally import Reason, Tally, check_share, in_words
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.results import DroppedRows
from selfsteer.runs.shards import NAMED
from selfsteer.runs.store import Workspace


class DroppedFile:
    """Writes a line for each that is left out, and counts.

    Attributes:
        first: The first ones, as the ledger and the report name them.
        tally: All rows of the source, counted by its reader, and those that can't be used.
    """

    def __init__(self, file: IO[str], name: str) -> None:
        self._file, self._name = file, name
        self.tally = Tally()
        self.first: list[dict[str, str]] = []
        self.faults: Counter[str] = Counter()
        self._hits: Counter[str] = Counter()
        self._count = 0

    def drop(self, where: str, reason: str, found: Mapping[str, str] | None = None) -> None:
        """Note one: where it is, why it is left out, and what else is known of that, by name."""
        line = {"where": where, "reason": reason}
        self._file.write(json.dumps(line | dict(found or {}), ensure_ascii=True) + "\n")
        self._count += 1
        self.first += [line] if len(self.first) < NAMED else []

    def unusable(self, where: str, reason: str, do: str = "") -> None:
        """Note a row that can't be used whatever the checks are."""
        self.tally.add(where, reason, do)
        self.drop(where, reason)

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
    def rows(self) -> DroppedRows:
        """What the ledger keeps."""
        return DroppedRows(
            left_out=self._count, dropped=self.first, list=self._name, faults=dict(self.faults),
            contaminated=dict(self._hits), **self.tally.info,
        )  # fmt: skip


@contextmanager
def dropping(space: Workspace) -> Iterator[DroppedFile]:
    """Open the file of what a stage leaves out; it appears when the stage is through with its source."""
    whole = space.path("left-out.jsonl")
    with atomic_path(whole) as path, path.open("w", encoding="utf-8") as file:
        yield DroppedFile(file, str(whole.relative_to(space.run_dir)))


def dropped_note(record: StageRecord) -> str:
    """Return what the display adds about what a stage left out: how many, by which checks, the most frequent reason of
    rows that can't be used, and the file that lists them; "" where it left nothing out.
    """
    rows = DroppedRows.of(record)
    if not rows.left_out:
        return ""
    told = [f"{check} {count}" for check, count in (rows.faults or {}).items()]
    told += [in_words([Reason(*one) for one in rows.reasons[:1]])] if rows.reasons else []
    place = f"; see {rows.list}" if rows.list else ""
    return f", {rows.left_out} left out" + (f" ({', '.join(told)}{place})" if told or place else "")


def check_dropped_share(rows: DroppedRows, what: str, where: str, most: float, asked: int | None = None) -> None:
    """Raise :class:`DataError` where a stage, finished now or earlier, had to leave out too many rows.

    Args:
        what: What a row should have given, e.g. "query".
        asked: How many rows there were, where the stage does not say so.
    """
    if rows.unusable:
        counts = rows.info if asked is None else {**rows.info, "rows": asked}
        check_share(counts, what, where, most=most, key="queries.max_left_out")
