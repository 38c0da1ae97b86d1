"""Row ranges of stored files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from selfsteer.records import count_rows


class RowRange(NamedTuple):
    """Some rows of a file: the file, which of its rows, and how many."""

    path: Path
    rows: slice
    size: int


def row_ranges(files: Sequence[Path], wanted: range) -> list[RowRange]:
    """Return where rows are, given their ascending positions over all files; a file without any is left out."""
    found = []
    offset = 0
    for path in files:
        count = count_rows(path)
        first = wanted.start + max(0, -(-(offset - wanted.start) // wanted.step)) * wanted.step
        own = range(first - offset, min(wanted.stop - offset, count), wanted.step)
        if own:
            found.append(RowRange(path, slice(own.start, own.stop, own.step), len(own)))
        offset += count
    return found
