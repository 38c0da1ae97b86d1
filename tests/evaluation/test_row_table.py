"""The figures of many rows, whose columns are on disk, are those of rows in memory."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfsteer.errors import StorageError
from selfsteer.evaluation import columns
from selfsteer.evaluation.row_table import RowTable, programs_of_kept
from selfsteer.evaluation.signal_quality import Implicit, Part, signal_quality
from selfsteer.judges import Answer, Judgement, Pair
from selfsteer.records import Contrast
from tests.chat_templates import user
from tests.example_rows import contrast, scores

ROWS = [
    contrast(
        f"r{7 * number % 23:02}" if number else "ä",
        positive_response="" if number == 5 else "One." * (number % 3 + 1),
        negative_response="One two.",
        aspects=["Wit", "Pace"][number % 2 :] if number % 5 else [],
        scores=scores((-0.1 * number, -0.5, -2.0), (-0.3, -1.0, -0.2)) if number % 4 else None,
        kept=number % 3 > 0,
    )
    for number in range(23)
]
JUDGEMENTS = {
    row.id: Judgement(Pair(row.id, user("x"), "a", "b"), Answer(1, log_odds=odds), Answer(-1, log_odds=0.5))
    for row, odds in zip(ROWS[::2], np.linspace(-2, 2, 12).tolist(), strict=True)
}


def figures() -> dict[str, Any]:
    start = Implicit(ROWS[:9], {row.id: len(row.id) - 0.1 * place for place, row in enumerate(ROWS[:8])}, "summed")
    part = Part(1, "round 1", ROWS, True, JUDGEMENTS, start)
    return signal_quality(part, program_of=program_of, judge="J")


def program_of(row: Contrast) -> str | None:
    return None if row.id == "r07" else "shorter" if row.aspects else "longer"


@pytest.mark.parametrize("rows", [2, 8, 10])
def test_columns_on_disk_give_the_same_figures(monkeypatch, rows):
    expected, table = figures(), RowTable.of(ROWS, program_of, JUDGEMENTS)
    monkeypatch.setattr(columns, "_BATCH", 2)
    monkeypatch.setattr(columns, "_IN_MEMORY", rows)
    assert figures() == expected
    stored = RowTable.of(ROWS, program_of, JUDGEMENTS)
    assert len(stored) == 23 and stored.in_order().tolist() == table.in_order().tolist()
    assert [ROWS[place].id for place in stored.in_order()] == sorted(row.id for row in ROWS)
    assert stored.column("kept").tolist() == [row.kept for row in ROWS]
    assert programs_of_kept([stored]) == {"shorter", "longer", None}


def test_a_full_temporary_folder_is_named(monkeypatch):
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(columns, "_BATCH", 2)
    monkeypatch.setattr(columns, "_IN_MEMORY", 4)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(StorageError, match="No space left") as error:
        RowTable.of(ROWS, program_of, {})
    assert Path(error.value.where) == Path(tempfile.gettempdir())
