"""From rows of :class:`Contrast` to what one training step needs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from selfsteer.chat import Chat
from selfsteer.contrast import contrast_of, with_token_ids
from selfsteer.errors import DataError, SelfsteerWarning
from selfsteer.records import HARM_UNKNOWN, Contrast
from selfsteer.views import PAIRINGS, View, harmful_target


class ContrastDataset(Dataset[tuple[Contrast, Tensor]]):
    """Kept rows with their reference log-probs, (C,) summed nats in the order of the trainer's cells."""

    def __init__(self, contrasts: Sequence[Contrast], reference: Tensor) -> None:
        self.contrasts, self.reference = contrasts, reference

    def __len__(self) -> int:
        return len(self.contrasts)

    def __getitem__(self, index: int) -> tuple[Contrast, Tensor]:
        return self.contrasts[index], self.reference[index]


def kept_contrasts(rows: Iterable[Contrast | Mapping[str, Any]], chat: Chat) -> list[Contrast]:
    """Return the rows with ``kept`` set, as :class:`Contrast` with token ids of this tokenizer."""
    return [with_token_ids(row, chat) for row in map(contrast_of, rows) if row.kept]


def untrainable(row: Contrast, view: View, *, allow_harmful: bool = False) -> str:
    """Return why a row must not be trained on in a view, "" where it may be: the only place that decides this."""
    pairing = PAIRINGS[view]
    absent = [role for role in (pairing.chosen, pairing.rejected) if role not in row.roles]
    if absent:
        return f"no {absent[0]} response was sampled"
    if allow_harmful or not harmful_target(row, view):
        return ""
    if row.negative_harmful == HARM_UNKNOWN:
        return f"it is unknown whether its target, y-, was asked to do harm ({row.negative_harmful})"
    return f"its target, y-, is flagged as harmful ({row.negative_harmful})"


def trainable(contrasts: list[Contrast], views: Sequence[View], *, allow_harmful: bool = False) -> list[Contrast]:
    """Return the rows that may be trained on in all of ``views``; one warning where some may not.

    Raises :class:`DataError` where no row is left.
    """
    reasons = [
        next(filter(None, (untrainable(row, view, allow_harmful=allow_harmful) for view in views)), "")
        for row in contrasts
    ]
    if not any(reasons):
        return contrasts
    first = next(place for place, reason in enumerate(reasons) if reason)
    what = f"{len(reasons) - reasons.count('')} of {len(reasons)} rows can't be trained on in these views"
    where = f"row {contrasts[first].id!r}: {reasons[first]}"
    if all(reasons):
        raise DataError(what, where=where, do="take an objective that needs other views, or other rows")
    warnings.warn(f"{what} and are left out, the first is {where}", SelfsteerWarning, stacklevel=2)
    return [row for row, reason in zip(contrasts, reasons, strict=True) if not reason]


def without_over_long(contrasts: list[Contrast], max_length: int | None) -> list[Contrast]:
    """Return the rows whose prompts, all three, leave room for a response; one warning where some don't.

    Raises :class:`DataError` where no row is left.
    """
    # All three prompts, also where one view is trained on: responses are cut at one place under all of them.
    fits = [max_length is None or row.longest_prompt < max_length for row in contrasts]
    if all(fits):
        return contrasts
    what = f"{fits.count(False)} of {len(fits)} rows have a prompt that leaves no room for a response"
    first = f"row {contrasts[fits.index(False)].id!r}"
    if not any(fits):
        raise DataError(what, where=first, do=f"raise max_length above {max_length}")
    warnings.warn(
        f"{what} within max_length {max_length} and are left out, the first is {first}: raise max_length to train on "
        "them",
        SelfsteerWarning,
        stacklevel=2,
    )
    return [row for row, fit in zip(contrasts, fits, strict=True) if fit]


def collate(items: Sequence[tuple[Contrast, Tensor]]) -> dict[str, Any]:
    """Return a micro-batch: ``reference`` (B, C) and the B ``contrasts`` themselves."""
    return {"reference": torch.stack([item[1] for item in items]), "contrasts": [item[0] for item in items]}
