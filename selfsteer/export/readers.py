"""Reads files of rows: contrasts in Parquet, and the JSON of the paper's authors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from selfsteer.errors import DataError
from selfsteer.export.authors import read_authors
from selfsteer.files import open_regular, parse_json
from selfsteer.queries.file_readers import UNHELD, read_file, reading
from selfsteer.records import SCHEMA_VERSION, Contrast, WrongColumn, check_filled, check_types, required

_BATCH = 256
_COLUMNS = [field.name for field in dataclasses.fields(Contrast)]


def read_source(path: Path) -> Iterator[Contrast]:
    """Yield the rows of a file: .parquet holds contrasts, .json and .jsonl the rows of the paper's authors.

    Raises:
        DataError: It can't be read, or no row is left.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_contrasts(path)
    if suffix in (".json", ".jsonl"):
        return read_authors(read_file(path), str(path))
    do = "give a run directory, a .parquet file of contrasts, or a .json or .jsonl file in the paper's authors' form"
    raise DataError(f"{path.name!r} is of no known file type", where=str(path), do=do)


def read_contrasts(path: Path) -> Iterator[Contrast]:
    """Yield the contrasts of a Parquet file of any size in batches; raises :class:`DataError`.

    Columns that a contrast does not have are not read.
    """
    with reading(path):
        open_regular(path).close()  # a pipe or a device would be read without end
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:  # as our writer stores them
            columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
            missing = [name for name in required(Contrast) if name not in columns]
            if missing:
                do = "give a run directory, one of its round-*/contrasts/*.parquet, or an export --format contrast"
                raise DataError(
                    f"these are not contrasts: the columns {', '.join(missing)} are missing", where=str(path), do=do
                )
            check_types(file.schema_arrow, Contrast)
            for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
                check_filled(batch, required(Contrast))
                for values in batch.to_pylist():
                    found = values.get("schema_version", SCHEMA_VERSION)
                    if found != SCHEMA_VERSION:
                        what = f"row {values['id']!r} has schema version {found}; this selfsteer reads {SCHEMA_VERSION}"
                        raise DataError(what, where=str(path), do="use the version of selfsteer that wrote the file")
                    yield Contrast(**{**values, "provenance": parse_json(values.get("provenance") or "{}")})
    except WrongColumn as error:
        raise DataError(str(error), where=str(path), do="give contrasts as selfsteer writes them") from error
    except (OSError, *UNHELD) as error:
        what = f"can't read the file: {str(error).partition(chr(10))[0]}"
        raise DataError(what, where=str(path), do="check that it is complete") from error
