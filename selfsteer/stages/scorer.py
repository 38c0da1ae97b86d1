"""Scoring rows of a stage: every (response, prompt) cell under one model, without gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from selfsteer.chat import Chat
from selfsteer.contrast import with_token_ids
from selfsteer.logprobs import ALL_CELLS, Cell, score_cells
from selfsteer.logprobs.score_keys import ScoreKey, settings_key, weights_dtype, weights_key
from selfsteer.records import ROLES, Contrast

PLAIN_CELLS = tuple(Cell(role, "prompt") for role in ROLES)


class Scorer:
    """A model that scores contrasts, with the precision and the length limit that training uses.

    So the scores of a round's starting weights are the round's reference log-probs as well; their key, by which
    training knows them, goes into the row's provenance.
    """

    def __init__(self, model: Any, chat: Chat, *, autocast: bool, max_length: int) -> None:
        self.model, self.chat, self.autocast, self.max_length = model, chat, autocast, max_length

    def score(self, rows: Sequence[Contrast], cells: Sequence[Cell] = ALL_CELLS) -> list[Contrast]:
        """Return the rows with their scores, the mean log-prob in nats per token of each cell, and with their key."""
        device = next(self.model.parameters()).device.type
        scored: list[Contrast] = []
        # One context for all: inside it, autocast casts the weights once.
        with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16, enabled=self.autocast):
            for row in (with_token_ids(row, self.chat) for row in rows):
                own = [cell for cell in cells if cell.role in row.roles]
                sums, counts = score_cells(self.model, [row], own, max_length=self.max_length)
                scores: dict[str, dict[str, float]] = {}
                for cell, mean in zip(own, (sums.double() / counts)[0].tolist(), strict=True):
                    scores.setdefault(f"{cell.role}_response", {})[cell.prompt] = mean
                scored.append(ScoreKey.from_row(row, *self._keys).put(dataclasses.replace(row, scores=scores)))
        return scored

    @cached_property
    def _keys(self) -> tuple[str, str]:
        """The keys of the weights and of the settings."""
        autocast = "bfloat16" if self.autocast else ""
        settings = settings_key(max_length=self.max_length, dtype=weights_dtype(self.model), autocast=autocast)
        return weights_key(self.model), settings
