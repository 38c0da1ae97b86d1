"""What a step must cost at least, and what it did cost: matrix-product rate, arithmetic, peak memory."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from memory import peak_gb

from selfsteer.estimate.flops import Arithmetic, Row, arithmetic
from selfsteer.estimate.model_shape import shape_of
from selfsteer.logprobs import view_cells
from selfsteer.logprobs.cells import rows_of
from selfsteer.records import Contrast
from selfsteer.views import SSO_VIEWS

__all__ = ["Arithmetic", "matmul_rate", "needed", "peak_gb", "synchronize"]


def synchronize(device: str) -> None:
    """Wait for a GPU's kernels, which a call only starts."""
    if device == "cuda":
        torch.cuda.synchronize()


def matmul_rate(dtype: torch.dtype, size: int = 2048, repeats: int = 5, device: str = "cpu") -> float:
    """FLOP/s of a square matrix product, the median of ``repeats`` after two that warm up."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    seconds = []
    for _ in range(repeats + 2):
        synchronize(device)
        started = time.perf_counter()
        a @ b
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[2:])


def needed(model: Any, row: Contrast) -> Arithmetic:
    """Return what has to be computed for an example: a forward pass over its rows, each response once a view."""
    rows = rows_of(row, view_cells(SSO_VIEWS))
    return arithmetic(shape_of(model), [Row(len(one.prompt), list(map(len, one.responses))) for one in rows])
