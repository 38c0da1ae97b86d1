"""One row of a data file -> the prompt it asks for. The columns that may hold it are listed here."""

from __future__ import annotations

from typing import Any

from selfsteer.errors import did_you_mean
from selfsteer.queries.messages import Cells, Unusable, read_messages, role_of
from selfsteer.records import Message

COLUMNS = ("prompt", "instruction", "query", "question", "messages", "conversations", "text")
"""Columns that may hold the query; the first one that a row fills is taken ("instruction" is joined with "input").

"text" comes last because chat data sets often carry a rendered copy of "messages" under that name.
"""

BENCHMARK_COLUMNS = (*COLUMNS, "problem", "turns")
"""Columns that may hold the question of a benchmark: MATH has "problem", MT-Bench the texts of its "turns"."""


class EmptyQuery(Unusable):
    """A row of a known form that asks nothing."""

    def __init__(self, reason: str = "empty query") -> None:
        super().__init__(reason, "check that the right column is taken (queries.field=NAME)")


def to_prompt(row: Any, field: str | None = None) -> list[Message]:
    """Return the messages of one row, up to its last user turn: the answer to it is what gets sampled.

    ``row`` is a string or an object; ``field`` the column to take, alone, None looks for one of :data:`COLUMNS`.

    Raises:
        EmptyQuery: The row holds no query.
        Unusable: The row has none of the accepted shapes, or it can't serve as a prompt.
    """
    if isinstance(row, str) and field is None:
        row = {"text": row}
    cells = Cells(row, "a string or an object" if field is None else f"an object with the column {field!r}")
    name = _column(cells, field)
    items = cells.conversation(name, alone=field is not None) if cells.filled(name) else []
    roles = [role_of(item, name) for item in items]
    if "user" not in roles:
        raise EmptyQuery("no user message" if roles else "empty query")
    last = len(roles) - roles[::-1].index("user")  # an answer in the data is dropped: here it is sampled
    prompt = read_messages(items[:last], name)
    if not prompt[-1]["content"].strip():
        raise EmptyQuery
    return prompt


def to_texts(row: Any, field: str | None = None) -> list[str]:
    """Return the questions of a benchmark's row: the texts of its user turns, none where it is empty.

    ``field`` None looks for one of :data:`BENCHMARK_COLUMNS`, which may hold a list of texts, too. A row of none of the
    accepted shapes is :class:`Unusable`.
    """
    if isinstance(row, dict):
        filled = Cells(row).first(BENCHMARK_COLUMNS)
        if field is None and filled is None and not row.keys().isdisjoint(BENCHMARK_COLUMNS):
            return []
        field = field or filled
        texts = row.get(field) if field else None
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return texts
    # "instruction" is joined with "input" only where no column is named.
    try:
        prompt = to_prompt(row, None if field == "instruction" else field)
    except EmptyQuery:
        return []
    return [message["content"] for message in prompt if message["role"] == "user"]


def _column(cells: Cells, field: str | None) -> str:
    """Return the name of the column that holds the query."""
    if field is not None:
        if field in cells.cells:
            return field
        raise Unusable(f"no column {field!r} here", did_you_mean(field, map(str, cells.cells)))
    present = [name for name in COLUMNS if name in cells.cells]
    if not present:
        raise Unusable(
            f"no column of a name that holds queries; columns here: {cells.names}",
            f"name the column with queries.field=NAME, or rename it to one of: {', '.join(COLUMNS)}",
        )
    return cells.first(present) or present[0]
