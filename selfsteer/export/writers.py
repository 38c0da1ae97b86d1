"""Writes any number of rows as JSON lines, one JSON list or Parquet, a few rows in memory at a time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfsteer.errors import DataError

SHARD_ROWS = 20_000
"""Rows in a file of a folder: with token ids a few hundred MB."""
_BATCH = 256
_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "\u0085\u2028\u2029"}

Row = dict[str, Any]


def write_shards(folder: Path, suffix: str, rows: Iterable[Row], schema: pa.Schema | None) -> list[Path]:
    """Write rows to ``train-00000`` and so on, each of at most :data:`SHARD_ROWS`. Returns the files."""
    folder.mkdir(parents=True)
    paths = []
    for number, shard in enumerate(_cut(rows, SHARD_ROWS)):
        paths.append(folder / f"train-{number:05d}{suffix}")
        WRITERS[suffix](paths[-1], shard, schema)
    return paths


def _lines(path: Path, rows: Iterable[Row], schema: pa.Schema | None) -> None:
    with path.open("wb") as stream:
        stream.writelines(_json(row) + b"\n" for row in rows)


def _array(path: Path, rows: Iterable[Row], schema: pa.Schema | None) -> None:
    with path.open("wb") as stream:
        stream.write(b"[")
        separators = itertools.chain([b"\n"], itertools.repeat(b",\n"))
        stream.writelines(next(separators) + _json(row) for row in rows)
        stream.write(b"\n]\n")


def _parquet(path: Path, rows: Iterable[Row], schema: pa.Schema | None) -> None:
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for batch in _cut(rows, _BATCH):
            writer.write_table(pa.Table.from_pylist(list(batch), schema=schema))


def _json(row: Row) -> bytes:
    """Encode a row on one line; characters that some readers treat as line breaks are escaped."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).translate(_UNSAFE).encode()
    except ValueError as error:
        what, do = (
            "a figure of a row is NaN or infinite, which JSON can't hold",
            "export to .parquet, or make the row again",
        )
        raise DataError(what, where=f"row {row.get('id', '')!r}", do=do) from error


def _cut(rows: Iterable[Row], size: int) -> Iterator[Iterator[Row]]:
    """Cut a stream into streams of ``size``; each must be consumed before the next."""
    source = iter(rows)
    for first in source:
        yield itertools.chain([first], itertools.islice(source, size - 1))


# Not atomic: the caller writes under a temporary name and renames.
WRITERS: dict[str, Callable[[Path, Iterable[Row], pa.Schema | None], None]] = {
    ".jsonl": _lines,
    ".json": _array,
    ".parquet": _parquet,
}
