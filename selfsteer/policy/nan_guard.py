"""Stops a training with gradients or weights that are not finite, before a checkpoint could hold them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from selfsteer.errors import TrainingDiverged
from selfsteer.policy.distributed import anywhere


class NanGuard(TrainerCallback):
    """Stops before a gradient that is not finite reaches the weights, and after a last step that overshot.

    The losses of these steps were finite.
    """

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any = None, **_: Any
    ) -> None:
        """Check the gradients."""
        if args.fp16:  # the loss scaler checks them itself, skips such a step and lowers its scale
            return
        finite = [torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None]
        if anywhere(bool(finite) and not torch.stack(finite).all()):  # sharded, it may be in one process alone
            raise TrainingDiverged(
                "a gradient is not finite",
                where=f"step {state.global_step}",
                do="lower the learning rate or train in float32; the last checkpoint is kept",
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any = None, **_: Any
    ) -> None:
        """Check the weights."""
        finite = [torch.isfinite(p.detach()).all() for p in model.parameters() if p.requires_grad]
        if anywhere(bool(finite) and not torch.stack(finite).all()):
            raise TrainingDiverged(
                "the last step left weights that are not finite",
                where=f"step {state.global_step}",
                do="lower the learning rate",
            )
