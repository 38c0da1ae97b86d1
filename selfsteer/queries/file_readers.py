"""Readers of rows: one per file format, and the hub.

A reader yields (where, row) and holds a line, a record or a few hundred rows at a time; only a .json list is read
whole. A row that can't be read is yielded as :class:`Unreadable`; a fault of the whole file is an error. Closing a
reader closes its file.
"""

from __future__ import annotations

import codecs
import csv
import errno
import gzip
import io
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfsteer.errors import DataError
from selfsteer.files import open_regular, parse_json

Rows = Iterator[tuple[str, Any]]
"""Pairs of "file:line" (or "file: row N") and the row at that place."""

METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files beside the data of `datasets` and of LLaMA-Factory that hold no rows."""


@dataclass(frozen=True)
class Unreadable:
    """A row, or a cell, that could not be read: why, and how to fix it."""

    reason: str
    do: str = ""

    def __str__(self) -> str:
        return f"({self.reason})"


_BATCH = 256
_HEAD = 2**16  # bytes by which encoding and line ends are detected
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by their byte order mark; that of UTF-32 begins with that of UTF-16."""

_BOM = codecs.BOM_UTF8
_PIECE = 2**20  # bytes of a Parquet column that are read at once
_MAX_LINE = 10_000_000  # bytes of a line, or characters of a cell: more is no row, and all of it would be in memory
_MAX_LIST = 1_000_000_000  # bytes of a line of a .json file, which may be the whole list
_MAX_RATIO, _ANY_RATIO = 100, 50_000_000  # text shrinks to a tenth; so many bytes may come of a .gz of any size


def format_of(path: Path) -> str:
    """Return the key of :data:`READERS` for a file, "" where it holds no rows; .gz goes with the text formats only."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    packed = name.endswith(".gz") and suffix in (".parquet", ".arrow")
    return suffix if suffix in READERS and not packed and name not in METADATA else ""


def read_file(path: Path) -> Rows:
    """Yield the rows of one file; :class:`DataError`: the format is unknown, or it can't be read as a whole."""
    if not (suffix := format_of(path)):
        do = f"use one of {', '.join(READERS)} (.gz after a text format)"
        raise DataError(f"can't tell the format of {path.name!r}", where=str(path), do=do)
    with reading(path):
        open_regular(path).close()  # a pipe or a device would be read without end
    yield from READERS[suffix](path)


