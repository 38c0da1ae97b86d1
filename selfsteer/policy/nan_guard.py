"""Stops a training with gradients or weights that are not finite, before a checkpoint could hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from selfsteer.errors import TrainingDiverged
from selfsteer.policy.distributed import anywhere, own_part


class NanGuard(TrainerCallback):
    """Stops before a gradient that is not finite reaches the weights, and after a last step that overshot.

    The losses of these steps were finite.
    """

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any = None, **_: Any) -> None:
        """Check the gradients."""
        if not args.fp16:  # there the loss scaler checks them, skips such a step and lowers its scale
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            do = "lower the learning rate or train in float32; the last checkpoint is kept"
            _check(gradients, state, "a gradient is not finite", do)

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any = None, **_: Any) -> None:
        """Check the weights."""
        weights = [p.detach() for p in model.parameters() if p.requires_grad]
        _check(weights, state, "the last step left weights that are not finite", "lower the learning rate")


def _check(tensors: Sequence[Tensor], state: TrainerState, what: str, do: str) -> None:
    finite = [torch.isfinite(own_part(tensor)).all() for tensor in tensors]
    if anywhere(bool(finite) and not torch.stack(finite).all()):  # sharded, it may be in one process alone
        raise TrainingDiverged(what, where=f"step {state.global_step}", do=do)
