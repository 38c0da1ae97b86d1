"""Reads data sets of preference pairs, in the forms their authors chose, as labelled pairs. No torch here."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from selfsteer.errors import ConfigError
from selfsteer.files import fingerprint
from selfsteer.judges.base import Pair
from selfsteer.queries import Dropped, is_hub, source_rows
from selfsteer.queries.messages import ROLES, Cells, Unusable, is_missing, read_messages, shown
from selfsteer.queries.tally import Reason, Tally, check_share
from selfsteer.records import Message

_NOT_ASKING = "the conversation does not end with a user message before the answers"
_DIALOGUE = re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL)
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True)
class PairSet:
    """The pairs of a source in order, the rows that were left out, and the most frequent reasons for that."""

    name: str
    pairs: list[Pair]
    dropped: list[Dropped]
    reasons: list[Reason] = field(default_factory=list)


def load_pairs(
    source: Path, *, limit: int | None = None, seed: int = 0, name: str | None = None, split: str = "train"
) -> PairSet:
    """Load preference pairs from a file, a folder or a hub data set, in any form that :func:`pair_of` reads.

    A pair's id is the set's name and the number of its row, from 1, with a number of its own where the row gives
    several pairs; the set's name is the file's without its suffixes,
    the folder's, or all of the hub data set's. A row's own "subset" is kept; a row without one belongs to a subset of
    the set's name.

    Args:
        limit: Take a random sample of the pairs of so many rows, in the order of the file; None takes all. All rows of
            the source that are not two answers to one conversation are returned as dropped, whatever the limit.
        name: The set's name, in place of the file's.
        split: The split of a hub data set, or of a folder that has splits.

    Raises:
        ConfigError: ``limit`` is not positive.
        DataError: The source can't be read, or no pair is left.
    """
    check_limit(limit)
    if name is None:
        folder = source.resolve().name if source.is_dir() else Path(source.name.removesuffix(".gz")).stem
        name = str(source) if is_hub(str(source)) else folder
    pairs: list[Pair] = []
    dropped: list[Dropped] = []
    tally = Tally()
    for tally.rows, (where, row, _) in enumerate(source_rows(str(source), split, "--split"), 1):
        own_id = f"{name}-{tally.rows}"
        try:
            pairs += pairs_of(row, own_id, name)
        except Unusable as unusable:
            dropped.append(Dropped(own_id, where, str(unusable), unusable.do, unusable=True))
            tally.add(where, str(unusable), unusable.do)
    check_share(tally.info, "pair", str(source), most=None)  # no recipe to set a share in: only "no pair left" fails
    return PairSet(name, sample_pairs(pairs, limit, seed), dropped, tally.reasons)


def sample_pairs(pairs: list[Pair], limit: int | None, seed: int) -> list[Pair]:
    """Return the pairs of a random sample of so many rows, in order; all where ``limit`` is None. Checks the limit."""
    check_limit(limit)
    rows = list(dict.fromkeys(pair.group or pair.id for pair in pairs))
    if limit is None or limit >= len(rows):
        return pairs
    drawn = {rows[index] for index in random.Random(seed).sample(range(len(rows)), limit)}
    return [pair for pair in pairs if (pair.group or pair.id) in drawn]


def check_limit(limit: int | None) -> None:
    """Raise :class:`ConfigError` for a sample size that is not positive; None is no limit."""
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}", where="--limit", do="ask for 1 or more, or leave it out for all")


_PROMPTS = ("prompt", "instruction", "query", "question", "messages", "conversations", "input")
"""Columns that may hold the prompt. Of several the one with the most turns counts, then the first."""

_ANSWERS: Mapping[tuple[str, str], Mapping[float | str, int]] = {
    ("output_1", "output_2"): {1: 1, 2: -1},
    ("response 1", "response 2"): {0: 1, 1: -1, 2: 0},
    ("response_A", "response_B"): {"A>B": 1, "B>A": -1, "A=B": 0},
}
"""Two answers, and the meaning of their "label": LLMBar's (and AlpacaEval's, which has a "preference"); Auto-J's;
JudgeBench's."""

_STYLES = 3
"""RM-Bench writes each answer in so many styles: concise, detailed, detailed with markdown."""

_PREFERRED = (("chosen", "rejected"), ("positive_response", "negative_response"))
"""The better and the worse answer: of preference data; of selfsteer's own rows."""

FORMS = """\
chosen and rejected as answers beside a prompt (prompt, instruction and input, query, question, messages or
conversations; system and history), chosen and rejected as whole dialogues, or output_1 and output_2 (response 1 and
response 2, response_A and response_B) beside a prompt and a label or preference; docs/data.md lists them"""


