"""Cells of a row -> texts, numbers and messages: the one reader of queries, pairs, judge sets and `score`.

docs/data.md lists the accepted forms.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from selfsteer.files import parse_json
from selfsteer.queries.file_readers import Unreadable
from selfsteer.records import Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "chatbot": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "ai": "assistant",
    "model": "assistant",
}
"""Spellings of a role, in lower case."""

SYSTEM_COLUMNS = ("system", "system_prompt")
_CONVERSATIONS = ("messages", "conversations")
_BESIDE_TEXT = {
    "tools": "tools",
    "tool_calls": "a tool call",
    "function_call": "a tool call",
    "images": "images",
    "image": "an image",
    "audios": "audio",
    "audio": "audio",
    "videos": "videos",
    "video": "a video",
}
"""Columns of a row and keys of a message that change its meaning, and that no text model here gets."""

_NOTHING = ("null", "none", "nan", "[]", "{}")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_START = re.compile(r'\s*"?(?:array\()?[\[(]?\s*\{')
_ROLE_KEY = re.compile(r"""[{,(]\s*\\?["'](?:role|from)\\?["']\s*[:,]""")
_TEXT_KEY = re.compile(r"""[{,(]\s*\\?["'](?:content|value)\\?["']\s*[:,]""")
_FORM = '[{"role": "user", "content": "..."}, ...]'


class Unusable(Exception):
    """A row that can't be used: the caller leaves it out with this reason.

    Attributes:
        do: How to fix it, "" where the reason says it.
    """

    def __init__(self, reason: str, do: str = "") -> None:
        super().__init__(reason)
        self.do = do


def is_missing(value: Any) -> bool:
    """Return whether a cell is empty: null, NaN, blank text, or a list or an object that holds nothing else."""
    if isinstance(value, str):
        return not value or value.isspace()
    if isinstance(value, list | tuple):
        return all(map(is_missing, value))
    if isinstance(value, dict):
        return all(map(is_missing, value.values()))
    return value is None or value != value


def is_text(text: str) -> bool:
    r"""Return whether ``text`` can be written as UTF-8; JSON's "\ud800" gives half a character, which can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def kind(value: Any) -> str:
    """Name a value's type the way a reader of the file sees it."""
    names = {bool: "true or false", int: "a number", float: "a number", Decimal: "a number", str: "text"}
    names |= {list: "a list", dict: "an object", bytes: "bytes"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


class Cells:
    """The cells of a row by name, checked when they are read. Each method may raise :class:`Unusable`.

    Args:
        row: As the file reader gave it.
        expected: The right form of a row, for the reason.

    Raises:
        Unusable: The row could not be read, is not an object, or holds more than text: tools, images, audio or video.
    """

    def __init__(self, row: Any, expected: str = "an object") -> None:
        if isinstance(row, Unreadable):
            raise Unusable(row.reason, row.do)
        if not isinstance(row, dict):
            raise Unusable(f"a row is {kind(row)}, expected {expected}", "correct those rows, or leave them out")
        self.cells: Mapping[str, Any] = row
        _refuse_what_is_no_text(row, "the row")

    @property
    def names(self) -> str:
        """The row's keys, for a reason."""
        return ", ".join(map(str, self.cells)) or "(none)"

    def filled(self, name: str) -> bool:
        """Return whether the row has a cell of that name with something in it."""
        return name in self.cells and not is_missing(self.cells[name])

    def first(self, names: Iterable[str]) -> str | None:
        """Return the first of some columns that is filled, None where none is."""
        return next((name for name in names if self.filled(name)), None)

    def value(self, name: str) -> str | list[Any]:
        """Return a column's text, or the items of its conversation, also where that is written as text."""
        return _structured(self.cells[name], name)

    def text(self, name: str) -> str:
        """Return a column's text."""
        value = self.value(name)
        if isinstance(value, list):
            raise Unusable(f"{name!r} is a list of messages, expected text")
        return checked_text(value, repr(name))

    def number(self, name: str) -> float | None:
        """Return a column's number, also of digits as text (CSV has nothing else); None where it is missing."""
        value = self.cells[name]
        if is_missing(value) or (isinstance(value, str) and value.strip().lower() in _NOTHING):
            return None
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            return float(value)
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            raise Unusable(f"{name!r} is {shown(value)}, expected a number")
        try:
            return float(value)
        except OverflowError:
            raise Unusable(f"{name!r} is {shown(value)}, which is too large") from None

    def messages(self, name: str) -> list[Message]:
        """Return a column's messages; a text is refused."""
        value = self.value(name)
        if isinstance(value, str):
            raise Unusable(f"{name!r} is text, expected messages")
        return read_messages(value, name)

    def conversation(self, name: str, *, alone: bool = False) -> list[Any]:
        """Return the items of the conversation that a column holds, to be read by :func:`read_messages`.

        Text is one user message. An instruction is joined with its "input", and a text follows the turns of "history".
        A system message of its own column comes first where the conversation brings none. ``alone``: no other column
        counts.
        """
        value = self.value(name)
        if isinstance(value, str):
            text = value
            if name == "instruction" and not alone:  # joined with its input by a blank line; a blank one is left out
                parts = [value, self.text("input") if self.filled("input") else ""]
                text = "\n\n".join(part for part in parts if not is_missing(part))
            # `system` and `history` as LLaMA-Factory's and orca's rows mean them; a named column is taken alone.
            value = [*([] if alone else self._history()), {"role": "user", "content": text}]
        elif name == "instruction" and not alone and self.filled("input"):
            raise Unusable("'instruction' is a list of messages beside an 'input', expected text")
        return value if alone else self.with_system(value)

    def with_system(self, items: list[Any]) -> list[Any]:
        """Return a conversation with the system message of its own column, where it brings none."""
        name = self.first(SYSTEM_COLUMNS)
        if name is None or not items or role_of(items[0], "conversation") == "system":
            return items
        return [{"role": "system", "content": self.text(name)}, *items]

    def _history(self) -> list[Any]:
        """Return earlier turns: LLaMA-Factory's pairs of question and answer, or messages; other text is no history."""
        value = self.cells.get("history") if self.filled("history") else None
        turns = _parsed(value) if isinstance(value, str) else value
        if not isinstance(turns, list | tuple):
            return []
        if all(isinstance(turn, dict) for turn in turns):
            return list(turns)
        if not all(isinstance(turn, list | tuple) and len(turn) == 2 for turn in turns):
            raise Unusable(f"'history' is {shown(value)}, expected pairs of a question and its answer")
        roles = ("user", "assistant")
        return [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]


def role_of(item: Any, name: str) -> str:
    """Return the role of a message (with role and content, or ShareGPT's from and value); an unknown one as it is."""
    do = "correct those rows, or name another column with queries.field=NAME"
    if not isinstance(item, dict):
        raise Unusable(f"{name!r} holds {kind(item)} in place of a message with role and content", do)
    role = item.get("role") or item.get("from")
    if not isinstance(role, str) or not {"content", "value", *_BESIDE_TEXT} & item.keys():
        held = ", ".join(map(str, item)) or "(none)"
        raise Unusable(f"{name!r} has a message with the keys {held}; expected role and content (or from, value)", do)
    return ROLES.get(role.strip().lower(), role)


def read_messages(items: Sequence[Any], name: str) -> list[Message]:
    """Return messages of a column as role and content."""
    what, messages = f"a message of {name!r}", list[Message]()
    for item in items:
        role = role_of(item, name)
        if role not in ("system", "user", "assistant"):
            raise Unusable(f"{name!r} has a message of role {role!r}, none of system, user and assistant")
        _refuse_what_is_no_text(item, what)
        # Parquet fills a key that only other messages have with null.
        content = next((item[key] for key in ("content", "value") if item.get(key) is not None), None)
        if content is None or content != content or content == []:
            raise Unusable(f"{name!r} has a message of role {role!r} that holds no text")
        messages.append({"role": role, "content": checked_text(content, what)})
    return messages


def checked_text(value: Any, what: str) -> str:
    """Return a text: of a string, of bytes or of content parts."""
    if isinstance(value, Unreadable):
        raise Unusable(f"{what} can't be read: {value.reason}", value.do)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, list | tuple | dict):
        value = "\n".join(_part(part, what) for part in ([value] if isinstance(value, dict) else value))
    if not isinstance(value, str):
        raise Unusable(f"{what} is {kind(value)}, expected text")
    if not is_text(value):
        raise Unusable(f"{what} is broken text (half of a surrogate pair)")
    return value


def shown(value: Any) -> str:
    """Return a value for a reason, shortened where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _part(part: Any, what: str) -> str:
    """Return the text of a content part (OpenAI's form); any other part is refused by its type."""
    if isinstance(part, str):
        return part
    own = part if isinstance(part, dict) else {}
    if own.get("type") in (None, "text", "input_text", "output_text") and isinstance(own.get("text"), str):
        return str(own["text"])
    held = f"a part of type {own['type']!r}" if own.get("type") else kind(part)
    raise Unusable(f"{what} holds {held}, and only text is read")


def _refuse_what_is_no_text(held: Mapping[str, Any], what: str) -> None:
    for name in (name for name in _BESIDE_TEXT if name in held):
        value = held[name]
        if not is_missing(value) and not (isinstance(value, str) and value.strip().lower() in _NOTHING):
            do = f"the models here get text alone; remove {name!r} where the text is complete without it"
            raise Unusable(f"{what} has {_BESIDE_TEXT[name]} ({name!r})", do)


def _structured(value: Any, name: str) -> str | list[Any]:
    """Return a cell as text or as the items of a conversation.

    Raises:
        Unusable: It is neither; or it is text that was a conversation once, and can't be parsed.
    """
    if isinstance(value, bytes):
        value = checked_text(value, repr(name))
    if isinstance(value, str):
        parsed = _conversation_in(value, name)
        if parsed is None and name in _CONVERSATIONS:
            raise Unusable(f"{name!r} is text but no list of messages", f"write it as JSON: {_FORM}")
        if parsed is None:
            return value
        value = parsed
    if isinstance(value, dict) and value and all(isinstance(one, list | tuple) for one in value.values()):
        return [dict(zip(value, turn, strict=False)) for turn in zip(*value.values(), strict=False)]
    if isinstance(value, dict):
        return [value]
    if isinstance(value, list | tuple):
        parts = value and all(isinstance(one, dict) and isinstance(one.get("type"), str) for one in value)
        return checked_text(value, repr(name)) if parts and not any(map(_is_message, value)) else list(value)
    return checked_text(value, repr(name))


def _conversation_in(text: str, name: str) -> Any:
    """Return the messages that a text cell holds as JSON or as a Python literal, None where it is just text."""
    if not (_START.match(text) and _ROLE_KEY.search(text) and _TEXT_KEY.search(text)):
        return None
    value = _parsed(text)
    if isinstance(value, str):
        return _conversation_in(value, name)  # JSON within JSON
    if isinstance(value, dict) and (_is_message(value) or {"role", "content"} <= value.keys()):
        return value
    if isinstance(value, list | tuple) and any(map(_is_message, value)):
        return list(value)
    if value is None:
        do = f"write it as JSON: {_FORM}"
        raise Unusable(f"{name!r} looks like a list of messages, and is neither JSON nor a Python literal", do)
    return None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role") or value.get("from"), str)


def _parsed(text: str) -> Any:
    """Return the value that a text is, in JSON or as Python prints it; None where it is neither."""
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # "\d" in a text
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
