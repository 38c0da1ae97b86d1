"""One row of a data file -> the prompt it asks for. Every accepted row shape is listed here."""

from __future__ import annotations

import json
from typing import Any

from selfsteer.errors import DataError, did_you_mean
from selfsteer.records import Message

COLUMNS = ("prompt", "instruction", "query", "question", "messages", "conversations", "text")
"""Columns that may hold the query; the first one that a row fills is taken ("instruction" is joined with "input").

"text" comes last because chat data sets often carry a rendered copy of "messages" under that name.
"""

BENCHMARK_COLUMNS = (*COLUMNS, "problem", "turns")
"""Columns that may hold the question of a benchmark: MATH has "problem", MT-Bench the texts of its "turns"."""

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


class Unusable(Exception):
    """A row that is well-formed but holds no query to use: the caller drops it with this reason."""


def to_prompt(row: Any, where: str, field: str | None = None) -> list[Message]:
    """Return the messages of one row, up to its last user turn: the answer to it is what gets sampled.

    Args:
        row: A string or an object with one of :data:`COLUMNS`.
        where: File and line, for messages.
        field: The column to take; None looks for one of :data:`COLUMNS`.

    Raises:
        Unusable: The query is empty, or a conversation can't serve as a prompt.
        DataError: The row has none of the accepted shapes.
    """
    value = _query(row, where, field)
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    roles = [_role(item, where) for item in value]
    if "user" not in roles:
        raise Unusable("no user message" if roles else "empty query")
    last = len(roles) - roles[::-1].index("user")
    prompt = [_message(role, item) for role, item in zip(roles[:last], value[:last], strict=True)]
    if not prompt[-1]["content"].strip():
        raise Unusable("empty query")
    return prompt


def to_texts(row: Any, where: str, field: str | None = None) -> list[str]:
    """Return what a row of a benchmark asks: the texts of its user turns, none where it is empty.

    Args:
        row: A string or an object with one of :data:`BENCHMARK_COLUMNS`; that may hold a list of texts, too.
        where: File and line, for messages.
        field: The column to take; None looks for one of :data:`BENCHMARK_COLUMNS`.

    Raises:
        DataError: The row has none of the accepted shapes.
    """
    if isinstance(row, dict):
        field = field or next((name for name in BENCHMARK_COLUMNS if not _blank(row.get(name))), None)
        texts = row.get(field) if field else None
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return texts
    # "instruction" is joined with "input" only where no column is named.
    prompt_field = None if field == "instruction" else field
    try:
        prompt = to_prompt(row, where, prompt_field)
    except Unusable:
        return []
    return [message["content"] for message in prompt if message["role"] == "user"]


def is_text(text: str) -> bool:
    r"""Tell whether ``text`` can be written as UTF-8; JSON's "\ud800" gives half a character, which can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _query(row: Any, where: str, field: str | None) -> str | list[Any]:
    """Return the text or the messages that a row holds."""
    if isinstance(row, str) and field is None:
        return row
    if not isinstance(row, dict):
        held = "plain text" if isinstance(row, str) else _kind(row)
        wanted = "a string or an object" if field is None else f"an object with the column {field!r}"
        raise DataError(f"a row is {held}, expected {wanted}", where=where, do="correct that row, or leave it out")
    column = _column(row, where, field)
    if column == "instruction" and field is None:
        return _joined([row["instruction"], row.get("input")], where)
    return _value(row[column], column, where)


def _column(row: dict[str, Any], where: str, field: str | None) -> str:
    """Return the name of the column that holds the query."""
    names = [str(name) for name in row]
    if field is not None:
        if field in row:
            return field
        raise DataError(f"no column {field!r} here", where=where, do=did_you_mean(field, names))
    present = [name for name in COLUMNS if name in row]
    if not present:
        raise DataError(
            f"no column that is known to hold a query; columns here: {', '.join(names) or '(none)'}",
            where=where,
            do=f"name the column with queries.field=NAME, or rename it to one of: {', '.join(COLUMNS)}",
        )
    return next((name for name in present if not _blank(row[name])), present[0])


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _value(value: Any, column: str, where: str) -> str | list[Any]:
    """Check the type of a cell; a conversation in a CSV cell is JSON text."""
    if value is None:
        raise Unusable("empty query")
    if isinstance(value, str) and column in ("messages", "conversations"):
        value = _parsed(value, column, where)
    if isinstance(value, str | list):
        return value
    raise DataError(
        f"column {column!r} holds {_kind(value)}, expected text or a list of messages",
        where=where,
        do="correct that row, or name another column with queries.field=NAME",
    )


def _parsed(text: str, column: str, where: str) -> Any:
    if not text.strip():
        raise Unusable("empty query")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"column {column!r} is text but not JSON: {error}",
            where=where,
            do='write it as a JSON list of messages: [{"role": "user", "content": "..."}]',
        ) from error


def _joined(parts: list[Any], where: str) -> str:
    """Join instruction and input by a blank line; a blank one is left out."""
    filled = [part for part in parts if not _blank(part)]
    for part in filled:
        if not isinstance(part, str):
            raise DataError(f"instruction or input is {_kind(part)}, expected text", where=where, do="correct that row")
    return "\n\n".join(filled)


def _role(item: Any, where: str) -> str:
    """Return the role of one message (role/content, or ShareGPT's from/value); an unknown one as it stands."""
    role = (item.get("role") or item.get("from")) if isinstance(item, dict) else None
    if not isinstance(role, str) or not {"content", "value"} & item.keys():
        held = (
            f"has the keys {', '.join(map(str, item)) or '(none)'}" if isinstance(item, dict) else f"is {_kind(item)}"
        )
        raise DataError(
            f"a message {held}, expected an object with role and content (or from and value)",
            where=where,
            do="correct that row, or name another column with queries.field=NAME",
        )
    return _ROLES.get(role.lower(), role)


def _message(role: str, item: dict[str, Any]) -> Message:
    content = item.get("content")
    if content is None:  # Parquet fills a key that only other messages have with null
        content = item.get("value")
    if role not in _ROLES.values():
        raise Unusable(f"a message of role {role!r}, none of system, user and assistant")
    if not isinstance(content, str):
        raise Unusable(f"a message of role {role!r} holds no text")
    if not is_text(content):
        raise Unusable("broken text (half of a surrogate pair)")
    return {"role": role, "content": content}


def _kind(value: Any) -> str:
    """Name a JSON value's type the way a reader of the file sees it."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")
