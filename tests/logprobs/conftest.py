"""What several tests of log-probs need."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def all_float64(monkeypatch):
    """transformers computes norms and softmax in float32 whatever the model's type: here let that be float64 too.

    Else both sides carry rounding of 1e-7, which would hide an error of that size.
    """
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
