"""Scoring rows of a stage: every (response, prompt) cell under one model, without gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from selfsteer.chat import Chat
from selfsteer.contrast import with_token_ids
from selfsteer.logprobs import ALL_CELLS, Cell, score_cells
from selfsteer.records import Contrast

PLAIN_CELLS = (Cell("positive", "prompt"), Cell("negative", "prompt"))


class Scorer:
    """A model that scores contrasts, with the precision and the length limit that training uses.

    So the scores of a round's starting weights are the round's reference log-probs as well.
    """

    def __init__(self, model: Any, chat: Chat, *, autocast: bool, max_length: int) -> None:
        self.model, self.chat, self.autocast, self.max_length = model, chat, autocast, max_length

    def score(self, row: Contrast, cells: Sequence[Cell] = ALL_CELLS) -> Contrast:
        """Return the row with its scores: the mean log-prob, nats per token, of each cell."""
        row = with_token_ids(row, self.chat)
        device = next(self.model.parameters()).device.type
        with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16, enabled=self.autocast):
            sums, counts = score_cells(self.model, [row], cells, max_length=self.max_length)
        scores: dict[str, dict[str, float]] = {}
        for cell, mean in zip(cells, (sums.double() / counts)[0].tolist(), strict=True):
            scores.setdefault(f"{cell.role}_response", {})[cell.prompt] = mean
        return dataclasses.replace(row, scores=scores)