def pair_of(row: Any, own_id: str, name: str) -> Pair:
    """Return the pair of a row in any of the known forms (:data:`FORMS`). Labels use the numbering of the pair.

    It has the id ``own_id``, and the subset ``name`` if the row has none. Raises :class:`Unusable` for a row of no
    known form, with a wrong cell, or without two answers to one conversation.
    """
    cells = Cells(row)
    return Pair(own_id, *_content(cells), subset=_subset(cells, name))


def pairs_of(row: Any, own_id: str, name: str) -> list[Pair]:
    """Return the pairs of a row: one as of :func:`pair_of`, or each better answer with each worse one.

    The latter where ``chosen`` or ``rejected`` is a list of texts, as in RewardBench 2 (where two equally good answers
    are a pair too, a tie by its label) and RM-Bench: its three styles of each answer give nine pairs, whose subset is
    the domain and "hard" (the worse answer has the richer style), "normal" or "easy".
    """
    cells = Cells(row)
    lists = {key: _texts(cells, key) for key in _PREFERRED[0]}
    if not any(lists.values()):
        return [pair_of(row, own_id, name)]
    chosen, rejected = (lists[key] or [cells.text(key)] for key in _PREFERRED[0])
    prompts = _prompts(cells)
    if not prompts:
        raise Unusable("no prompt beside the lists 'chosen' and 'rejected'", f"give rows with {FORMS}")
    styled = cells.filled("domain") and len(chosen) == len(rejected) == _STYLES
    row_id = str(cells.cells["id"]) if cells.filled("id") else own_id
    make = partial(_shuffled, prompt=max(prompts, key=len), group=f"{name}/{row_id}")
    found: list[Pair] = []
    for better, worse in itertools.product(range(len(chosen)), range(len(rejected))):
        subset = _subset(cells, name)
        if styled:
            level = "hard" if better < worse else "normal" if better == worse else "easy"
            subset = f"{cells.text('domain')}, {level}"
        found.append(make(f"{own_id}:{len(found) + 1}", chosen[better], rejected[worse], subset=subset))
    for one, other in itertools.combinations(() if styled else chosen, 2):
        found.append(replace(make(f"{own_id}:{len(found) + 1}", one, other, subset=_subset(cells, name)), label=0))
    return found


def _shuffled(own_id: str, better: str, worse: str, *, prompt: list[Message], subset: str, group: str) -> Pair:
    """Return a labelled pair, its better answer first or second by a hash of the content."""
    # A judge that always says "the first" must not be right by construction.
    if int(fingerprint([prompt, better, worse]), 16) % 2:
        return Pair(own_id, prompt, worse, better, -1, subset, group=group)
    return Pair(own_id, prompt, better, worse, 1, subset, group=group)


def _texts(cells: Cells, name: str) -> list[str] | None:
    """Return a column's list of texts, None where it is something else."""
    value = cells.cells.get(name)
    return value if isinstance(value, list) and value and all(isinstance(one, str) for one in value) else None


def _subset(cells: Cells, name: str) -> str:
    """Return a row's own subset, JudgeBench's source, or else the set's name."""
    columns = ("subset", "source") if "response_A" in cells.cells else ("subset",)
    own = cells.first(columns)
    return name if own is None else str(cells.cells[own])


def is_pair(cells: Cells) -> bool:
    """Return whether a row has the keys of a pair."""
    return any(set(keys) <= cells.cells.keys() for keys in (*_PREFERRED, *_ANSWERS))


def _content(cells: Cells) -> tuple[list[Message], str, str, int | None]:
    """Return prompt, first and second response, and label, which the form of a row decides."""
    for better, worse in _PREFERRED:
        if {better, worse} <= cells.cells.keys():
            prompt, chosen, rejected = _two_answers(cells, better, worse)
            one = _shuffled("", chosen, rejected, prompt=prompt, subset="", group="")
            return prompt, one.first, one.second, one.label
    for (first, second), meanings in _ANSWERS.items():
        if {first, second} <= cells.cells.keys() and not {"label", "preference"}.isdisjoint(cells.cells):
            return *_two_answers(cells, first, second), _label(cells, meanings)
    what = f"a row has the keys {cells.names}, which is not a known form of a preference pair"
    raise Unusable(what, f"give rows with {FORMS}")


