"""The judgements of many pairs, without their texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from selfsteer.judges.answer_cache import Answer
from selfsteer.judges.base import Judgement, Pair
from selfsteer.temp_db import APPENDED_KIB, TempDatabase


@dataclass(frozen=True)
class JudgedPair(Pair):
    """A pair whose texts are no longer in memory; ``hashed`` is the hash of them."""

    hashed: str = ""

    @property
    def content(self) -> str:
        """As of :class:`Pair`."""
        return self.hashed


class Judgements(Sequence[Judgement]):
    """Judgements but for the texts of pairs and answers, some 100 bytes a pair in a temporary database."""

    def __init__(self, judgements: Iterable[Judgement] = ()) -> None:
        # Texts as bytes: a file's name may hold half of a surrogate pair, which SQLite refuses.
        answers = ", ".join(f"vote{i} INTEGER, odds{i} REAL, valid{i} INTEGER, why{i} BLOB" for i in (1, 2))
        table = f"CREATE TABLE judged (id BLOB, label INTEGER, subset BLOB, origin BLOB, content TEXT, {answers})"
        self._db = TempDatabase([table], "the verdicts", cache_kib=APPENDED_KIB)
        self._table, self._count = "judged", 0
        self.extend(judgements)

    def extend(self, judgements: Iterable[Judgement]) -> None:
        """Add judgements at the end; not after :meth:`sort`."""
        for one in judgements:
            pair = one.pair
            values: list[Any] = [_bytes(pair.id), pair.label, _bytes(pair.subset), _bytes(pair.group), pair.content]
            for answer in (one.forward, one.backward):
                values += [answer.vote, answer.log_odds, answer.valid, _bytes(answer.why)]
            self._db.execute("INSERT INTO judged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            self._count += 1

    def sort(self) -> None:
        """Put them in the order of the pairs' ids, once."""
        self._db.execute("CREATE TABLE sorted AS SELECT * FROM judged ORDER BY id, rowid")
        self._db.execute("DROP TABLE judged")
        self._table = "sorted"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Judgement]:
        return map(_judgement, self._db.execute(f"SELECT * FROM {self._table} ORDER BY rowid"))

    @overload
    def __getitem__(self, place: int) -> Judgement: ...
    @overload
    def __getitem__(self, place: slice) -> list[Judgement]: ...
    def __getitem__(self, place: int | slice) -> Judgement | list[Judgement]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        number = range(1, len(self) + 1)[place]
        return _judgement(self._db.execute(f"SELECT * FROM {self._table} WHERE rowid = ?", [number]).fetchone())


def _judgement(row: Sequence[Any]) -> Judgement:
    own_id, label, subset, group, content, *answers = row
    pair = JudgedPair(_text(own_id), [], "", "", label, _text(subset), group=_text(group), hashed=content)
    forward, backward = (
        Answer(vote, log_odds=odds, valid=bool(valid), why=_text(why))
        for vote, odds, valid, why in (answers[:4], answers[4:])
    )
    return Judgement(pair, forward, backward)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _text(written: bytes) -> str:
    return written.decode(errors="surrogatepass")
