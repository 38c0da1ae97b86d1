"""The bundle of log-probs that every loss takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PairLogps:
    """Log-probs of the chosen and the rejected response of B pairs under one model.

    Args:
        chosen, rejected: (B,) summed log-prob of each such response, nats, over its response tokens.
        chosen_lengths, rejected_lengths: (B,) integer number of response tokens that were summed.

    Raises:
        ValueError: Shapes differ, a log-prob is below float32, or a length is zero (an empty response has no mean).
    """

    chosen: Tensor
    rejected: Tensor
    chosen_lengths: Tensor
    rejected_lengths: Tensor

    def __post_init__(self) -> None:
        """Check shapes, precision and lengths once, where the bundle is made."""
        shapes = {tuple(t.shape) for t in (self.chosen, self.rejected, self.chosen_lengths, self.rejected_lengths)}
        if len(shapes) != 1 or self.chosen.dim() != 1:
            raise ValueError(f"PairLogps takes four tensors of one shape (B,), got {sorted(shapes)}")
        for name in ("chosen", "rejected"):
            dtype = getattr(self, name).dtype
            if dtype not in (torch.float32, torch.float64):
                raise ValueError(f"{name} log-probs are {dtype}: compute them in float32 or float64")
            if (getattr(self, f"{name}_lengths") <= 0).any():
                raise ValueError(f"{name} has a response of length 0: drop rows with an empty response first")

    @property
    def chosen_mean(self) -> Tensor:
        """(B,) mean log-prob per response token of the chosen response."""
        return self.chosen / self.chosen_lengths

    @property
    def rejected_mean(self) -> Tensor:
        """(B,) mean log-prob per response token of the rejected response."""
        return self.rejected / self.rejected_lengths

    def detach(self) -> PairLogps:
        """Return the same bundle cut from the graph."""
        return PairLogps(self.chosen.detach(), self.rejected.detach(), self.chosen_lengths, self.rejected_lengths)