def read_hub(name: str, split: str, key: str = "dataset_split") -> Rows:
    """Yield the rows of a hub data set ``org/name`` or ``org/name:config`` (memory-mapped, kept in the hub's cache).

    ``key`` is the setting or option that names the split, for messages. A data set that can't be reached, or without
    such a configuration or split, is a :class:`DataError`.
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
    # In any other format every feature would be decoded, images too.
    yield from _numbered(name, rows.with_format("arrow").iter(batch_size=_BATCH))


def _jsonl(path: Path) -> Rows:
    for number, line in _lines(path):
        if not line.isspace():
            yield f"{path}:{number}", _json_row(line)


def _json_row(line: str) -> Any:
    try:
        return parse_json(line.strip("\ufeff \t\r\n"))  # files with a byte order mark were joined
    except ValueError as error:
        do = "the file must hold one JSON value per line; correct that line"
        return Unreadable(f"not valid JSON: {_json_fault(error)}", do)


def _txt(path: Path) -> Rows:
    for number, line in _lines(path):
        if not line.isspace():
            yield f"{path}:{number}", line.removesuffix("\n").removesuffix("\r")


def _json_file(path: Path) -> Rows:
    """Yield the rows of a list, or of one value per line as ``Dataset.to_json`` writes them.

    A list is parsed as a whole, which needs several times its size of memory; millions of rows belong on lines.
    """
    head = list(itertools.islice((line for _, line in _lines(path, _MAX_LIST) if not line.isspace()), 2))
    whole = [not isinstance(_json_row(line), Unreadable) for line in head]
    # One value per line, or a list or an object over several lines: the first two lines differ in that.
    if len(head) == 2 and (whole[0] or (whole[1] and all(line.lstrip().startswith("{") for line in head))):
        yield from _jsonl(path)
        return
    text = "".join(line for _, line in _lines(path, _MAX_LIST))
    try:
        data = parse_json(text) if text.strip() else []
    except ValueError as error:
        what = f"not valid JSON: {_json_fault(error)}"
        do = "correct that line; the file must hold one JSON list, or one JSON value per line"
        raise DataError(what, where=f"{path}:{getattr(error, 'lineno', 1)}", do=do) from error
    rows = data["data"] if isinstance(data, dict) and isinstance(data.get("data"), list) else data
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        yield f"{path}: row {number}", row


def _parquet(path: Path) -> Rows:
    # With pre_buffer pyarrow reads a whole row group ahead, which in some files is the whole file.
    with reading(path), pq.ParquetFile(path, pre_buffer=False, buffer_size=_PIECE) as file:
        yield from _numbered(path, file.iter_batches(batch_size=_BATCH))


def _arrow(path: Path) -> Rows:
    """Yield the rows of an Arrow stream, as ``Dataset.save_to_disk`` writes it, or of an Arrow file."""
    with reading(path), pa.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = pa.ipc.open_file(source)
            batches = map(file.get_batch, range(file.num_record_batches))
        else:
            source.seek(0)
            batches = iter(pa.ipc.open_stream(source))
        yield from _numbered(
            path, (batch.slice(at, _BATCH) for batch in batches for at in range(0, batch.num_rows, _BATCH))
        )


def _numbered(source: Path | str, batches: Iterable[Any]) -> Rows:
    """Yield the rows of record batches; a cell that Python can't hold is :class:`Unreadable`."""
    number = 0
    for batch in batches:
        columns = []
        for column in batch.columns:
            try:
                columns.append(column.to_pylist())
            except UNHELD:
                columns.append(list(map(_value, column)))
        for cells in zip(*columns, strict=True):
            number += 1
            yield f"{source}: row {number}", dict(zip(batch.schema.names, cells, strict=True))


UNHELD = (ArithmeticError, LookupError, ValueError, TypeError, ImportError, NotImplementedError, pa.ArrowException)
"""Raised by pyarrow for a value that Python can't hold: a year beyond 9999, an unknown time zone, a torn text."""


def _value(cell: Any) -> Any:
    with suppress(*UNHELD):
        return cell.as_py()
    with suppress(*UNHELD):
        return cell.cast(pa.string()).as_py()
    return Unreadable(f"a value of type {cell.type} that Python can't hold")


