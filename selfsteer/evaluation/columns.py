"""Columns of any number of rows, of which a few are read at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfsteer.files import storage_errors

_BATCH, _IN_MEMORY = 2048, 32 * 2048
"""Rows as dictionaries, and rows in all that are in memory (some 150 bytes each)."""


class Columns:
    """Rows that come one by one and are read column by column; what is beyond some ten thousand rows is on disk.

    The file is one without a name in the temporary folder: a killed process leaves nothing of it.

    Raises:
        StorageError: The temporary folder is full or can't be written to.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[Mapping[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []
        self._file: Any = None
        self._writer: pq.ParquetWriter | None = None
        self._stored: pq.ParquetFile | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row with a value for each field of the schema. No column can have been read yet."""
        self._rows.append(row)
        self._count += 1
        if len(self._rows) == _BATCH:
            self._pack()
        if len(self._batches) * _BATCH == _IN_MEMORY:
            self._store()

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column (N,)."""
        return pa.chunked_array(self._chunks(name), type=self._schema.field(name).type)

    def _chunks(self, name: str) -> Iterator[pa.Array]:
        if self._rows:
            self._pack()
        if self._writer:
            with self._on_disk():
                self._writer.close()
                self._writer, self._stored = None, pq.ParquetFile(self._file)
        if self._stored:
            with self._on_disk():
                yield from self._stored.read([name]).column(0).chunks
        yield from (batch.column(name) for batch in self._batches)

    def _pack(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def _store(self) -> None:
        with self._on_disk():
            if self._writer is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the columns are used
                # As it is in memory: packing would take longer than the disk.
                self._writer = pq.ParquetWriter(self._file, self._schema, compression="none", use_dictionary=False)
            self._writer.write_table(pa.Table.from_batches(self._batches))
        self._batches = []

    @staticmethod
    def _on_disk() -> AbstractContextManager[None]:
        return storage_errors(Path(tempfile.gettempdir()))