def _two_answers(cells: Cells, first: str, second: str) -> tuple[list[Message], str, str]:
    answers = [_answer(cells, name) for name in (first, second)]
    dialogues = [
        not isinstance(answer, str) and any(message["role"] != "assistant" for message in answer) for answer in answers
    ]
    if all(dialogues):
        shared, one, other = _split(*answers)
        # Two whole dialogues contain their prompt; a column beside them only adds the turns that they leave out.
        try:
            longer = [found for found in _prompts(cells) if found[-len(shared) :] == shared]
        except Unusable:
            longer = []
        return max([cells.with_system(shared), *longer], key=len), one, other
    prompts = _prompts(cells)
    if not prompts:
        what = f"no prompt beside {first!r} and {second!r}, which are not whole dialogues; the row has the keys"
        raise Unusable(f"{what} {cells.names}", f"give rows with {FORMS}")
    prompt = max(prompts, key=len)
    one, other = (_last(answer, prompt, name) for answer, name in zip(answers, (first, second), strict=True))
    return prompt, one, other


def _answer(cells: Cells, name: str) -> str | list[Message]:
    """Return an answer's text, or messages: of it alone or of the whole dialogue."""
    if is_missing(cells.cells[name]) and not isinstance(cells.cells[name], str):
        raise Unusable(f"{name!r} is empty")
    value = cells.value(name)
    if isinstance(value, list):
        return read_messages(value, name)
    text = cells.text(name)
    return _turns(text) if _DIALOGUE.match(text) else text


def _prompts(cells: Cells) -> list[list[Message]]:
    """Return the conversations in a row's columns of prompts; one that ends with an answer is no prompt."""
    names = [name for name in _PROMPTS if cells.filled(name) and not (name == "input" and cells.filled("instruction"))]
    found = [read_messages(cells.conversation(name), name) for name in names]
    asking = [messages for messages in found if messages[-1]["role"] == "user"]
    if found and not asking:
        raise Unusable(_NOT_ASKING)
    if not found and "prompt" in cells.cells:
        raise Unusable("empty prompt")
    return [_asking(messages) for messages in asking]


def _last(answer: str | list[Message], prompt: list[Message], name: str) -> str:
    """Return the text of an answer; as messages it may repeat the prompt, or the end of it."""
    if isinstance(answer, str):
        return answer
    before, last = answer[:-1], answer[-1:]
    if [message["role"] for message in last] != ["assistant"] or (before and prompt[-len(before) :] != before):
        raise Unusable(f"{name!r} is not one answer of the assistant")
    return last[0]["content"]


def _split(one: Any, other: Any) -> tuple[list[Message], str, str]:
    """Return the shared beginning of two whole dialogues, and the last answer of each."""
    same = [a == b for a, b in zip(one[:-1], other[:-1], strict=False)]
    shared = same.index(False) if False in same else len(same)
    rest: Sequence[Message] = one[shared:] + other[shared:]
    if [message["role"] for message in rest] != ["assistant", "assistant"]:
        raise Unusable("the two dialogues are not one conversation with two last answers")
    return _asking(one[:shared]), rest[0]["content"], rest[1]["content"]


def _asking(messages: list[Message]) -> list[Message]:
    """Return a prompt after checking that it ends with a user message that is not empty."""
    if not messages or messages[-1]["role"] != "user":
        raise Unusable(_NOT_ASKING)
    if not messages[-1]["content"].strip():
        raise Unusable("empty prompt")
    return messages


def _turns(text: str) -> list[Message]:
    """Split a dialogue written as one text, HH-RLHF's "Human: ... Assistant: ..."."""
    turns: list[Message] = []
    _, *parts = _SPEAKER.split("\n\n" + text.strip())
    for speaker, content in zip(parts[::2], parts[1::2], strict=True):
        role = ROLES[speaker.lower()]
        if turns and turns[-1]["role"] == role:  # chat templates refuse two turns of one speaker in a row
            turns[-1]["content"] += "\n\n" + content.strip()
        else:
            turns.append({"role": role, "content": content.strip()})
    return turns


def _label(cells: Cells, meanings: Mapping[float | str, int]) -> int | None:
    """Return the label of two answers: 1 for the first, -1 for the second, 0 for a draw; None where it is unknown."""
    if "preference" in cells.cells:  # AlpacaEval's: from 1 (the first) to 2 (the second), 0 or 1.5 for a draw
        value = cells.number("preference")
        if value is not None and value != 0 and not 1 <= value <= 2:
            expected = "expected a number from 1 to 2, or 0 for a draw"
            raise Unusable(f"'preference' is {shown(cells.cells['preference'])}, {expected}")
        return None if value is None else 0 if value in (0, 1.5) else 1 if value < 1.5 else -1
    written = cells.cells["label"]
    in_words = isinstance(written, str) and "A>B" in meanings
    key: float | str | None = str(written).strip() or None if in_words else cells.number("label")
    if key is not None and key not in meanings:
        raise Unusable(f"'label' is {shown(written)}, expected one of {', '.join(map(str, meanings))}")
    return None if key is None else meanings[key]
