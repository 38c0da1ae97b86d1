"""A source of queries -> the list of :class:`Query` to work on, each once, each with a stable id."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Generator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

from selfsteer.config import MAX_LEFT_OUT
from selfsteer.errors import ConfigError, DataError, did_you_mean
from selfsteer.files import fingerprint, home_expanded, sha256_file
from selfsteer.queries.dedup import Seen
from selfsteer.queries.file_readers import format_of, read_file, read_hub, reading
from selfsteer.queries.folders import data_files, has_splits
from selfsteer.queries.messages import Unusable, is_missing, is_text, shown
from selfsteer.queries.prompt_forms import to_prompt
from selfsteer.queries.tally import Tally, check_share
from selfsteer.queries.words import normalize
from selfsteer.records import Message, Query
from selfsteer.temp_db import hash_of

BUILTIN = {
    "quickstart": "quickstart.jsonl",
    "quickstart-heldout": "quickstart_heldout.jsonl",
    "quickstart-questions": "quickstart_questions.jsonl",
}
"""Shipped query sets, named ``builtin:NAME``; see selfsteer/data/README.md for their origin."""

GROWN = "augment:"
"""The source of a grown query is this and the operation."""

_CARRIED = ("model", "weights", "sampling", "template", "depth", "seeds")
_DATA = Path(__file__).parent.parent / "data"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?")
_SPLITS = ("train", "heldout")
_SPLIT_KEY = "queries.dataset_split"
_SHARE_KEY = "queries.max_left_out"


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A row that gives no query. ``id`` is "" where there is none; ``where`` is its file and line.

    ``unusable``: the row itself can't be used, whatever the other rows are; ``do``: how to fix that.
    """

    id: str
    where: str
    reason: str
    do: str = dataclasses.field(default="", compare=False)
    unusable: bool = dataclasses.field(default=False, compare=False)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The queries of a source in order, and the rows that were left out, each with its reason."""

    queries: list[Query]
    dropped: list[Dropped]


def load_queries(source: str, **options: Any) -> Loaded:
    """Return all that :func:`stream_queries` yields, with the same arguments and errors."""
    found = list(stream_queries(source, **options))
    queries = [item for item in found if isinstance(item, Query)]
    return Loaded(queries, [item for item in found if isinstance(item, Dropped)])


def stream_queries(
    source: str,
    *,
    field: str | None = None,
    split: str = "train",
    limit: int | None = None,
    dataset_split: str = "train",
    max_left_out: float | None = MAX_LEFT_OUT,
) -> Generator[Query | Dropped, None, None]:
    """Yield the queries of a source in its order, and the rows that give none; memory does not grow with it.

    Accepted rows: a string; an object with text or messages in one of the columns of
    :data:`selfsteer.queries.prompt_forms.COLUMNS`. A conversation is kept up to its last user turn, system messages
    included. A row that can't be used and a repetition of an earlier query (same text after Unicode NFC, white space
    aside) are dropped. A query's id is the row's own or else a hash of the prompt. Ids and contents are kept in a
    temporary file (:mod:`selfsteer.queries.dedup`). Closing the iterator, or taking ``limit`` queries from it, closes
    the source and removes that file.

    Args:
        source: ``builtin:NAME``; a file (.jsonl .json .parquet .csv .tsv .txt, the text forms also with .gz); a folder
            of such files, read in the order of their names; a folder of ``save_to_disk`` or a repository of a data set;
            or a hub data set, ``org/name`` or ``org/name:config``.
        field: The column that holds the query; None looks for a known name.
        split: "train" or "heldout".
        limit: Number of queries to take, the first ones after de-duplication; later rows are not read.
        dataset_split: The split of a hub data set, or of a folder that has splits.
        max_left_out: The largest share of rows that can't be used; None allows any, as long as one query is left.

    Raises:
        ConfigError: At once: ``split``, ``limit`` or ``dataset_split`` is wrong.
        DataError: The source is missing, a file can't be read, its table has no column ``field``; at the end: too many
            rows can't be used, or no query is left.
        StorageError: The temporary folder is full.
    """
    if split not in _SPLITS:
        raise ConfigError(f"unknown split {split!r}", where="queries.split", do=did_you_mean(split, _SPLITS))
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}", where="queries.limit", do="give 1 or more, or leave it out for all")
    check_dataset_split(source, dataset_split, _SPLIT_KEY)

    def found() -> Generator[Query | Dropped, None, None]:
        tally, taken = Tally(), 0
        with Seen() as seen, closing(source_rows(source, dataset_split, _SPLIT_KEY)) as rows:
            for where, row, origin in rows:
                item = _query_of(row, where, origin, split, field, seen)
                tally.rows += 1
                if isinstance(item, Query):
                    taken += 1
                elif item.unusable:
                    tally.add(where, item.reason, item.do)
                yield item
                if taken == limit:
                    break
        check_share(tally.info, "query", source, most=max_left_out, key=_SHARE_KEY)

    return found()


def source_fingerprint(source: str) -> str:
    """Return 16 hex digits that name what a source holds: the content of its files, or the name of a hub data set."""
    if is_hub(source):
        return fingerprint(source)
    contents = []
    for path in _source_files(source):
        with reading(path):
            contents.append((path.name, sha256_file(path)))
    return fingerprint(contents)


def reads_file(source: str, path: Path) -> bool:
    """Return whether a source reads this file, or would if it existed: its own file, or one under its folder."""
    if is_hub(source):
        return False
    own, folder = path.resolve(), home_expanded(source)
    in_folder = folder.is_dir() and folder.resolve() in own.parents
    return in_folder or own in {file.resolve() for file in _source_files(source)}


def source_rows(
    source: str, dataset_split: str, key: str = "dataset_split"
) -> Generator[tuple[str, Any, str], None, None]:
    """Yield the rows of a source as (where, row, origin), the origin being the name of the file or of the data set.

    ``key`` is the setting that names the split, for messages.
    """
    if is_hub(source):
        yield from ((where, row, source) for where, row in read_hub(source, dataset_split, key))
        return
    for path in _source_files(source, dataset_split, key):
        yield from ((where, row, path.name) for where, row in read_file(path))


def _query_of(row: Any, where: str, origin: str, split: Any, field: str | None, seen: Seen) -> Query | Dropped:
    """Return a row as a query; ``seen`` finds repetitions and clashes of ids."""
    # All rows of a table have the same columns, so there a missing one is a fault of the file.
    is_table = format_of(Path(origin)) not in (".jsonl", ".json", ".txt")
    if field is not None and is_table and isinstance(row, dict) and field not in row:
        raise DataError(f"no column {field!r} here", where=where, do=did_you_mean(field, map(str, row)))
    own_id = ""
    given = row if isinstance(row, dict) else {}
    try:
        own_id = _own_id(given.get("id"))
        prompt = to_prompt(row, field)
        name, content = own_id or made_id(prompt), content_hash(prompt)
        if first := seen.claim(name, content, where):
            do = "give each query its own id, or leave the column out: ids are then made from the text"
            raise Unusable(f"its id {name!r} belongs to another query already ({first})", do)
    except Unusable as unusable:
        return Dropped(own_id, where, str(unusable), unusable.do, unusable=True)
    if first := seen.first_id(content, name):  # a repetition is no fault: it counts in no share
        return Dropped(name, where, f"duplicate of {first}")
    source = given.get("source")
    source = source if isinstance(source, str) and is_text(source) else ""
    return Query(name, prompt, split, source or origin, _grown_from(given) if source.startswith(GROWN) else {})


def check_dataset_split(source: str, dataset_split: str, key: str) -> None:
    """Raise :class:`ConfigError`, naming the recipe's ``key``, where it names a split and the source has none."""
    if dataset_split != "train" and not is_split(source):
        what = f"dataset_split is {dataset_split!r}, but {source!r} is not a hub data set and has no splits"
        raise ConfigError(what, where=key, do="leave it out, or give a hub data set (org/name)")


