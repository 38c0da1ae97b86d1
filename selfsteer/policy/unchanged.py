"""Ends a training that changed no weight as a failure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import xxhash
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from selfsteer.errors import WorkFailed
from selfsteer.logprobs.score_keys import add_bytes
from selfsteer.policy.distributed import anywhere, own_part

_NOTHING_YET = {"changed": False, "gradient": False, "rate": 0.0}


class Unchanged(TrainerCallback, ExportableState):
    """Compares the trained weights with those of the start, bit by bit, after each step until one differs.

    It is exact, as a sample would miss bfloat16 weights of which few move, and mostly costs one pass over the weights.
    Weights that weight decay alone changed do not count: without a gradient nothing was learnt. The findings are kept
    in checkpoints, so a resumed training includes the steps before.

    Attributes:
        changed: Whether a weight differs from the start's.
        gradient: Whether any step had a gradient.
        rate: The highest learning rate of a step.
    """

    changed, gradient, rate = False, False, 0.0

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps."""
        return {"args": {}, "attributes": {name: getattr(self, name) for name in _NOTHING_YET}}

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any = None, **_: Any) -> None:
        """Take the start's digests."""
        # A checkpoint without this entry says nothing of its steps; transformers needs the key when it saves the next.
        unknown = {"args": {}, "attributes": _NOTHING_YET | {"changed": True}}
        stored = state.stateful_callbacks.setdefault(type(self).__name__, unknown)
        for name, value in (stored["attributes"] if state.global_step else _NOTHING_YET).items():
            setattr(self, name, value)
        self._start = [] if self.changed else list(_digests(model))

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, *, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        """Note whether there is a gradient, and the rate."""
        if not self.changed:
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            # DeepSpeed holds the gradients itself.
            self.gradient = self.gradient or not gradients or any(bool(own_part(one).any()) for one in gradients)
            self.rate = max(self.rate, *(float(group["lr"]) for group in optimizer.param_groups))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any = None, **_: Any) -> None:
        """Compare the weights with the start's."""
        if not self.changed:
            pairs = zip(self._start, _digests(model), strict=True)
            self.changed = anywhere(self.gradient and any(before != now for before, now in pairs))

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any = None, **_: Any) -> None:
        """Raise :class:`WorkFailed` where the last step is done and no weight differs."""
        if self.changed or state.global_step < state.max_steps:
            return
        types = sorted({str(one.dtype).removeprefix("torch.") for one in model.parameters() if one.requires_grad})
        do = "raise learning_rate: so small a step is lost in the rounding of these weights; float32 keeps it"
        if not self.rate:
            do = "raise learning_rate, and check the schedule (lr_scheduler_type and its arguments)"
        elif not self.gradient:
            do = (
                "check the losses: that of every example is flat here, as hinge is once all margins are met, or the "
                "weight of every example is 0"
            )
        raise WorkFailed(
            f"the training changed no weight in {state.global_step} step{'' if state.global_step == 1 else 's'}",
            where=f"learning rate up to {self.rate:g}, {', '.join(types)} weights, "
            f"gradients {'above' if self.gradient else 'all'} 0",
            do=do,
        )


def _digests(model: Any) -> Iterator[bytes]:
    """Yield a digest of each trained parameter; of a sharded one, of this process's part."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            digest = xxhash.xxh3_128()
            add_bytes(digest, own_part(getattr(parameter, "ds_tensor", parameter)))  # ds_tensor: DeepSpeed's ZeRO-3
            yield digest.digest()
