"""Reference log-probs that come with rows: which of them are the start's own; others are refused."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from selfsteer.errors import DataError, SelfsteerWarning
from selfsteer.logprobs import Cell
from selfsteer.logprobs.score_keys import ScoreKey, settings_key, weights_dtype, weights_key
from selfsteer.records import Contrast, has_score, score

_AUTOCAST = {"no": "", "bf16": "bfloat16", "fp16": "float16"}
"""Torch's names of accelerate's mixed precisions."""


class ReferenceKey:
    """The key of the start of a training: stored scores with this key are its reference.

    Args:
        model: The model as given, before an adapter is added: some ways to initialise one rewrite the weights under it.
        cells: The C cells of the reference.
        stored: Use the rows' scores as the reference whatever weights gave them, if these are the same in all rows;
            nothing is scored here then.

    Attributes:
        dtype: Of reference log-probs: float32, or float64 where the weights are.
    """

    def __init__(self, model: Any, cells: Sequence[Cell], max_length: int | None, *, stored: bool = False) -> None:
        self._cells, self._max_length, self._takes_stored = cells, max_length, stored
        self._dtype, self._weights = weights_dtype(model), ""
        self.mixed_precision = "no"
        self.dtype = torch.float64 if self._dtype == "float64" else torch.float32

    def read_weights(self, model: Any, rows: Sequence[Contrast]) -> None:
        """Compute the weights' key, once, where a row needs it: one that brings scores with a key."""
        keys = filter(None, map(self._stored, rows))
        if not self._weights and (key := next(keys, None)):
            self._weights = key.weights if self._takes_stored else weights_key(model)

    def reference(self, rows: Sequence[Contrast], *, refuse: bool) -> list[Tensor | None]:
        """Return each row's (C,) summed log-probs, nats, from its scores, None where these are not the start's.

        Raises :class:`DataError` where, with ``refuse``, a row brings scores of other weights, settings or tokens, or,
        with ``stored``, none.
        """
        lacking = [row for row in rows if not self._stored(row)] if self._takes_stored else []
        if lacking:
            what = "reference='stored' needs stored scores with a key, and some rows have none"
            do = "score these rows under the reference first, or set reference='start'"
            raise DataError(what, where=f"row {lacking[0].id!r}, one of {len(lacking)} such rows", do=do)
        autocast = _AUTOCAST.get(self.mixed_precision, self.mixed_precision)
        settings = settings_key(max_length=self._max_length, dtype=self._dtype, autocast=autocast)
        found: list[Tensor | None] = []
        others: list[tuple[Contrast, ScoreKey, ScoreKey]] = []
        for row in rows:
            stored = self._stored(row)
            own = ScoreKey.from_row(row, self._weights, settings) if stored else None
            found.append(self._sums(row) if stored and stored == own else None)
            if stored and own and stored != own:
                others.append((row, stored, own))
        if others and (refuse or self._takes_stored):
            row, stored, own = others[0]
            wanted = "those of the first row are from" if self._takes_stored else "training starts from"
            raise DataError(
                f"the stored scores are not the reference of this start: {_differences(stored, own, wanted)}",
                where=f"row {row.id!r}, one of {len(others)} such rows",
                do="drop the column scores to have the reference scored again, or start from the weights and with the "
                "settings that scored them",
            )
        return found

    def warn_of_rescoring(self, rows: Sequence[Contrast]) -> None:
        """Warn once where some of the ``rows``, which are about to be scored, bring scores."""
        unused = [row for row in rows if _has_scores(row, self._cells)]
        if unused:
            why = "of another start" if ScoreKey.stored(unused[0]) else "without the key of their weights"
            warnings.warn(
                f"scores {why} are not used ({len(unused)} in all, the first in row {unused[0].id!r}): the reference "
                "is scored again, with the start's weights; drop the column scores to avoid this warning",
                SelfsteerWarning,
                stacklevel=2,
            )

    def too_late(self, rows: Sequence[Contrast]) -> DataError:
        """Return the error for rows of unknown reference after the weights have moved."""
        otherwise = ", or give rows that the start has scored" if self._weights else ""
        what = "training has moved the weights, so the reference of these rows can't be scored any more"
        where = f"row {rows[0].id!r}, one of {len(rows)} without scores that are known to be the start's"
        return DataError(what, where=where, do=f"give them as eval_dataset when the trainer is made{otherwise}")

    def _stored(self, row: Contrast) -> ScoreKey | None:
        return ScoreKey.stored(row) if _has_scores(row, self._cells) else None

    def _sums(self, row: Contrast) -> Tensor:
        """Return (C,) summed log-probs, nats, in float32, or in float64 where the weights are."""
        # Rows store means per token, which filters compare; the losses take sums.
        means = [score(row, cell.role, cell.prompt) for cell in self._cells]
        lengths = [row.scored_tokens(cell.role, self._max_length) for cell in self._cells]
        return torch.tensor([mean * length for mean, length in zip(means, lengths, strict=True)], dtype=self.dtype)


def _differences(stored: ScoreKey, own: ScoreKey, wanted: str) -> str:
    found = []
    if stored.weights != own.weights:
        found.append(f"they are from weights {stored.weights[:8]}, and {wanted} weights {own.weights[:8]}")
    if stored.settings != own.settings:
        found.append(f"they were computed with {stored.settings}, and training is set to {own.settings}")
    if stored.tokens != own.tokens:
        found.append("the row's token ids are not those that were scored")
    return "; ".join(found)


def _has_scores(row: Contrast, cells: Sequence[Cell]) -> bool:
    return all(has_score(row, cell.role, cell.prompt) for cell in cells)