def is_split(source: str) -> bool:
    """Return whether a source may have splits: a hub data set, or a folder of one."""
    return is_hub(source) or has_splits(home_expanded(source))


def is_hub(source: str) -> bool:
    """Return whether a source is ``org/name``: no local file or folder, and without a data file's suffix."""
    path = Path(source)
    return bool(_HUB_NAME.fullmatch(source)) and not format_of(path) and not path.exists()


def _source_files(source: str, split: str | None = None, key: str = "dataset_split") -> list[Path]:
    """Return the files of a source; of a folder that has splits those of one, or of all."""
    if source.startswith("builtin:"):
        name = source.removeprefix("builtin:")
        if name not in BUILTIN:
            raise DataError(f"no shipped query set {name!r}", where=source, do=did_you_mean(name, BUILTIN))
        return [_DATA / BUILTIN[name]]
    path = home_expanded(source)
    with reading(path):
        if not source.strip() or not path.exists():
            raise DataError("no such file", where=source or "(an empty name)", do=_nearby(path))
        return data_files(path, split, key) if path.is_dir() else [path]


def _nearby(path: Path) -> str:
    """Name files near a path that does not exist."""
    if not path.parent.is_dir():
        return f"no such folder either: {str(path.parent)!r}; check the path"
    names = sorted(item.name for item in path.parent.iterdir() if item.name != path.name)
    names = [name for name in names if not name.startswith(".")]
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    return f"{str(path.parent)!r} holds: {', '.join(names[:10]) or 'nothing'}{', ...' if names[10:] else ''}"


def _own_id(value: Any) -> str:
    """Return the text of a row's "id" column, "" where it is missing."""
    if is_missing(value):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise Unusable(f"its id is {shown(value)}, expected text or a number")
    name = str(value)
    if not is_text(name):
        raise Unusable("its id is broken text (half of a surrogate pair)")
    return name


def _grown_from(row: dict[str, Any]) -> dict[str, str]:
    """Return the provenance of a row that ``selfsteer augment`` wrote.

    It is cut down to what its source does not say and a reader of the rows needs, as millions of rows repeat it.
    """
    provenance = row.get("provenance")
    if not isinstance(provenance, dict):
        return {}
    found = {name: provenance[name] for name in _CARRIED if provenance.get(name)}
    texts = {name: ", ".join(map(str, one)) if isinstance(one, list) else str(one) for name, one in found.items()}
    return {name: text for name, text in texts.items() if is_text(text)}


def content_hash(prompt: list[Message]) -> bytes:
    """Return a hash that is equal for repetitions: prompts that differ in Unicode composition and white space only."""
    parts = []
    for message in prompt:
        # No line break is left in a text, so prompts that are joined by line breaks can't be mistaken for each other.
        parts += [message["role"], " ".join(normalize("NFC", message["content"]).split())]
    return hash_of("\n".join(parts))


made_id = fingerprint
"""Makes the id of a query without one of its own from its prompt."""
