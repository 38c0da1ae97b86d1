"""The reference log-probs that come with rows: which of them are the start's own, and a refusal of the others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from selfsteer.errors import DataError, SelfsteerWarning
from selfsteer.logprobs import Cell
from selfsteer.logprobs.score_keys import ScoreKey, settings_key, weights_dtype, weights_key
from selfsteer.records import Contrast

_AUTOCAST = {"no": "", "bf16": "bfloat16", "fp16": "float16"}
"""What accelerate's names of a mixed precision are in torch."""


class ReferenceKey:
    """The key of what training starts from: which stored scores are its own, and so are the reference.

    Args:
        model: The model as given, before an adapter is added: some ways to initialise one rewrite what is under it.
        cells: The C cells whose scores make the reference.
        max_length: Tokens of a row's longest prompt + response.
        stored: Take the scores that rows bring for the reference whatever weights gave them, if all are of the same:
            not of the start then, and never scored here.

    Attributes:
        mixed_precision: Accelerate's name of the precision.
    """

    def __init__(self, model: Any, cells: Sequence[Cell], max_length: int | None, *, stored: bool = False) -> None:
        self._cells, self._max_length, self._takes_stored = cells, max_length, stored
        self._dtype, self._weights = weights_dtype(model), ""
        self.mixed_precision = "no"

    def read_weights(self, model: Any, rows: Sequence[Contrast]) -> None:
        """Name the weights, once, where a row asks for that: it brings scores with a key."""
        keys = filter(None, map(self._stored, rows))
        if not self._weights and (key := next(keys, None)):
            self._weights = key.weights if self._takes_stored else weights_key(model)

    def reference(self, rows: Sequence[Contrast], *, refuse: bool) -> list[Tensor | None]:
        """Return each row's (C,) summed log-probs, nats, out of its scores, None where these are not the start's.

        Args:
            rows: With token ids.
            refuse: Whether scores of another start are refused, or told as None.

        Raises:
            DataError: A row brings scores of other weights, settings or tokens; or, with ``stored``, none.
        """
        lacking = [row for row in rows if not self._stored(row)] if self._takes_stored else []
        if lacking:
            raise DataError(
                "the reference is to be that of the stored scores, and there are none with a key",
                where=f"row {lacking[0].id!r}, one of {len(lacking)} such rows",
                do="score these rows under the reference first, or take reference='start'",
            )
        found: list[Tensor | None] = []
        others: list[tuple[Contrast, ScoreKey, ScoreKey]] = []
        for row in rows:
            stored = self._stored(row)
            own = ScoreKey.of(row, self._weights, self._settings) if stored else None
            found.append(self._sums(row) if stored and stored == own else None)
            if stored and own and stored != own:
                others.append((row, stored, own))
        if others and (refuse or self._takes_stored):
            raise _refusal(
                *others[0], len(others), "the first row's came of" if self._takes_stored else "training starts from"
            )
        return found

    def warn_of_rescoring(self, rows: Sequence[Contrast]) -> None:
        """Warn once where some of the ``rows``, which are about to be scored, bring scores."""
        unused = [row for row in rows if _has_scores(row, self._cells)]
        if unused:
            why = "of another start" if ScoreKey.stored(unused[0]) else "that don't say which weights they are of"
            warnings.warn(
                f"scores {why} are left aside ({len(unused)} in all, the first in row {unused[0].id!r}) and the "
                "reference is scored anew, with the weights that training starts from: drop the column scores where "
                "that is meant",
                SelfsteerWarning,
                stacklevel=2,
            )

    def too_late(self, rows: Sequence[Contrast]) -> DataError:
        """Return the refusal of rows whose reference is not known when the weights have moved."""
        otherwise = ", or give rows that the start has scored" if self._weights else ""
        return DataError(
            "training has moved the weights, so the reference of these rows can't be scored any more",
            where=f"row {rows[0].id!r}, one of {len(rows)} without scores that are known to be the start's",
            do=f"give them as eval_dataset when the trainer is made{otherwise}",
        )

    def _stored(self, row: Contrast) -> ScoreKey | None:
        return ScoreKey.stored(row) if _has_scores(row, self._cells) else None

    def _sums(self, row: Contrast) -> Tensor:
        """Return (C,) summed log-probs, nats, in float32, or in float64 where the weights are."""
        lengths = [row.scored_tokens(cell.role, self._max_length) for cell in self._cells]
        pairs = zip(_means(row, self._cells), lengths, strict=True)
        dtype = torch.float64 if self._dtype == "float64" else torch.float32
        return torch.tensor([mean * length for mean, length in pairs if mean is not None], dtype=dtype)

    @property
    def _settings(self) -> str:
        autocast = _AUTOCAST.get(self.mixed_precision, self.mixed_precision)
        return settings_key(max_length=self._max_length, dtype=self._dtype, autocast=autocast)


def _refusal(row: Contrast, stored: ScoreKey, own: ScoreKey, count: int, whose: str) -> DataError:
    return DataError(
        f"the stored scores are not the reference of this start: {'; '.join(_differences(stored, own, whose))}",
        where=f"row {row.id!r}, one of {count} such rows",
        do="drop the column scores to have the reference scored anew, or start from the weights and with the settings "
        "that scored them",
    )


def _differences(stored: ScoreKey, own: ScoreKey, whose: str) -> list[str]:
    found = []
    if stored.weights != own.weights:
        found.append(f"weights {stored.weights[:8]} gave them, and {whose} weights {own.weights[:8]}")
    if stored.settings != own.settings:
        found.append(f"they were computed with {stored.settings}, and training is set to {own.settings}")
    if stored.tokens != own.tokens:
        found.append("the row's token ids are not those that were scored")
    return found


def _has_scores(row: Contrast, cells: Sequence[Cell]) -> bool:
    return None not in _means(row, cells)


def _means(row: Contrast, cells: Sequence[Cell]) -> list[float | None]:
    return [((row.scores or {}).get(f"{cell.role}_response") or {}).get(cell.prompt) for cell in cells]
