"""Choosing the aspects that matter for a query: the model picks them from a list, shown by examples how (PAPER 4)."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence
from typing import Literal

from selfsteer.chat import SystemRole
from selfsteer.principles.principle_set import PrincipleSet
from selfsteer.principles.prompt_templates import message
from selfsteer.principles.steer import fold_system
from selfsteer.records import Message
from selfsteer.seeding import draw

_TEMPLATE = "choose_aspects"
_HEAD, _TAIL = 1000, 500


@dataclasses.dataclass(frozen=True)
class Choice:
    """The aspects of one query and how they were found.

    ``outcome`` is "model" (its answer named them), "filled" (its answer named too few, and others were drawn),
    "fallback" (its answer named none), "cut" (the same, and its answer was cut off) or "all" (there are no more aspects
    than wanted, so no model was asked). A row with a written guideline has no choice: "none".
    """

    aspects: list[str]
    outcome: Literal["model", "filled", "fallback", "cut", "all"]


def choice_without_model(principle_set: PrincipleSet, count: int) -> Choice | None:
    """Return the choice if it needs no model (the set has at most ``count`` aspects to choose from), else None."""
    names = [aspect.name for aspect in principle_set.choosable]
    return Choice(names, "all") if len(names) <= count else None


def chooser_messages(
    principle_set: PrincipleSet, query_text: str, count: int, system_role: SystemRole = "native"
) -> list[Message]:
    """Return the chat prompt that asks a model for the ``count`` aspects that matter most for a query.

    All messages but the last are the same for every query, so a backend computes them once. A query longer than 1,500
    characters is shown by its first 1,000 and its last 500; only the chooser sees it shortened. It is data: markup in
    it is not run. Each example shows its first ``count`` aspects.

    Args:
        count: How many aspects to ask for; each example shows its first ``count``.
    """
    messages = [message(_TEMPLATE, "system", aspects=principle_set.choosable, count=count)]
    for example in principle_set.few_shot:
        messages.append(message(_TEMPLATE, "user", query=example.query))
        messages.append(message(_TEMPLATE, "assistant", names=example.aspects[:count]))
    messages.append(message(_TEMPLATE, "user", query=shortened(query_text)))
    return fold_system(messages, system_role)


def parse_choice(
    text: str, principle_set: PrincipleSet, count: int, *, cut: bool = False, shuffle: random.Random | None = None
) -> Choice:
    """Read the model's answer, without its thoughts: the first ``count`` distinct aspects that it names in whole words.

    Case, list marks, emphasis and other words are ignored. An answer that names fewer than ``count`` aspects is
    taken as it is; one that names none gives the set's fallback. With ``shuffle`` the choice is that of v1's code: the
    named aspects in random order, then the others in random order, and of these the first ``count``.
    """
    names = [aspect.name for aspect in principle_set.choosable]
    letter = r"[^\W_]"  # an underscore is emphasis, not part of a word
    groups = "|".join(f"({re.escape(name)})" for name in names)
    matches = re.finditer(rf"(?<!{letter})(?:{groups})(?!{letter})", text, re.IGNORECASE)
    found = list(dict.fromkeys(names[match.lastindex - 1] for match in matches if match.lastindex))
    nothing: Literal["cut", "fallback"] = "cut" if cut else "fallback"
    if shuffle:
        others = [name for name in names if name not in found]
        drawn = [*shuffle.sample(found, len(found)), *shuffle.sample(others, len(others))]
        return Choice(drawn[:count], "model" if len(found) >= count else "filled" if found else nothing)
    if found:  # fewer than wanted are taken as they are; v1's code fills up at random, which `shuffle` does
        return Choice(found[:count], "model")
    return Choice(list(dict.fromkeys([*principle_set.fallback, *names]))[:count], nothing)


def with_extra(aspects: Sequence[str], principle_set: PrincipleSet, query_id: str, rate: float, seed: int) -> list[str]:
    """Add the set's extra aspects to a share of the queries (v1: Concision, to 20 %).

    Whether a query gets one depends on the seed, the aspect and the query's id alone, not on the order of the queries;
    a higher rate keeps those that a lower one picked.
    """
    extras = [aspect.name for aspect in principle_set.extras if aspect.name not in aspects]
    return [*aspects, *(name for name in extras if int(draw(seed, name, query_id)[:12], 16) < rate * 2**48)]


def shortened(query: str, head: int = _HEAD, tail: int = _TAIL) -> str:
    """Keep the first ``head`` and the last ``tail`` characters of a long query: the question is at either end."""
    query = query.strip()
    return query if len(query) <= head + tail else f"{query[:head]}\n[...]\n{query[-tail:]}"
