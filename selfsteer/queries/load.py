"""A source of queries -> the list of :class:`Query` to work on, each once, each with a stable id."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, cast

from selfsteer.errors import ConfigError, DataError, did_you_mean
from selfsteer.files import fingerprint, sha256_file
from selfsteer.queries.read import READERS, format_of, read_file, read_hub, reading
from selfsteer.queries.rows import Unusable, is_text, to_prompt
from selfsteer.queries.seen import Seen
from selfsteer.records import Message, Query
from selfsteer.scratch import hash_of

BUILTIN = {
    "quickstart": "quickstart.jsonl",
    "quickstart-heldout": "quickstart_heldout.jsonl",
    "quickstart-questions": "quickstart_questions.jsonl",
}
"""Shipped query sets, asked for as ``builtin:NAME``; see selfsteer/data/README.md for where they come from."""

GROWN = "augment:"
"""What the source of a grown query begins with; behind it stands the operation."""

_CARRIED = ("model", "weights", "sampling", "template", "depth", "seeds")
_DATA = Path(__file__).parent.parent / "data"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?")
_SPLITS = ("train", "heldout")
_SPLIT_KEY = "queries.dataset_split"
_MOST_REASONS = 1000
_quoted = json.JSONEncoder(ensure_ascii=False).encode


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A row that gives no query. ``id`` is "" where there is none; ``where`` is its file and line."""

    id: str
    where: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What a source gave: its queries in order, and the rows that were left out, each with its reason."""

    queries: list[Query]
    dropped: list[Dropped]


def load_queries(
    source: str,
    *,
    field: str | None = None,
    split: str = "train",
    limit: int | None = None,
    dataset_split: str = "train",
) -> Loaded:
    """Load queries from a shipped set, a file, a folder of files or a hub data set.

    Accepted rows: a string; an object with a column of :data:`selfsteer.queries.rows.COLUMNS` (text or messages).
    A conversation is kept up to its last user turn, system messages included. An empty query and a repetition of an
    earlier one (same text after Unicode NFC, white space aside) are dropped.

    Args:
        source: ``builtin:NAME``; a file (.jsonl .json .parquet .csv .tsv .txt, the text forms also with .gz); a folder
            of such files, read in the order of their names; or a hub data set, ``org/name`` or ``org/name:config``.
        field: The column that holds the query; None looks for a known name.
        split: What the queries serve for, "train" or "heldout".
        limit: Take the first so many queries, after de-duplication; the rows behind them are not looked at.
        dataset_split: The split of a hub data set.

    Returns:
        The queries, with the row's own id or else a hash of the prompt, and the dropped rows.

    Raises:
        ConfigError: ``split``, ``limit`` or ``dataset_split`` is wrong.
        DataError: The source is not there, a row is malformed, an id stands for two queries, or no query is left.
    """
    found = stream_queries(source, field=field, split=split, limit=limit, dataset_split=dataset_split)
    loaded = Loaded([], [])
    for item in found:
        if isinstance(item, Query):
            loaded.queries.append(item)
        else:
            loaded.dropped.append(item)
    return loaded


def stream_queries(
    source: str,
    *,
    field: str | None = None,
    split: str = "train",
    limit: int | None = None,
    dataset_split: str = "train",
) -> Generator[Query | Dropped, None, None]:
    """Yield what :func:`load_queries` gives, row by row in the order of the source; memory does not grow with it.

    What tells repetitions and clashes of ids is kept in a temporary file (see :mod:`selfsteer.queries.seen`). Closing
    the iterator, or taking ``limit`` queries from it, closes the source and removes that file.

    Args:
        source, field, split, limit, dataset_split: As of :func:`load_queries`.

    Raises:
        ConfigError: At once: ``split``, ``limit`` or ``dataset_split`` is wrong.
        DataError: At the row it concerns: the source is not there, a row is malformed, or an id stands for two
            queries; at the end: no query was left.
        StorageError: The temporary folder is full.
    """
    _check(source, split, limit, dataset_split)
    return _stream(source, field, cast(Literal["train", "heldout"], split), limit, dataset_split)


def source_fingerprint(source: str) -> str:
    """Return 16 hex digits that name what a source holds: the content of its files, or the name of a hub data set.

    Raises:
        DataError: The source is not there.
    """
    if is_hub(source):
        return fingerprint(source)
    return fingerprint([(path.name, sha256_file(path)) for path in _source_files(source)])


def reads_file(source: str, path: Path) -> bool:
    """Tell whether a source reads this file, or would if it were there: its own file, or one in its folder.

    Raises:
        DataError: The source is not there.
    """
    if is_hub(source):
        return False
    own, folder = path.resolve(), Path(source).expanduser()
    in_folder = folder.is_dir() and own.parent == folder.resolve()
    return in_folder or own in {file.resolve() for file in _source_files(source)}


def source_rows(
    source: str, dataset_split: str, key: str = "dataset_split"
) -> Generator[tuple[str, Any, str], None, None]:
    """Yield the rows of a source as they stand: (where, row, origin), origin being the file's or the data set's name.

    Args:
        source, dataset_split: As of :func:`load_queries`.
        key: The setting that names the split, for messages.

    Raises:
        DataError: The source is not there, or a row is malformed.
    """
    if is_hub(source):
        yield from ((where, row, source) for where, row in read_hub(source, dataset_split, key))
        return
    for path in _source_files(source):
        yield from ((where, row, path.name) for where, row in read_file(path))


def _stream(
    source: str, field: str | None, split: Literal["train", "heldout"], limit: int | None, dataset_split: str
) -> Generator[Query | Dropped, None, None]:
    tally, taken = _Tally(), 0
    with Seen() as seen, closing(source_rows(source, dataset_split, _SPLIT_KEY)) as rows:
        reader = _Reader(split, field, seen)
        for where, row, origin in rows:
            found = reader.read(where, row, origin)
            yield found
            if isinstance(found, Query):
                taken += 1
                if taken == limit:
                    return
            elif not taken:
                tally.add(found)
    if not taken:
        raise tally.nothing_left(source)


@dataclasses.dataclass
class _Reader:
    """Turns rows into queries; ``seen`` holds what tells a repetition from a clash of ids."""

    split: Literal["train", "heldout"]
    field: str | None
    seen: Seen

    def read(self, where: str, row: Any, origin: str) -> Query | Dropped:
        own_id = _own_id(row, where)
        try:
            prompt = to_prompt(row, where, self.field)
        except Unusable as unusable:
            return Dropped(own_id, where, str(unusable))
        name, content = own_id or made_id(prompt), content_hash(prompt)
        if first := self.seen.claim(name, content, where):
            raise DataError(
                f"the id {name!r} stands for two different queries",
                where=f"{first} and {where}",
                do="give each query its own id, or leave the column out: ids are then made from the text",
            )
        if first := self.seen.first_id(content, name):
            return Dropped(name, where, f"duplicate of {first}")
        return Query(name, prompt, self.split, _origin(row) or origin, _grown_from(row))


class _Tally:
    """Why there is no query yet, for the message if there never is: no repetition among them, so few reasons."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._first = ""

    def add(self, dropped: Dropped) -> None:
        self._first = self._first or dropped.where
        known = dropped.reason in self._reasons or len(self._reasons) < _MOST_REASONS
        self._reasons[dropped.reason if known else "another reason"] += 1

    def nothing_left(self, source: str) -> DataError:
        if not self._reasons:
            return DataError("the source is empty: it holds no row", where=source, do="give a file that holds queries")
        reasons = ", ".join(f"{reason} ({count} rows)" for reason, count in self._reasons.most_common(3))
        return DataError(
            f"no query is left of {self._reasons.total()} rows: {reasons}",
            where=f"{source}, first at {self._first}",
            do="check that the right column is taken (queries.field=NAME)",
        )


