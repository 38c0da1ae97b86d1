"""The rows that travel between stages, and their Parquet form. No torch here.

In order: :class:`Query` -> :class:`SteeredQuery` -> :class:`Response` (three a query) -> :class:`Contrast`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from selfsteer.errors import DataError, StorageError
from selfsteer.files import atomic_path, parse_json

SCHEMA_VERSION = 1
_SURROGATE = re.compile("[\ud800-\udfff]")

Message = dict[str, str]
"""One chat message: ``{"role": ..., "content": ...}``."""

Finish = Literal["stop", "length", "absent"]
"""How a response ended; "absent": none was sampled, as where only y+ and y- are needed."""
Role = Literal["positive", "negative", "original"]
ROLES = ("positive", "negative", "original")
HARM_UNKNOWN = "unknown: no aspect, no classifier"
"""``Contrast.negative_harmful`` where it is unknown whether y- was asked to do harm."""
PROMPTS = ("prompt", "positive_prompt", "negative_prompt")


@dataclasses.dataclass(frozen=True)
class Query:
    """x: a prompt to align on.

    ``source`` is the file or data set that it was read from, or its row's own ``source``. ``provenance`` names the
    model and the sources of a grown query.
    """

    id: str
    prompt: list[Message]
    split: Literal["train", "heldout"] = "train"
    source: str = ""
    provenance: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SteeredQuery:
    """A query with its principle pair and the two steered prompts."""

    id: str
    prompt: list[Message]
    split: Literal["train", "heldout"]
    aspects: list[str]
    choice: str  # how the aspects were chosen: Choice.outcome of selfsteer.principles; "none" without aspects
    positive_principle: str
    negative_principle: str
    positive_prompt: list[Message]
    negative_prompt: list[Message]
    writing: str = "fixed"  # how the principles came about: "fixed" (the set's); written: "ok", "repaired", "fallback"
    provenance: dict[str, str] = dataclasses.field(default_factory=dict)  # where the query comes from


@dataclasses.dataclass(frozen=True)
class Response:
    """One sampled response. ``token_ids`` holds the end token if and only if ``finish`` is "stop"."""

    id: str
    role: Role
    text: str
    finish: Finish
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    thinking: str = ""  # a reasoning part that came apart from the answer; elsewhere it is in text and token_ids


@dataclasses.dataclass(frozen=True)
class Contrast:
    """One record of preference data: a query, its principle pair and three responses.

    ``scores[role_response][prompt]`` is the mean log-prob (nats per response token) of a response under a prompt, e.g.
    ``scores["positive_response"]["negative_prompt"]``; None where nothing was scored.
    ``steering_margin`` is m(y+|x+) - m(y+|x-) + m(y-|x-) - m(y-|x+) of these, nats per token, once quality control has
    read a row with scores. ``negative_harmful`` is why y- counts as harmful: "principle: Safety" (it was asked to) or
    "classifier: 0.93" (its probability), "" where it does not, and :data:`HARM_UNKNOWN` where that is unknown.
    ``drop_reason`` is "" for a row that is kept, else the name of the filter that dropped it and why.
    """

    id: str
    prompt: list[Message]
    split: Literal["train", "heldout"]
    aspects: list[str]
    positive_principle: str
    negative_principle: str
    positive_prompt: list[Message]
    negative_prompt: list[Message]
    positive_response: str
    negative_response: str
    original_response: str
    positive_finish: Finish
    negative_finish: Finish
    original_finish: Finish
    prompt_token_ids: list[int] | None = None
    positive_prompt_token_ids: list[int] | None = None
    negative_prompt_token_ids: list[int] | None = None
    positive_token_ids: list[int] | None = None
    negative_token_ids: list[int] | None = None
    original_token_ids: list[int] | None = None
    positive_thinking: str = ""  # a reasoning model's thoughts, apart from the answer above
    negative_thinking: str = ""
    original_thinking: str = ""
    round: int = 1
    scores: dict[str, dict[str, float]] | None = None
    steering_margin: float | None = None
    negative_harmful: str = ""
    kept: bool = True
    drop_reason: str = ""
    provenance: dict[str, str] = dataclasses.field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the responses that were sampled."""
        return tuple(role for role in ROLES if getattr(self, f"{role}_finish") != "absent")

    def response_ids(self, role: str) -> list[int]:
        """Token ids of a response; raises :class:`DataError` where the row carries none."""
        return self._ids(f"{role}_token_ids")

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of one of the three rendered :data:`PROMPTS`."""
        return self._ids(f"{prompt}_token_ids")

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest of the three prompts.

        A length limit less these is the room for each response, under whichever prompt it is scored: means of one
        response under two prompts can only be compared if they are taken over the same tokens.
        """
        return max(len(self.prompt_ids(prompt)) for prompt in PROMPTS)

    def scored_tokens(self, role: str, max_length: int | None) -> int:
        """Return how many tokens of a response are scored: those that the length limit leaves room for."""
        room = None if max_length is None else max_length - self.longest_prompt
        return len(self.response_ids(role)[:room])

    def _ids(self, column: str) -> list[int]:
        ids: list[int] | None = getattr(self, column)
        if ids is None:
            do = "tokenise it first with selfsteer.contrast.with_token_ids(row, chat)"
            raise DataError(f"row {self.id!r} has no {column}", do=do)
        return ids

    def drop(self, reason: str) -> Contrast:
        """Return a copy that is not kept, with its reason."""
        return dataclasses.replace(self, kept=False, drop_reason=reason)


