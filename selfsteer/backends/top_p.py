"""Top-p sampling over the likeliest tokens alone. The distribution is that of transformers' own warpers.

Sorting a whole vocabulary and drawing from all of it takes a third of a decoding step of a small model on a CPU, and
the nucleus is mostly a few dozen tokens.
"""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

_FIRST = 128
"""Tokens that are tried first; where they hold less than top_p, eight times as many, and so on."""


class NucleusSampler(LogitsProcessor):
    """Draws each row's next token and leaves it as the only possible one, for a greedy search to take.

    ``temperature``, above 0, divides the logits. The draw is from the smallest set whose probability reaches ``top_p``.
    """

    def __init__(self, temperature: float, top_p: float) -> None:
        self.temperature, self.top_p = temperature, top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (B, K), in which all tokens but the drawn one are at minus infinity."""
        tokens, weights = self.nucleus(scores)
        drawn = tokens.gather(-1, torch.multinomial(weights, 1))
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn, 0.0)

    def nucleus(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the likeliest tokens of each row (B, N) by logits (B, K), and their probabilities, 0 outside it."""
        logits = scores.float() / self.temperature
        total = logits.logsumexp(-1, keepdim=True)
        size = _FIRST
        while True:
            top, tokens = logits.topk(min(size, logits.shape[-1]))
            probabilities = (top - total).exp()
            reached = probabilities.cumsum(-1)
            if size >= logits.shape[-1] or bool((reached[:, -1] >= self.top_p).all()):
                break
            size *= 8
        # A token belongs to the nucleus where those before it do not reach top_p yet.
        return tokens, probabilities.masked_fill(reached - probabilities >= self.top_p, 0.0)
