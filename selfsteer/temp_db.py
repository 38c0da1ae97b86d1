"""Tables on disk for commands that read more rows than memory holds; they are dropped afterwards."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Self

from selfsteer.errors import StorageError

_CACHE_KIB = 64 * 1024  # pages kept in memory; up to some 700,000 short rows nothing is read from disk
APPENDED_KIB = 4 * 1024
"""Enough for a table that is written and read in its own order."""


class TempDatabase:
    """An SQLite database without a name: what its cache can't hold is in a temporary file.

    No other process sees that file, and a killed one leaves nothing of it. ``tables`` are the statements that create
    its tables; ``what`` is its content, for messages, e.g. "track of the queries"; ``cache_kib`` is kept in memory.
    """

    def __init__(self, tables: Iterable[str], what: str, *, cache_kib: int = _CACHE_KIB) -> None:
        self._what = what
        # A generator that holds it may be closed by another thread than the one that created it.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in (f"cache_size = -{cache_kib}", "journal_mode = OFF", "synchronous = OFF"):
            self._db.execute(f"PRAGMA {pragma}")
        for statement in (*tables, "BEGIN"):
            self._db.execute(statement)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Execute one statement; :class:`StorageError` where the temporary folder is full or can't be written to."""
        try:
            return self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"can't keep {self._what} in the temporary folder: {error}",
                where="the folder that SQLITE_TMPDIR or TMPDIR names, else /var/tmp or /tmp",
                do="free some space there (about 100 bytes a row), or name another folder with SQLITE_TMPDIR",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything."""
        self._db.close()


class Ranked(TempDatabase):
    """Numbers in their order, however many there are."""

    def __init__(self) -> None:
        super().__init__(["CREATE TABLE numbers (number REAL)"], "the numbers of the rows in order")
        self.count = 0

    def add(self, number: float) -> None:
        """Take a finite number."""
        self.execute("INSERT INTO numbers VALUES (?)", (number,))
        self.count += 1

    def at(self, place: int, *, descending: bool = False) -> float:
        """Return the number at ``place``, counted from 0 at the smallest, or at the largest where ``descending``."""
        order = "DESC" if descending else "ASC"
        [(number,)] = self.execute(f"SELECT number FROM numbers ORDER BY number {order} LIMIT 1 OFFSET ?", (place,))
        return float(number)


def hash_of(text: str) -> bytes:
    """Return a 16-byte hash of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
