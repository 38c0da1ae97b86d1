"""What a step must cost at least, and what it did cost: matrix-product rate, arithmetic, peak memory."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from memory import peak_gb

from selfsteer.logprobs import view_cells
from selfsteer.logprobs.rows import rows_of
from selfsteer.records import Contrast
from selfsteer.views import SSO_VIEWS

__all__ = ["Arithmetic", "arithmetic", "matmul_rate", "peak_gb"]


def matmul_rate(dtype: torch.dtype, size: int = 2048, repeats: int = 5) -> float:
    """FLOP/s of a square matrix product, the median of ``repeats`` after two that warm up."""
    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[2:])


@dataclass(frozen=True)
class Arithmetic:
    """FLOPs of one forward pass over an example's rows, each prompt and each response once a view."""

    layers: float
    attention: float
    head: float

    @property
    def forward(self) -> float:
        """One pass."""
        return self.layers + self.attention + self.head

    @property
    def training(self) -> float:
        """Forward and backward (twice a forward), nothing computed again."""
        return 3 * self.forward


def arithmetic(model: Any, row: Contrast) -> Arithmetic:
    """What has to be computed for an example: the head on response tokens alone, causal pairs alone in attention."""
    config = model.config
    head = model.get_output_embeddings()
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_dim
    tokens = pairs = predicted = 0
    for prompt, responses in ((r.prompt, r.responses) for r in rows_of(row, view_cells(SSO_VIEWS))):
        lengths = [len(ids) - 1 for ids in responses]
        tokens += len(prompt) + sum(lengths)
        pairs += _causal(len(prompt)) + sum(n * len(prompt) + _causal(n) for n in lengths)
        predicted += sum(map(len, responses))
    return Arithmetic(
        layers=2 * linear * tokens,
        attention=4 * pairs * width * config.num_hidden_layers,
        head=2 * head.weight.numel() * predicted,
    )


def _causal(length: int) -> float:
    return length * (length + 1) / 2
