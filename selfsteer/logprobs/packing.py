"""Prompt-sharing rows packed into one sequence: [prompt | response 1 | ... | response R | next row's prompt | ...].

Positions restart after the prompt for every response, and a response attends to its prompt and itself only, so each
response is computed exactly as in a sequence of its own, while the prompt is computed once. The last token of a
response predicts nothing that is needed, so it is left out of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfsteer.logprobs.cells import PromptRow


@dataclass(frozen=True)
class Layout:
    """Lengths of the packed segments, row by row: of prompts, and of responses as input, without their last token."""

    prompts: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> list[int]:
        """Lengths of all segments in packed order."""
        return [
            size for prompt, lengths in zip(self.prompts, self.responses, strict=True) for size in (prompt, *lengths)
        ]

    @property
    def longest(self) -> int:
        """Length of the longest sequence of a prompt and one response."""
        return max(
            prompt + max(lengths, default=0) for prompt, lengths in zip(self.prompts, self.responses, strict=True)
        )


@dataclass(frozen=True)
class Packed:
    """The input of the model, T tokens in one batch row, and the positions of its predictions.

    Attributes:
        input_ids, position_ids: (1, T); positions restart after the prompt for each response.
        predictors: (N,) indices into T whose outputs predict the N response tokens.
        targets: (N,) the response tokens.
        counts: Response tokens of each response, in row order; they add up to N.
    """

    input_ids: Tensor
    position_ids: Tensor
    predictors: Tensor
    targets: Tensor
    counts: list[int]
    layout: Layout


def pack(rows: Sequence[PromptRow], device: torch.device | str = "cpu", *, whole: bool = False) -> Packed:
    """Pack rows; raises :class:`ValueError` on an empty prompt or response.

    With ``whole`` the last token of each response stays in the input, for models that depend on its length.
    """
    ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    for row in rows:
        if not row.prompt or not row.responses or not all(row.responses):
            raise ValueError("an empty prompt or response has no log-prob: drop such rows first")
        ids += row.prompt
        positions += range(len(row.prompt))
        last = len(ids) - 1
        for response in row.responses:
            # The prompt's last token predicts the first one of each response.
            predictors += [last, *range(len(ids), len(ids) + len(response) - 1)]
            shown = response if whole else response[:-1]
            ids += shown
            positions += range(len(row.prompt), len(row.prompt) + len(shown))
    targets = [token for row in rows for response in row.responses for token in response]
    return Packed(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        predictors=torch.tensor(predictors, device=device),
        targets=torch.tensor(targets, device=device),
        counts=[len(response) for row in rows for response in row.responses],
        layout=Layout(
            tuple(len(row.prompt) for row in rows),
            tuple(tuple(len(response) - (not whole) for response in row.responses) for row in rows),
        ),
    )