_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_IDS = pa.list_(pa.int32())
_SCORES = pa.struct([(f"{role}_response", pa.struct([(prompt, pa.float64()) for prompt in PROMPTS])) for role in ROLES])
_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(PROMPTS, _MESSAGES),
    **dict.fromkeys(["token_ids", *(f"{name}_token_ids" for name in (*PROMPTS, *ROLES))], _IDS),
    "aspects": pa.list_(pa.string()),
    "round": pa.int32(),
    "schema_version": pa.int32(),
    "scores": _SCORES,
    "steering_margin": pa.float64(),
    "kept": pa.bool_(),
    "provenance": pa.string(),  # JSON: keys differ by backend
}

Row = TypeVar("Row", Query, SteeredQuery, Response, Contrast)


def schema(kind: type[Row]) -> pa.Schema:
    """Return the Arrow schema of a record type; columns are in the order of its fields."""
    return pa.schema([(field.name, _TYPES.get(field.name, pa.string())) for field in dataclasses.fields(kind)])


class WrongColumn(TypeError):
    """A column of a file holds other values than a record has."""


def required(kind: type[Row]) -> list[str]:
    """Return the fields that every row has."""
    return [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]


def _never_empty(kind: type) -> list[str]:
    """Return the fields whose type has no None."""
    return [name for name, hint in get_type_hints(kind).items() if type(None) not in get_args(hint)]


def check_types(found: pa.Schema, kind: type[Row]) -> None:
    """Raise :class:`WrongColumn` where a column of the record's has another type."""
    for field in schema(kind):
        place = found.get_field_index(field.name)
        if place >= 0 and not _holds(found.field(place).type, field.type):
            raise WrongColumn(f"the column {field.name} is of type {found.field(place).type}, expected {field.type}")


def check_filled(rows: pa.Table | pa.RecordBatch, fields: Iterable[str]) -> None:
    """Raise :class:`WrongColumn` where a row lacks the value of a field."""
    for name in fields:
        if name in rows.schema.names and (lacking := rows.column(name).null_count):
            raise WrongColumn(f"the column {name} lacks a value in {lacking} rows or more")


def _holds(found: pa.DataType, expected: pa.DataType) -> bool:
    """Return whether values of a type are values of the expected one, as other writers of Parquet store it."""
    kinds = pa.types
    if kinds.is_dictionary(found):
        found = found.value_type
    if kinds.is_null(found) or found == expected:
        return True
    if kinds.is_struct(expected):
        names = [field.name for field in expected]
        known = kinds.is_struct(found) and {field.name: field.type for field in found}
        return bool(known) and all(name in known and _holds(known[name], expected.field(name).type) for name in names)
    if kinds.is_list(expected):
        several = kinds.is_list(found) or kinds.is_large_list(found) or kinds.is_fixed_size_list(found)
        return several and _holds(found.value_type, expected.value_type)
    if kinds.is_string(expected):
        return bool(kinds.is_large_string(found) or kinds.is_string_view(found))
    if kinds.is_floating(expected):
        return bool(kinds.is_floating(found) or kinds.is_integer(found))
    return bool(kinds.is_integer(expected) and kinds.is_integer(found))