def _check(source: str, split: str, limit: int | None, dataset_split: str) -> None:
    if split not in _SPLITS:
        raise ConfigError(f"unknown split {split!r}", where="queries.split", do=did_you_mean(split, _SPLITS))
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}", where="queries.limit", do="ask for 1 or more, or leave it out for all")
    check_dataset_split(source, dataset_split, _SPLIT_KEY)


def check_dataset_split(source: str, dataset_split: str, key: str) -> None:
    """Raise :class:`ConfigError`, naming the recipe's ``key``, where a split is asked for and the source has none."""
    if dataset_split != "train" and not is_hub(source):
        raise ConfigError(
            f"dataset_split is {dataset_split!r}, but {source!r} is no hub data set and has no splits",
            where=key,
            do="leave it out, or give a hub data set (org/name)",
        )


def is_hub(source: str) -> bool:
    """Tell ``org/name`` from a path: it is no local file or folder and has no suffix of a data file."""
    path = Path(source)
    return bool(_HUB_NAME.fullmatch(source)) and not format_of(path) and not path.exists()


def _source_files(source: str) -> list[Path]:
    return [_builtin(source)] if source.startswith("builtin:") else _files(source)


def _builtin(source: str) -> Path:
    name = source.removeprefix("builtin:")
    if name not in BUILTIN:
        raise DataError(f"no shipped query set {name!r}", where=source, do=did_you_mean(name, BUILTIN))
    return _DATA / BUILTIN[name]