def _delimited(delimiter: str) -> Callable[[Path], Rows]:
    def read(path: Path) -> Rows:
        csv.field_size_limit(_MAX_LINE)
        reader = csv.reader((line for _, line in _lines(path, table=True)), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        for lines, cells in _records(reader):
            where = f"{path}:{lines[0]}"
            if header is None:
                header = _header(cells, where)
            elif isinstance(cells, list) and len(cells) == len(header):
                yield where, dict(zip(header, cells, strict=True))
            else:  # a quote too many or too few may take in lines after it: each of them counts as left out
                if not isinstance(cells, Unreadable):
                    cells = Unreadable(
                        f"{len(cells)} cells in this record, {len(header)} in the header ({', '.join(header)})",
                        f"put a cell that holds a {'tab' if delimiter == chr(9) else 'comma'} in double quotes",
                    )
                yield from ((f"{path}:{line}", cells) for line in lines)

    return read


def _header(cells: list[str] | Unreadable, where: str) -> list[str]:
    if isinstance(cells, Unreadable):
        raise DataError(cells.reason, where=where, do=cells.do)
    twice = sorted({cell for cell in cells if cells.count(cell) > 1})
    if twice:
        raise DataError(f"the header names {twice[0]!r} twice", where=where, do="rename one of the columns")
    return cells


def _records(reader: Any) -> Iterator[tuple[range, list[str] | Unreadable]]:
    """Yield the lines of each record, and its cells; blank lines are skipped."""
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            do = 'put the cell in double quotes and write a quote inside it twice (""); is the last quote closed?'
            cells = Unreadable(f"malformed record: {error}", do)
        if cells is None:
            return
        if cells:
            yield range(first, reader.line_num + 1), cells


def _json_fault(error: Exception) -> str:
    return f"{error.msg} (column {error.colno})" if isinstance(error, json.JSONDecodeError) else str(error)


def _lines(path: Path, longest: int = _MAX_LINE, *, table: bool = False) -> Iterator[tuple[int, str]]:
    r"""Yield numbered lines, each with its "\n": nothing else ends a line (texts hold U+2028 and the like).

    UTF-16 and UTF-32 are detected by their byte order mark or by the first character. "\r" ends lines too where the
    head of the file has no "\n", and in a table with a header that ends so (its cells may hold "\n").

    Raises:
        DataError: It can't be read or decoded, or a line has more than ``longest`` bytes.
    """
    with reading(path), _open(path) as stream:
        head = stream.peek(_HEAD)[:_HEAD]
        encoding = _encoding(head)
        text = head.decode(encoding, "ignore")
        first = text.partition("\n")[0][:-1] if table else text[:-1]
        old = "\r" in first and (table or "\n" not in text)
        if encoding == "utf-8" and not old:
            for number, raw in enumerate(iter(lambda: stream.readline(longest + 1), b""), 1):
                _check_length(raw, longest, path, number)
                line = raw.removeprefix(_BOM) if number == 1 else raw
                if line:
                    yield number, _decoded(line, f"{path}:{number}")
            return
        wide = io.TextIOWrapper(stream, encoding, newline="" if old else "\n")
        try:
            for number, text in enumerate(iter(lambda: wide.readline(longest + 1), ""), 1):
                _check_length(text, longest, path, number)
                yield number, text.removeprefix("\ufeff") if number == 1 else text
        except UnicodeError as error:
            what = f"not valid {encoding.upper()}: {error}"
            raise DataError(what, where=str(path), do="save the file as UTF-8") from error


def _check_length(line: bytes | str, longest: int, path: Path, number: int) -> None:
    if len(line) > longest:
        what = f"a line of more than {longest:,} bytes"
        raise DataError(what, where=f"{path}:{number}", do="write one row a line, or leave that row out")


def _encoding(head: bytes) -> str:
    """Return the encoding of a file that begins with these bytes; UTF-8 where nothing says otherwise."""
    for mark, encoding in _ENCODINGS.items():
        if head.startswith(mark):
            return encoding
    if len(head) > 1 and bool(head[0]) != bool(head[1]):  # a Latin letter in two bytes, without a mark before it
        return "utf-16-le" if head[0] else "utf-16-be"
    return "utf-8"


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":  # a file torn within a character: only its last row is lost
            return raw.decode("utf-8", "ignore")
        raise DataError(
            f"not valid UTF-8: byte {raw[error.start]:#04x} at position {error.start} of the line",
            where=where,
            do="save the file as UTF-8, for example with iconv -f LATIN1 -t UTF-8",
        ) from error


def _open(path: Path) -> Any:
    if path.name.lower().endswith(".gz"):
        return io.BufferedReader(_Unpacked(path), _HEAD)
    return open_regular(path, buffering=_HEAD)


class _Unpacked(io.RawIOBase):
    """The content of a .gz file; :class:`DataError` where it is so much larger than the file that it is not text."""

    def __init__(self, path: Path) -> None:
        self._path, self._packed = path, open_regular(path)
        self._stream, self._count = gzip.GzipFile(fileobj=self._packed), 0
        self._most = max(_ANY_RATIO, _MAX_RATIO * os.fstat(self._packed.fileno()).st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self._stream.readinto(buffer)
        self._count += read
        if self._count > self._most:
            what = f"it unpacks to more than {_MAX_RATIO} times its size, and to more than {_ANY_RATIO:,} bytes"
            raise DataError(what, where=str(self._path), do="unpack the file, check what it holds, and give that")
        return read

    def close(self) -> None:
        self._packed.close()
        super().close()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn "no permission", a pipe, a torn archive and a damaged Parquet file into a :class:`DataError`."""
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = str((isinstance(error, OSError) and error.strerror) or error).partition("\n")[0]
        do = "check that it is complete and that you may read it"
        if isinstance(error, OSError) and error.errno == errno.ENXIO:
            do = "give a file: write what a pipe or a device delivers into one first"
        raise DataError(f"can't read the file: {reason}", where=str(path), do=do) from error


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _jsonl,
    ".json": _json_file,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".txt": _txt,
}
