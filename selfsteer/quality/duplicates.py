"""Find rows that repeat an earlier row of the set, however large the set: earlier rows are kept on disk.

These are compared, always within a round (later rounds align on the same queries):

1. the queries: the words and symbols of the last turn, without case, white space and ``. , ; : ! ? " '``, and the
   messages before it as they are;
2. nearly the same queries: they share at least a given part of their word pairs (Jaccard), and their numbers and
   symbols are the same in the same order, so "x + 1" and "x - 1" are two queries;
3. the responses: y+ and y- both have the words and symbols of those of one earlier row.

Similar queries are found by 16 keys of four minima each (MinHash): of those that share 80 % of their word pairs some 2
in 10,000 are missed. Of many queries with the same key, the first 32 are compared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import xxhash

from selfsteer.errors import InputError
from selfsteer.queries.minhash import minhash
from selfsteer.records import Contrast
from selfsteer.temp_db import TempDatabase, hash_of

_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s.,;:!?\"'“”‘’…]")
_EXACT = re.compile(r"\W|.*\d")  # numbers and symbols: nearly the same queries have the same ones in the same order
_BANDS, _MINIMA = 16, 4
_COMPARED = 32
_TABLES = (
    "CREATE TABLE marks (row BLOB PRIMARY KEY, why TEXT) WITHOUT ROWID",
    "CREATE TABLE firsts (content BLOB PRIMARY KEY, id TEXT) WITHOUT ROWID",
    "CREATE TABLE alike (key INTEGER, number INTEGER, PRIMARY KEY (key, number)) WITHOUT ROWID",
    "CREATE TABLE queries (number INTEGER PRIMARY KEY, id TEXT, pairs BLOB)",
)


class Repeats(TempDatabase):
    """Marks the rows that repeat an earlier one: :meth:`add` all rows in order, then ask :meth:`of` for any.

    Args:
        similarity: Share of word pairs from which on two queries are nearly the same; 1 compares words alone.
    """

    def __init__(self, similarity: float) -> None:
        super().__init__(_TABLES, "track of the rows")
        self._similarity = similarity

    def add(self, row: Contrast) -> None:
        """Take the next row of the set.

        Raises:
            InputError: A row of its round has its id already.
        """
        new = "INSERT INTO marks VALUES (?, ?) ON CONFLICT DO NOTHING"
        if not self.execute(new, (_name(row), self._find(row))).rowcount:
            what = "two rows have the same id, so it is unclear which of them is meant"
            do = "give each row an id of its own, or leave one of the files out"
            raise InputError(what, where=f"row {row.id!r} of round {row.round}", do=do)

    def of(self, row: Contrast) -> str:
        """Return what ``row`` repeats, "" where it repeats nothing; it must have been added."""
        [(why,)] = self.execute("SELECT why FROM marks WHERE row = ?", (_name(row),))
        return str(why)

    def _find(self, row: Contrast) -> str:
        """Return what the row repeats; later rows are compared with one that repeats nothing."""
        tokens, before = _tokens(row.prompt[-1]["content"]), repr((row.round, row.prompt[:-1]))
        query = hash_of(f"{before}\n{' '.join(tokens)}")
        both = [" ".join(_tokens(text)) for text in (row.positive_response, row.negative_response)]
        responses = hash_of("\n".join([str(row.round), *both]))
        for content, what in ((query, "its query is that"), (responses, "y+ and y- are those")):
            if first := self.execute("SELECT id FROM firsts WHERE content = ?", (content,)).fetchone():
                return f"{what} of row {first[0]!r}"
        pairs = _pairs(tokens)
        if self._similarity < 1 and pairs.size:
            keys = _keys(pairs, before + repr([token for token in tokens if _EXACT.match(token)]))
            if near := self._near(row.id, pairs, keys):
                return near
        for content in (query, responses):  # only of rows that repeat nothing: later rows name the first of its kind
            self.execute("INSERT INTO firsts VALUES (?, ?)", (content, row.id))
        return ""

    def _near(self, row_id: str, pairs: np.ndarray, keys: Sequence[int]) -> str:
        """Return the first query that is nearly the same, in words; where there is none, remember this one."""
        alike: dict[int, list[int]] = {key: [] for key in keys}
        marks = ", ".join("?" * len(keys))
        for key, number in self.execute(f"SELECT key, number FROM alike WHERE key IN ({marks})", keys):
            alike[key].append(number)
        for number in sorted({number for numbers in alike.values() for number in numbers}):
            name, blob = self.execute("SELECT id, pairs FROM queries WHERE number = ?", (number,)).fetchone()
            other = np.frombuffer(blob, dtype=np.uint32)
            shared = np.intersect1d(pairs, other, assume_unique=True).size
            share = shared / (pairs.size + other.size - shared)
            if share >= self._similarity:
                return f"its query shares {share:.0%} of the word pairs with that of row {name!r}"
        own = self.execute("INSERT INTO queries (id, pairs) VALUES (?, ?)", (row_id, pairs.tobytes())).lastrowid
        for key, numbers in alike.items():
            if len(numbers) < _COMPARED:
                self.execute("INSERT INTO alike VALUES (?, ?)", (key, own))
        return ""


def _name(row: Contrast) -> bytes:
    return hash_of(f"{row.round}\n{row.id}")


def _tokens(text: str) -> list[str]:
    """Return the words and symbols of ``text`` without case; the text itself where it has none of them."""
    return _TOKEN.findall(text.casefold()) or [text.strip()]


def _pairs(tokens: Sequence[str]) -> np.ndarray:
    """Return the distinct pairs of neighbouring words, (P,) uint32 in ascending order, each known by a hash."""
    found = {xxhash.xxh3_64_intdigest(f"{one} {two}".encode()) & 0xFFFFFFFF for one, two in pairwise(tokens)}
    return np.array(sorted(found), dtype=np.uint32)


def _keys(pairs: np.ndarray, exact: str) -> list[int]:
    """Return the keys of a query: two that share most pairs share a key, if what must be ``exact`` is the same."""
    minima = minhash(pairs.tolist(), _BANDS * _MINIMA).hashvalues.astype(np.uint32)
    rest = exact.encode()
    found = (
        xxhash.xxh3_64_intdigest(b"%d\n%s\n%s" % (band, values.tobytes(), rest)) - 2**63  # as SQLite has integers
        for band, values in enumerate(minima.reshape(_BANDS, _MINIMA))
    )
    return list(dict.fromkeys(found))