def _files(source: str) -> list[Path]:
    """Return the file that ``source`` names, or the data files of the folder that it names."""
    path = Path(source)
    with reading(path):
        path = path.expanduser()
        if not source.strip() or not path.exists():
            raise DataError("no such file", where=source or "(an empty name)", do=_nearby(path))
        if not path.is_dir():
            return [path]
        files = sorted(item for item in path.iterdir() if format_of(item) and not item.name.startswith("."))
    if not files:
        raise DataError("no data file in that folder", where=source, do=f"put one there: {', '.join(READERS)}")
    return files


def _nearby(path: Path) -> str:
    """Name what lies near a path that does not exist."""
    if not path.parent.is_dir():
        return f"there is no folder {str(path.parent)!r} either: check the path"
    names = sorted(item.name for item in path.parent.iterdir() if item.name != path.name)
    names = [name for name in names if not name.startswith(".")]
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    return f"{str(path.parent)!r} holds: {', '.join(names[:10]) or 'nothing'}{', ...' if names[10:] else ''}"


def _own_id(row: Any, where: str) -> str:
    """Return the id that a row gives itself, "" where it gives none."""
    value = row.get("id") if isinstance(row, dict) else None
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"an id is {value!r}, expected text or a number", where=where, do="correct that row")
    name = str(value)
    if not is_text(name):
        raise DataError("an id is broken text (half of a surrogate pair)", where=where, do="correct that row")
    return name if name.strip() else ""


def _origin(row: Any) -> str:
    """Return the "source" column of a row where it names one."""
    value = row.get("source") if isinstance(row, dict) else None
    return value if isinstance(value, str) and is_text(value) else ""


def _grown_from(row: Any) -> dict[str, str]:
    """Return what a row that ``selfsteer augment`` wrote says of who wrote it and from what; none for other rows.

    Only what its source does not say and what a reader of the rows needs: millions of rows repeat it.
    """
    told = row.get("provenance") if _origin(row).startswith(GROWN) else None
    if not isinstance(told, dict):
        return {}
    found = {name: told[name] for name in _CARRIED if told.get(name)}
    texts = {name: ", ".join(map(str, one)) if isinstance(one, list) else str(one) for name, one in found.items()}
    return {name: text for name, text in texts.items() if is_text(text)}


def made_id(prompt: list[Message]) -> str:
    """Return the id of a query that brings none: ``fingerprint(prompt)``, in half its time."""
    parts = [f'{{"content":{_quoted(message["content"])},"role":{_quoted(message["role"])}}}' for message in prompt]
    return hashlib.sha256(f"[{','.join(parts)}]".encode()).hexdigest()[:16]


def content_hash(prompt: list[Message]) -> bytes:
    """Return the hash of what prompts share that differ in Unicode composition and white space only: repetitions."""
    return hash_of("\n".join(part for message in _normalised(prompt) for part in message))


def _normalised(prompt: list[Message]) -> list[list[str]]:
    """Return role and text of each message, composed and with single spaces; no line break is left in them."""
    return [[message["role"], " ".join(unicodedata.normalize("NFC", message["content"]).split())] for message in prompt]
