"""The ids and contents of a source so far, on disk: memory stays flat however many queries there are."""

from __future__ import annotations

from selfsteer.temp_db import TempDatabase, hash_of

_TABLES = (
    "CREATE TABLE ids (id BLOB PRIMARY KEY, content BLOB, head INTEGER, tail TEXT) WITHOUT ROWID",
    "CREATE TABLE contents (content BLOB PRIMARY KEY, first_id TEXT) WITHOUT ROWID",
)


class Seen(TempDatabase):
    """Finds repeated contents, and ids that are given to two contents; a context manager, which drops it all.

    It takes about 100 bytes a query. Ids and contents are stored as 128-bit hashes.
    """

    def __init__(self) -> None:
        super().__init__(_TABLES, "track of the queries")
        self._heads: dict[str, int] = {}  # few: one a file

    def claim(self, name: str, content: bytes, where: str) -> str:
        """Give the id ``name`` to ``content``, a 16-byte hash.

        Returns:
            "", or where ``name`` was first given, to another content.
        """
        head, colon, tail = where.rpartition(":")  # the file's name is long and always the same: it is kept apart
        place = self._heads.setdefault(head + colon, len(self._heads))
        key, check = hash_of(name), content[:8]  # half of the hash tells two contents of one id apart
        new = "INSERT INTO ids VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        if self.execute(new, (key, check, place, tail)).rowcount:
            return ""
        [(known, place, tail)] = self.execute("SELECT content, head, tail FROM ids WHERE id = ?", (key,))
        return "" if known == check else list(self._heads)[place] + tail

    def first_id(self, content: bytes, name: str) -> str:
        """Return the id that ``content`` first came with, "" where it is new: then ``name`` becomes that id."""
        new = "INSERT INTO contents VALUES (?, ?) ON CONFLICT DO NOTHING"
        if self.execute(new, (content, name)).rowcount:
            return ""
        [(first,)] = self.execute("SELECT first_id FROM contents WHERE content = ?", (content,))
        return str(first)
