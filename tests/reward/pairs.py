"""Toy pairs whose better answer is plain to see, as examples for the tiny models."""

from __future__ import annotations

from typing import Any

from selfsteer.chat_template import ChatTemplate
from selfsteer.reward.data import Example, LabelledPair, encoded
from tests.chat_templates import user


def toy_pairs(count: int, *, start: int = 0) -> list[LabelledPair]:
    """Pairs of which the chosen answer speaks of the river and the rejected one says no; lengths vary either way."""
    return [
        LabelledPair(
            f"toy-{number}", f"toy:{number}", user(f"Question number {number}?"),
            "The river runs past the mill" + "." * (1 + number % 5), "No " * (6 + 3 * (number % 4)) + "never.",
        )
        for number in range(start, start + count)
    ]  # fmt: skip


def toy_examples(tokenizer: Any, pairs: list[LabelledPair], name: str = "toy") -> list[Example]:
    found = encoded(name, pairs, ChatTemplate(tokenizer), max_length=512)
    assert not found.left_out
    return found.kept