def write_rows(path: Path, kind: type[Row], rows: Sequence[Row], *, sync: bool = True) -> None:
    """Write one Parquet shard atomically; ``sync`` as for :func:`atomic_path`.

    Text that UTF-8 can't hold raises :class:`DataError` with the row's id.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    dicts = [{name: getattr(row, name) for name in names} for row in rows]
    for values in dicts:
        if "provenance" in values:
            values["provenance"] = json.dumps(values["provenance"], sort_keys=True)
    try:
        table = pa.Table.from_pylist(dicts, schema=schema(kind))
    except UnicodeEncodeError as error:
        row_id = next(values["id"] for values in dicts if _SURROGATE.search(json.dumps(values, ensure_ascii=False)))
        what, do = (
            "a row holds half of a surrogate pair, which is not valid text",
            "leave that row out, or correct its text",
        )
        raise DataError(what, where=f"row {row_id!r}", do=do) from error
    with atomic_path(path, sync=sync) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)  # a damaged page is an error, not other text


def read_rows(paths: Iterable[Path], kind: type[Row]) -> Iterator[Row]:
    """Yield the rows of Parquet shards in order. A damaged shard raises :class:`StorageError` with its name."""
    for path in paths:
        with _reading(path):
            rows = _rows_of(pq.read_table(path, page_checksum_verification=True), kind)
        yield from rows


def read_places(path: Path, kind: type[Row], positions: Sequence[int]) -> list[Row]:
    """Return the rows of a Parquet shard at some positions, in their order; the errors are those of read_rows."""
    with _reading(path):
        return _rows_of(pq.read_table(path, page_checksum_verification=True).take(list(positions)), kind)


def _rows_of(table: pa.Table, kind: type[Row]) -> list[Row]:
    names = {field.name for field in dataclasses.fields(kind)}
    check_types(table.schema, kind)
    # Our own writer leaves none of these empty, also where a field has a default.
    check_filled(table, _never_empty(kind))
    dicts = table.to_pylist()
    for values in dicts:
        if "provenance" in values:
            values["provenance"] = parse_json(values["provenance"])
    return [kind(**{name: values[name] for name in values if name in names}) for values in dicts]


_BLOCK_ROWS = 4096
"""Rows of :class:`StoredRows` in memory at a time; so many are also sorted for a judge's batches."""


class StoredRows(Collection[Contrast]):
    """Contrasts of Parquet shards, read again at each pass, some thousand at a time.

    Each block of them is in the order of the ids, so up to 4,096 rows come in that order.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def blocks(self) -> Iterator[list[Contrast]]:
        """Yield all rows, a list of some thousand at a time."""
        rows: list[Contrast] = []
        for path in self._paths:
            if len(rows) + count_rows(path) > _BLOCK_ROWS and rows:
                yield sorted(rows, key=lambda row: row.id)
                rows = []
            rows += read_rows([path], Contrast)
        if rows:
            yield sorted(rows, key=lambda row: row.id)

    def full_ids(self, *, kept: bool = False) -> Iterator[str]:
        """Yield the ids of rows of which no sampled response is empty; with ``kept`` of those kept alone."""
        columns = [f"{role}_{part}" for role in ROLES for part in ("response", "finish")]
        for name, is_kept, *values in read_columns(self._paths, ["id", "kept", *columns]):
            sampled = zip(values[::2], values[1::2], strict=True)
            if (is_kept or not kept) and all(text or finish == "absent" for text, finish in sampled):
                yield name

    def ids(self) -> Iterator[str]:
        """Yield the ids of all rows."""
        return (name for (name,) in read_columns(self._paths, ["id"]))

    def __iter__(self) -> Iterator[Contrast]:
        return (row for block in self.blocks() for row in block)

    def __len__(self) -> int:
        return sum(map(count_rows, self._paths))

    def __contains__(self, row: object) -> bool:
        return any(row == own for own in self)


def read_columns(paths: Iterable[Path], columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield some columns of Parquet shards, a tuple a row. A damaged shard raises :class:`StorageError`.

    A column that a shard of an earlier version lacks gives None.
    """
    for path in paths:
        with _reading(path):
            table = pq.read_table(path, columns=list(columns), page_checksum_verification=True)
        nothing = [None] * table.num_rows
        yield from zip(
            *(table[name].to_pylist() if name in table.column_names else nothing for name in columns), strict=True
        )


def count_rows(path: Path) -> int:
    """Return how many rows a Parquet shard holds, from its footer."""
    with _reading(path):
        return int(pq.read_metadata(path).num_rows)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        gone = isinstance(error, FileNotFoundError)
        what = "a stored shard is gone" if gone else f"can't read a stored shard: {error}"
        do = "run the command that made it again" if gone else "delete that file and run the command again"
        raise StorageError(what, where=str(path), do=do) from error


def score(row: Contrast, role: str, prompt: str) -> float:
    """Return a stored mean log-prob of a scored row, nats per token."""
    assert row.scores is not None
    return row.scores[f"{role}_response"][prompt]


def is_full(row: Contrast) -> bool:
    """Return whether none of the responses that were sampled is empty."""
    return all(getattr(row, f"{role}_response") for role in row.roles)


def is_scored(row: Contrast) -> bool:
    """Return whether each response was scored under each prompt; Parquet gives None for a cell that was not."""
    return all(has_score(row, role, prompt) for role in row.roles for prompt in PROMPTS)


def has_score(row: Contrast, role: str, prompt: str) -> bool:
    """Return whether a response was scored under a prompt."""
    return ((row.scores or {}).get(f"{role}_response") or {}).get(prompt) is not None
