"""Sets of preference pairs, each in the form that its authors chose, read as labelled pairs. No torch here."""

from __future__ import annotations

import collections
import random
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from selfsteer.errors import ConfigError, DataError
from selfsteer.evaluation.judges.base import Pair
from selfsteer.files import fingerprint
from selfsteer.queries import Dropped, is_hub
from selfsteer.queries.read import read_file, read_hub
from selfsteer.queries.rows import Unusable, is_text
from selfsteer.records import Message

_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True)
class PairSet:
    """What a source gave: its name, its pairs in order, and the rows that were left out, each with its reason."""

    name: str
    pairs: list[Pair]
    dropped: list[Dropped]


def load_pairs(
    source: Path, *, limit: int | None = None, seed: int = 0, name: str | None = None, split: str = "train"
) -> PairSet:
    """Load preference pairs from a file or a hub data set; the form of each row is told by its keys (:data:`_FORMS`).

    Labels are in the numbering of the pair. Where a form only says "chosen" and "rejected", a hash of the content
    decides which of them becomes the first, so that a judge that always says "the first" is not right by construction.
    A pair's id is the set's name and the number of its row, from 1; the set's name is the file's without its suffixes,
    or all of the hub data set's.
    A row's own "subset" is kept, all other rows belong to a subset of the set's name.

    Args:
        source: A .json, .jsonl, .parquet, .csv or .tsv file, the text forms also with .gz; or a hub data set,
            org/name or org/name:config.
        limit: Take a random sample of so many pairs, in the order of the file; None takes all.
        seed: Chooses the sample.
        name: The set's, in place of the file's.
        split: The split of a hub data set.

    Returns:
        The pairs, and all rows of the source that are not two answers to one conversation, whatever the limit.

    Raises:
        ConfigError: ``limit`` is not positive.
        DataError: The source can't be read, a row has no known form or a wrong cell, or no pair is left.
    """
    _check_limit(limit)
    hub = is_hub(str(source))
    name = name or (str(source) if hub else Path(source.name.removesuffix(".gz")).stem)
    rows = read_hub(str(source), split, "--split") if hub else read_file(source)
    pairs, dropped = [], []
    for number, (where, row) in enumerate(rows, 1):
        own_id = f"{name}-{number}"
        try:
            pairs.append(pair_of(row, where, own_id, name))
        except Unusable as unusable:
            dropped.append(Dropped(own_id, where, str(unusable)))
    if not pairs:
        raise _nothing_left(source, dropped)
    return PairSet(name, sample_pairs(pairs, limit, seed), dropped)


def sample_pairs(pairs: list[Pair], limit: int | None, seed: int) -> list[Pair]:
    """Return a random sample of so many pairs, in their order; all where ``limit`` is None.

    Raises:
        ConfigError: ``limit`` is not positive.
    """
    _check_limit(limit)
    if limit is None or limit >= len(pairs):
        return pairs
    return [pairs[index] for index in sorted(random.Random(seed).sample(range(len(pairs)), limit))]


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}", where="limit", do="ask for 1 or more, or leave it out for all")


class _Content(NamedTuple):
    """The part of a pair that a form decides."""

    prompt: list[Message]
    first: str
    second: str
    label: int | None


