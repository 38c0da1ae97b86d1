"""Floating-point operations of a pass over prompt-sharing rows, without any recomputation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from selfsteer.estimate.model_shape import ModelShape


class Row(NamedTuple):
    """Tokens of a prompt and of the responses scored under it; means of many rows may be fractions."""

    prompt: float
    responses: Sequence[float]

    @property
    def tokens(self) -> float:
        """Tokens that go through the layers: without the last one of each response, which predicts nothing scored."""
        return self.prompt + sum(length - 1 for length in self.responses)


@dataclass(frozen=True)
class Arithmetic:
    """FLOPs of one forward pass, each prompt and each response once a row.

    A product of matrices with n weights takes 2 n FLOPs a token. Attention takes 4 H d FLOPs a layer for each pair of a
    token and one that it sees: a product with the keys, one with the values.
    """

    layers: float
    attention: float
    head: float

    @property
    def forward(self) -> float:
        """One pass."""
        return self.layers + self.attention + self.head

    @property
    def training(self) -> float:
        """Forward and backward: the gradients of inputs and those of weights cost a forward pass each."""
        return 3 * self.forward

    @property
    def adapting(self) -> float:
        """Forward and backward with frozen weights, which need no gradient; attention has two inputs either way."""
        return 2 * (self.layers + self.head) + 3 * self.attention

    @property
    def again(self) -> float:
        """Recomputation under activation checkpointing."""
        return self.layers + self.attention


def arithmetic(shape: ModelShape, rows: Iterable[Row]) -> Arithmetic:
    """Return the FLOPs of rows: the head on response tokens alone, attention only where the mask allows it."""
    rows = list(rows)
    pairs = sum(_seen(row, window) for row in rows for window in shape.windows)
    return Arithmetic(
        layers=2 * shape.active * sum(row.tokens for row in rows),
        attention=4 * pairs * shape.query_width,
        head=2 * shape.head * sum(map(sum, (row.responses for row in rows))),
    )


def _seen(row: Row, window: int | None) -> float:
    """Pairs of a token and one that it attends to: a response attends to its prompt and itself."""
    prompt = _causal(row.prompt, window)
    return prompt + sum(_causal(row.prompt + length - 1, window) - prompt for length in row.responses)


def _causal(length: float, window: int | None) -> float:
    """Token i of a sequence attends to min(i, window) tokens."""
    full = length if window is None else min(length, window)
    return full * (full + 1) / 2 + (length - full) * full


def rows_for(
    cells: Iterable[tuple[str, str]], prompts: Mapping[str, float], responses: Mapping[str, float], limit: float
) -> list[Row]:
    """Return the rows that score some (role, prompt) cells, by the tokens of prompts and responses.

    ``limit`` is that of a prompt + response, as ``train.max_length``.
    """
    roles: dict[str, list[str]] = {}
    for role, prompt in cells:
        roles.setdefault(prompt, []).append(role)
    room = max(1.0, limit - max(prompts.values()))
    return [Row(prompts[name], [min(responses[role], room) for role in own]) for name, own in roles.items()]
