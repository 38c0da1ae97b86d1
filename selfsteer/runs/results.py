"""What stages note in the ledger for later stages, the summary and the report, as types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from selfsteer.errors import InputError
from selfsteer.runs.ledger import StageRecord


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageResult:
    """Base of a stage's result: plain JSON values. A field that is None is not written."""

    @classmethod
    def of(cls, record: StageRecord) -> Self:
        """Return the result that a record of the ledger keeps; what other versions wrote beside it is ignored.

        Raises:
            InputError: The record lacks a value: the ledger was edited, or another version wrote it.
        """
        unset = (dataclasses.MISSING, dataclasses.MISSING)
        needed = [one.name for one in dataclasses.fields(cls) if (one.default, one.default_factory) == unset]
        if lacking := [name for name in needed if name not in record.info]:
            what = f"the line of stage {record.stage!r}, round {record.round}, lacks {', '.join(lacking)}"
            raise InputError(what, where="ledger.jsonl", do="remove that line: the stage is then done again")
        return cls.from_info(record.info)

    @classmethod
    def from_info(cls, info: Mapping[str, Any], **more: Any) -> Self:
        """Return a result of plain values, and of ``more`` by name."""
        own = {field.name: info[field.name] for field in dataclasses.fields(cls) if field.name in info}
        return cls(**own | more)

    @property
    def info(self) -> dict[str, Any]:
        """Return what the ledger keeps."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in own.items() if value is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DroppedRows(StageResult):
    """What a stage left out of its rows.

    Attributes:
        dropped: The first of them, each with where it is, why it was dropped and what to do.
        list: The file, or the pattern of files, that names all of them.
        reasons: The most frequent reasons of those: reason, what to do, how many, the first place.
        rows: How many rows the source has, where the stage reads one.
        faults: How many each check of queries took; ``contaminated``: by benchmark.
    """

    left_out: int = 0
    dropped: Sequence[dict[str, str]] = ()
    list: str | None = None
    unusable: int = 0
    reasons: Any = None
    rows: int | None = None
    faults: dict[str, int] | None = None
    contaminated: dict[str, int] | None = None
