"""Turns preference pairs into token ids to train a reward model on, with a reason for each pair left out.

No torch here.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from selfsteer.chat_template import ChatTemplate
from selfsteer.errors import PromptRefused
from selfsteer.files import atomic_path, fingerprint
from selfsteer.queries import Dropped
from selfsteer.queries.words import words_of
from selfsteer.records import Message
from selfsteer.reward.scoring import TokenIds, conversation_ids

EVALUATED = "its prompt is also in a file of evaluate"
UNBALANCED = "length_balance: no counterpart with a similar length difference"
UNDRAWN = "weight: not drawn"
BEYOND = "limit: not drawn"


@dataclass(frozen=True)
class LabelledPair:
    """Two answers to one prompt, the better one being known.

    Attributes:
        margin: The steering margin, nats per token, if known.
    """

    id: str
    where: str
    prompt: list[Message]
    chosen: str
    rejected: str
    margin: float | None = None

    def without(self, reason: str) -> Dropped:
        """Return a record of the pair as left out."""
        return Dropped(self.id, self.where, reason)


class Example(NamedTuple):
    """A pair for the trainer: the token ids of both whole conversations, with the template's end."""

    set: str
    id: str
    where: str
    chosen_ids: TokenIds
    rejected_ids: TokenIds
    margin: float | None

    @property
    def longer(self) -> int:
        """Length of the chosen answer minus that of the rejected one, in tokens."""
        return len(self.chosen_ids) - len(self.rejected_ids)


@dataclass
class Examples:
    """Examples, and the pairs left out."""

    kept: list[Example] = field(default_factory=list)
    left_out: list[Dropped] = field(default_factory=list)

    def drop(self, examples: Iterable[Example], reason: str) -> None:
        """Record these examples as left out."""
        self.left_out += [Dropped(one.id, one.where, reason) for one in examples]


def prompt_key(prompt: Sequence[Message]) -> str:
    """Return a hash of a conversation's words, without case, punctuation and system messages."""
    return fingerprint([[turn["role"], words_of(turn["content"])] for turn in prompt if turn["role"] != "system"])


def encoded(
    name: str,
    pairs: Iterable[LabelledPair | Dropped],
    template: ChatTemplate,
    *,
    max_length: int,
    evaluated: frozenset[str] = frozenset(),
    limit: int | None = None,
    model: str = "",
) -> Examples:
    """Return the examples of a set.

    Args:
        max_length: Tokens; a pair with a longer conversation is left out.
        evaluated: :func:`prompt_key` of prompts that must not be trained on.
        limit: Take so many usable pairs, drawn at random.
    """
    rows = list(pairs)
    order = list(range(len(rows)))
    if limit is not None:
        random.Random(0).shuffle(order)  # the same pairs for all seeds and variants, which are compared
    found: dict[int, Example] = {}
    dropped: dict[int, Dropped] = {}
    for number in order:
        made: LabelledPair | Example | Dropped = rows[number]
        if isinstance(made, LabelledPair):
            enough = limit is not None and len(found) == limit
            made = made.without(BEYOND) if enough else _example(name, made, template, max_length, evaluated, model)
        if isinstance(made, Dropped):
            dropped[number] = made
        else:
            found[number] = made
    return Examples([found[number] for number in sorted(found)], [dropped[number] for number in sorted(dropped)])


def _example(
    name: str, pair: LabelledPair, template: ChatTemplate, max_length: int, evaluated: frozenset[str], model: str
) -> Example | Dropped:
    if evaluated and prompt_key(pair.prompt) in evaluated:  # hashing every prompt takes time
        return pair.without(EVALUATED)
    try:
        chosen, rejected = (
            conversation_ids(template, [*pair.prompt, {"role": "assistant", "content": text}], model)
            for text in (pair.chosen, pair.rejected)
        )
    except PromptRefused as error:
        return pair.without(error.what)
    if chosen == rejected:
        return pair.without("both answers are the same")
    if max(len(chosen), len(rejected)) > max_length:
        return pair.without(f"longer than {max_length} tokens")
    return Example(name, pair.id, pair.where, chosen, rejected, pair.margin)


def mixed(sets: Mapping[str, Sequence[Example]], weights: Mapping[str, float], seed: int) -> Examples:
    """Return all sets' examples by weight: whole copies, and a random part for the fraction."""
    result = Examples()
    for name, examples in sets.items():
        whole, part = divmod(round(weights[name] * len(examples)), max(len(examples), 1))  # a set may be empty
        drawn = set(random.Random(f"weight {name} {seed}").sample(range(len(examples)), part))
        result.kept += [*examples] * whole + [one for number, one in enumerate(examples) if number in drawn]
        if not whole:
            result.drop((one for number, one in enumerate(examples) if number not in drawn), UNDRAWN)
    return result


def balanced(examples: Sequence[Example], seed: int) -> Examples:
    """Return examples in which length does not predict the chosen answer.

    In each bin of the difference in tokens (1, 2 to 3, 4 to 7, 8 to 15, ...) equally many stay with a longer and with a
    shorter chosen answer, drawn at random; pairs of equal lengths all stay.
    """
    # Over a variant's whole mixture, not each set: the model could learn length from the mixture, and more pairs stay.
    bins: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for number, one in enumerate(examples):
        bins[abs(one.longer).bit_length(), one.longer > 0].append(number)
    stay = {*bins.pop((0, False), [])}
    for size in sorted({size for size, _ in bins}):
        sides = [bins.get((size, longer), []) for longer in (False, True)]
        fewest = min(map(len, sides))
        draw = random.Random(f"balance {size} {seed}")
        stay.update(itertools.chain.from_iterable(draw.sample(side, fewest) for side in sides))
    result = Examples([one for number, one in enumerate(examples) if number in stay])
    result.drop((one for number, one in enumerate(examples) if number not in stay), UNBALANCED)
    return result


def with_margins(examples: Sequence[Example], scale: float | None) -> list[Example]:
    """Return examples with scaled margins, 0 for an unknown one; without any margins if ``scale`` is None."""
    if scale is None:
        return [one._replace(margin=None) for one in examples]
    return [one._replace(margin=scale * (one.margin or 0.0)) for one in examples]


def longer_chosen(examples: Sequence[Example]) -> float:
    """Return the share of examples with a longer chosen answer, in tokens; equal lengths count half."""
    return sum((one.longer > 0) + (one.longer == 0) / 2 for one in examples) / len(examples)


_IDS = pa.list_(pa.int32())
_TEXTS = [(name, pa.string()) for name in ("set", "id", "where")]
_SCHEMA = pa.schema([*_TEXTS, ("chosen_ids", _IDS), ("rejected_ids", _IDS), ("margin", pa.float64())])


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write examples as one Parquet file, atomically."""
    table = pa.Table.from_pylist([one._asdict() for one in examples], schema=_SCHEMA)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def read_examples(path: Path) -> list[Example]:
    """Return the examples that :func:`write_examples` wrote."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return [Example(**row | {name: tuple(row[name]) for name in ("chosen_ids", "rejected_ids")}) for row in rows]