@dataclass(frozen=True)
class _Row:
    """A row's cells by key, checked as they are asked for: a wrong type is an error, unusable text drops the row."""

    cells: dict[str, Any]
    where: str

    def wrong(self, key: str, value: Any, expected: str) -> DataError:
        return DataError(
            f"{key!r} is {reprlib.repr(value)}, expected {expected}",
            where=self.where,
            do="correct that row, or leave it out",
        )

    def text(self, key: str) -> str:
        return self._checked(key, self.cells[key])

    def number(self, key: str) -> float | None:
        """Return a number; None for null and NaN, by which tables say that nothing is known."""
        value = self.cells[key]
        if value is None or value != value:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, value, "a number")
        return value

    def messages(self, key: str) -> list[Message]:
        """Return the messages of a list, or of a single object; role/content or ShareGPT's from/value."""
        value = self.cells[key]
        items = [value] if isinstance(value, dict) else value
        if not isinstance(items, list):
            raise self.wrong(key, value, "text or messages")
        return [self._message(key, item) for item in items]

    def prompt(self, key: str) -> list[Message]:
        """Return the conversation that ends with what is to be answered; text is one user message."""
        if isinstance(self.cells[key], str):
            return _asking([{"role": "user", "content": self.text(key)}])
        return _asking(self.messages(key))

    def answer(self, key: str, prompt: list[Message]) -> str:
        """Return the text of an answer; as messages it may repeat the whole prompt before it."""
        if isinstance(self.cells[key], str):
            return self.text(key)
        messages = self.messages(key)
        rest = messages[len(prompt) :] if messages[: len(prompt)] == prompt else messages
        if [message["role"] for message in rest] != ["assistant"]:
            raise Unusable(f"{key!r} is not one answer of the assistant")
        return rest[0]["content"]

    def dialogue(self, key: str) -> list[Message]:
        """Return a whole dialogue, from "Human: ..." and "Assistant: ..." in one text or from messages."""
        return _turns(self.text(key), key) if isinstance(self.cells[key], str) else self.messages(key)

    def _message(self, key: str, item: Any) -> Message:
        role = (item.get("role") or item.get("from")) if isinstance(item, dict) else None
        if not isinstance(role, str):
            raise self.wrong(key, item, "a message with role and content (or from and value)")
        if role not in _ROLES:
            raise Unusable(f"{key!r} has a message of role {role!r}, none of {', '.join(_ROLES)}")
        content = item.get("content")
        # Parquet fills a key that only other messages have with null
        return {"role": _ROLES[role], "content": self._checked(key, item.get("value") if content is None else content)}

    def _checked(self, key: str, text: Any) -> str:
        if not isinstance(text, str):
            raise self.wrong(key, text, "text")
        if not is_text(text):
            raise Unusable(f"{key!r} is broken text (half of a surrogate pair)")
        return text


def _asking(messages: list[Message]) -> list[Message]:
    """Return a prompt that is one: it ends with a user message that says something."""
    if not messages or messages[-1]["role"] != "user":
        raise Unusable("the conversation does not end with a user message before the answers")
    if not messages[-1]["content"].strip():
        raise Unusable("empty prompt")
    return messages


def _turns(text: str, key: str) -> list[Message]:
    """Split a dialogue written as one text; turns of one speaker that follow each other are one."""
    lead, *parts = _SPEAKER.split("\n\n" + text.strip())
    if lead.strip() or not parts:
        raise Unusable(f"{key!r} is no dialogue of the form 'Human: ... Assistant: ...'")
    turns: list[Message] = []
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        role = _ROLES[speaker.lower()]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n\n" + said.strip()
        else:
            turns.append({"role": role, "content": said.strip()})
    return turns


def _llmbar(row: _Row) -> _Content:
    label = _label(row, "label", {1: 1, 2: -1})
    return _Content(row.prompt("input"), row.text("output_1"), row.text("output_2"), label)


def _autoj(row: _Row) -> _Content:
    label = _label(row, "label", {0: 1, 1: -1, 2: 0})
    return _Content(row.prompt("prompt"), row.text("response 1"), row.text("response 2"), label)


def _alpaca_eval(row: _Row) -> _Content:
    label = _preference(row)
    return _Content(row.prompt("instruction"), row.text("output_1"), row.text("output_2"), label)


def _sharegpt(row: _Row) -> _Content:
    """Read LLaMA-Factory's pairs; the column "system" counts where the conversation brings no system message."""
    prompt = row.prompt("conversations")
    if row.cells.get("system") and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": row.text("system")}, *prompt]
    return _placed(prompt, row.answer("chosen", prompt), row.answer("rejected", prompt))


def _preferred(row: _Row) -> _Content:
    prompt = row.prompt("prompt")
    return _placed(prompt, row.answer("chosen", prompt), row.answer("rejected", prompt))


