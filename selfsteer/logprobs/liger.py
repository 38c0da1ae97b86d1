"""Liger's cross-entropy kernel for the chunks of the head: it reads logits once and leaves their gradient in place.

liger-kernel is an optional package; everything is computed without it too.
"""

from __future__ import annotations

import functools
import importlib
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor

_OLDEST = Version("0.8.5")
"""The version that was tried. 0.6.0 counts what pads the last block where logits are soft-capped."""
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_NO_TARGET = -100
"""Liger's mark of a position to leave out; no token has this id."""


@functools.cache
def available() -> bool:
    """Return whether liger-kernel is installed, new enough, and there is a GPU for its kernels."""
    if not torch.cuda.is_available():
        return False
    try:
        return Version(version("liger-kernel")) >= _OLDEST
    except PackageNotFoundError:
        return False


def usable(logits: Tensor) -> bool:
    """Return whether the functions below take these logits: the kernel computes in float32, whatever it is given."""
    return logits.is_cuda and logits.dtype in _DTYPES and available()


def logps(logits: Tensor, targets: Tensor, *, softcap: float | None = None) -> Tensor:
    """Return the (C,) log-probs in nats, float32, of the tokens ``targets`` (C,), without a gradient.

    They are those of softcap * tanh(logits / softcap); the (C, K) logits stay as they are.
    """
    # The kernel would round its result to half-precision logits' type.
    return -_cross_entropy(logits.detach().float(), targets, softcap)[0]


def gradient(
    logits: Tensor, targets: Tensor, upstream: Tensor, *, softcap: float | None = None, scale: float = 1.0
) -> Tensor:
    """Return the (C, K) gradient of sum(upstream * log-prob of ``targets``) with respect to the head's output.

    It overwrites that output, ``logits`` (C, K), contiguous in rows. The log-probs are those of softcap * tanh(scale *
    logits / softcap), without a cap of scale * logits; ``targets`` and ``upstream`` are (C,).
    """
    leaf = (logits if scale == 1 else logits.mul_(scale)).detach().requires_grad_()
    return _cross_entropy(leaf, targets, softcap)[1].detach().mul_((upstream * -scale)[:, None])


def _cross_entropy(logits: Tensor, targets: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
    """The (C,) losses, and the logits, or where they ask for a gradient softmax - onehot, through the cap, in place."""
    kernels: Any = importlib.import_module("liger_kernel.ops.cross_entropy")
    # Triton launches on the current device, wherever the tensors are.
    with torch.cuda.device(logits.device) if logits.is_cuda else nullcontext():
        found = kernels.cross_entropy_forward(
            logits,
            targets,
            weight=None,
            ignore_index=_NO_TARGET,
            lse_square_scale=0.0,
            label_smoothing=0.0,
            reduction="none",
            softcap=softcap,
            return_z_loss=False,
        )
    return found[0], found[-1]
