"""What a source has given so far, kept on disk: memory stays flat however many queries there are."""

from __future__ import annotations

import hashlib
import sqlite3
from types import TracebackType

from selfsteer.errors import StorageError

_CACHE_KIB = 64 * 1024  # pages kept in memory; up to some 700,000 queries nothing is read from disk
_TABLES = (
    "CREATE TABLE ids (id BLOB PRIMARY KEY, content BLOB, head INTEGER, tail TEXT) WITHOUT ROWID",
    "CREATE TABLE contents (content BLOB PRIMARY KEY, first_id TEXT) WITHOUT ROWID",
)


class Seen:
    """Tells a repeated content and an id that stands for two contents; a context manager, which drops it all.

    It is an SQLite database without a name: SQLite puts what its cache can't hold into a temporary file that no other
    process sees and that a killed one leaves nothing of: about 100 bytes a query. Ids and contents are known by 128-bit
    hashes.

    Raises:
        StorageError: On the way out of its ``with``, where the temporary folder was full or could not be written to.
    """

    def __init__(self) -> None:
        # a generator that holds it may be closed by another thread than the one that began it
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in (f"cache_size = -{_CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._db.execute(f"PRAGMA {pragma}")
        for statement in (*_TABLES, "BEGIN"):
            self._db.execute(statement)
        self._heads: dict[str, int] = {}  # few: one a file

    def __enter__(self) -> Seen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        if isinstance(error, sqlite3.OperationalError):
            raise StorageError(
                f"can't keep track of the queries in the temporary folder: {error}",
                where="the folder that SQLITE_TMPDIR or TMPDIR names, else /var/tmp or /tmp",
                do="free some space there (about 100 bytes a query), or name another folder with SQLITE_TMPDIR",
            ) from error

    def claim(self, name: str, content: bytes, where: str) -> str:
        """Let the id ``name`` stand for ``content``, a 16-byte hash.

        Returns:
            "", or where ``name`` was first claimed, for another content.
        """
        head, colon, tail = where.rpartition(":")  # the file's name is long and always the same: it is kept apart
        place = self._heads.setdefault(head + colon, len(self._heads))
        key, check = hash_of(name), content[:8]
        new = "INSERT INTO ids VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        if self._db.execute(new, (key, check, place, tail)).rowcount:
            return ""
        [(known, place, tail)] = self._db.execute("SELECT content, head, tail FROM ids WHERE id = ?", (key,))
        return "" if known == check else list(self._heads)[place] + tail

    def first_id(self, content: bytes, name: str) -> str:
        """Return the id that ``content`` first came with, "" where it is new: then ``name`` becomes that id."""
        new = "INSERT INTO contents VALUES (?, ?) ON CONFLICT DO NOTHING"
        if self._db.execute(new, (content, name)).rowcount:
            return ""
        [(first,)] = self._db.execute("SELECT first_id FROM contents WHERE content = ?", (content,))
        return str(first)


def hash_of(text: str) -> bytes:
    """Return the 16 bytes by which a text is known."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