def _dialogues(row: _Row) -> _Content:
    """Cut two whole dialogues where they part: one last answer must be left of each."""
    chosen, rejected = row.dialogue("chosen"), row.dialogue("rejected")
    same = [one == other for one, other in zip(chosen[:-1], rejected[:-1], strict=False)]
    shared = same.index(False) if False in same else len(same)
    rest = chosen[shared:] + rejected[shared:]
    if [message["role"] for message in rest] != ["assistant", "assistant"]:
        raise Unusable("the two dialogues are not one conversation with two last answers")
    return _placed(_asking(chosen[:shared]), rest[0]["content"], rest[1]["content"])


_FORMS: Mapping[str, tuple[tuple[str, ...], Callable[[_Row], _Content]]] = {
    "LLMBar": (("input", "output_1", "output_2", "label"), _llmbar),
    "Auto-J": (("prompt", "response 1", "response 2", "label"), _autoj),
    "AlpacaEval annotations": (("instruction", "output_1", "output_2", "preference"), _alpaca_eval),
    "ShareGPT pairs": (("conversations", "chosen", "rejected"), _sharegpt),
    "RewardBench, HHH, TRL": (("prompt", "chosen", "rejected"), _preferred),
    "HH-RLHF dialogues": (("chosen", "rejected"), _dialogues),
}
"""Forms by name: the keys that a row of that form has, and what reads it. The first that fits is taken."""


def pair_of(row: Any, where: str, own_id: str, name: str) -> Pair:
    """Return the pair of a row in any of the known forms.

    Args:
        row: As it was read.
        where: File and line, for messages.
        own_id: The pair's id.
        name: Its subset, where the row names none.

    Raises:
        DataError: The row has no known form or a wrong cell.
        Unusable: It is well-formed and holds no two answers to one conversation.
    """
    cells = row if isinstance(row, dict) else {}
    for keys, read in _FORMS.values():
        if set(keys) <= cells.keys():
            return Pair(own_id, *read(_Row(cells, where)), subset=str(cells.get("subset") or name))
    held = (
        f"has the keys {', '.join(map(str, row)) or '(none)'}" if isinstance(row, dict) else f"is {reprlib.repr(row)}"
    )
    forms = "; ".join(f"{form} ({', '.join(keys)})" for form, (keys, _) in _FORMS.items())
    raise DataError(
        f"a row {held}, which is no known form of a preference pair",
        where=where,
        do=f"give rows of one of these forms: {forms}",
    )


def _label(row: _Row, key: str, meanings: Mapping[float, int]) -> int | None:
    value = row.number(key)
    if value is not None and value not in meanings:
        raise row.wrong(key, value, f"one of {', '.join(map(str, meanings))}")
    return None if value is None else meanings[value]


def _preference(row: _Row) -> int | None:
    """Return the label of AlpacaEval's preference: from 1 (the first) to 2 (the second), 0 or 1.5 for a draw."""
    value = row.number("preference")
    if value is None:
        return None
    if value != 0 and not 1 <= value <= 2:
        raise row.wrong("preference", value, "a number from 1 to 2, or 0 for a draw")
    return 0 if value in (0, 1.5) else 1 if value < 1.5 else -1


def _placed(prompt: list[Message], chosen: str, rejected: str) -> _Content:
    """Put the chosen answer first or second, as a hash of the content says."""
    if int(fingerprint([prompt, chosen, rejected]), 16) % 2:
        return _Content(prompt, rejected, chosen, -1)
    return _Content(prompt, chosen, rejected, 1)


def _nothing_left(source: Path, dropped: list[Dropped]) -> DataError:
    if not dropped:
        return DataError("the source holds no row", where=str(source), do="give a file that holds preference pairs")
    counts = collections.Counter(item.reason for item in dropped).most_common(3)
    return DataError(
        f"no pair is left of {len(dropped)} rows: {', '.join(f'{why} ({count} rows)' for why, count in counts)}",
        where=f"{source}, first at {dropped[0].where}",
        do="give a file whose rows hold two answers to one conversation",
    )
