"""Where rows come from: one reader per file format, and the hub.

A reader yields (where, row) and holds a line, a record or a few hundred rows at a time; only .json is read whole.
Closing it closes its file.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfsteer.errors import DataError

Rows = Iterator[tuple[str, Any]]
"""Pairs of "file:line" (or "file: row N") and the row that stands there."""

_BOM = b"\xef\xbb\xbf"
_PIECE = 2**20  # bytes of a Parquet column that are read at once
_MAX_CELL = 2**31 - 1  # the csv module's own limit, 131,072 characters, is shorter than some queries


def format_of(path: Path) -> str:
    """Return the key of :data:`READERS` for a file, "" where there is none; .gz goes with the text formats only."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in READERS and not (suffix == ".parquet" and name.endswith(".gz")) else ""


def read_file(path: Path) -> Rows:
    """Yield the rows of one file.

    Raises:
        DataError: The format is unknown, the file can't be read, or a row is malformed.
    """
    suffix = format_of(path)
    if not suffix:
        supported = ", ".join(READERS)
        raise DataError(
            f"can't tell the format of {path.name!r}",
            where=str(path),
            do=f"use one of {supported} (.gz after a text format)",
        )
    yield from READERS[suffix](path)


def read_hub(name: str, split: str, key: str = "dataset_split") -> Rows:
    """Yield the rows of a hub data set ``org/name`` or ``org/name:config`` (memory-mapped, kept in the hub's cache).

    Args:
        name: Of the data set.
        split: Of the data set.
        key: The setting or option that names the split, for messages.

    Raises:
        DataError: It can't be reached, or has no such configuration or split.
    """
    import datasets

    path, _, config = name.partition(":")
    try:
        rows = datasets.load_dataset(path, config or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        shipped = ", or builtin:quickstart" if key.startswith("queries.") else ""
        raise DataError(
            f"can't load the data set {name!r}: {reason}",
            where=f"hub data set {name}, split {split!r}",
            do="no local file or folder has that name either; check the name (org/name or org/name:config), the split "
            f"({key}) and the network; without network give a file{shipped}",
        ) from error
    for number, row in enumerate(rows, 1):
        yield f"{name}: row {number}", row


def _jsonl(path: Path) -> Rows:
    for number, line in _lines(path):
        if line.strip():
            yield f"{path}:{number}", _json(line.rstrip(), path, number)


def _txt(path: Path) -> Rows:
    for number, line in _lines(path):
        yield f"{path}:{number}", line.removesuffix("\n").removesuffix("\r")


def _json_file(path: Path) -> Rows:
    """Parse a whole file, which needs several times its size of memory; millions of rows belong into a .jsonl file."""
    text = "".join(line for _, line in _lines(path))
    data = _json(text, path, 1) if text.strip() else []
    rows = data.get("data") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        held = f"an object with the keys {', '.join(data)}" if isinstance(data, dict) else "no list"
        raise DataError(
            f"the file holds {held}, expected a list of rows",
            where=str(path),
            do='write [row, ...] or {"data": [row, ...]}; one object per line belongs into a .jsonl file',
        )
    for number, row in enumerate(rows, 1):
        yield f"{path}: row {number}", row


def _parquet(path: Path) -> Rows:
    number = 0
    # else pyarrow reads a whole row group ahead, which in some files is the whole file
    with reading(path), pq.ParquetFile(path, pre_buffer=False, buffer_size=_PIECE) as file:
        for batch in file.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row


def _delimited(delimiter: str) -> Callable[[Path], Rows]:
    def read(path: Path) -> Rows:
        csv.field_size_limit(max(csv.field_size_limit(), _MAX_CELL))
        reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        for number, cells in _records(reader, path):
            if header is None:
                header = _header(cells, f"{path}:{number}")
            elif len(cells) != len(header):
                raise _ragged(f"{path}:{number}", len(cells), header, delimiter)
            else:
                yield f"{path}:{number}", dict(zip(header, cells, strict=True))

    return read


def _header(cells: list[str], where: str) -> list[str]:
    twice = sorted({cell for cell in cells if cells.count(cell) > 1})
    if twice:
        raise DataError(f"the header names {twice[0]!r} twice", where=where, do="rename one of the columns")
    return cells


def _records(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, and its cells; blank lines are passed over."""
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"malformed record: {error}",
                where=f"{path}:{number}",
                do='put the cell in double quotes and write a quote inside it twice (""); is the last quote closed?',
            ) from error
        if cells is None:
            return
        if cells:
            yield number, cells


def _ragged(where: str, count: int, header: list[str], delimiter: str) -> DataError:
    name = "tab" if delimiter == "\t" else "comma"
    return DataError(
        f"{count} cells in this record, {len(header)} in the header ({', '.join(header)})",
        where=where,
        do=f"put a cell that holds a {name} in double quotes",
    )


def _json(text: str, path: Path, number: int) -> Any:
    """Parse JSON that starts on line ``number`` of a file."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = number + getattr(error, "lineno", 1) - 1
        reason = f"{error.msg} (column {error.colno})" if isinstance(error, json.JSONDecodeError) else str(error)
        rule = (
            "one JSON value per line" if format_of(path) == ".jsonl" else "one JSON list; one value per line is .jsonl"
        )
        raise DataError(
            f"not valid JSON: {reason}", where=f"{path}:{line}", do=f"correct that line; the file must hold {rule}"
        ) from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield numbered lines, each with its "\n": nothing else ends a line (texts hold U+2028 and the like)."""
    with reading(path), _open(path) as stream:
        for number, raw in enumerate(stream, 1):
            line = raw.removeprefix(_BOM) if number == 1 else raw
            if line:
                yield number, _decoded(line, f"{path}:{number}")


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not valid UTF-8: byte {raw[error.start]:#04x} at position {error.start} of the line",
            where=where,
            do="save the file as UTF-8, for example with iconv -f LATIN1 -t UTF-8",
        ) from error


def _open(path: Path) -> AbstractContextManager[Iterable[bytes]]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn "no permission", a torn archive and a damaged Parquet file into a :class:`DataError`."""
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"can't read the file: {reason}", where=str(path), do="check that it is complete and that you may read it"
        ) from error


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _jsonl,
    ".json": _json_file,
    ".parquet": _parquet,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".txt": _txt,
}
