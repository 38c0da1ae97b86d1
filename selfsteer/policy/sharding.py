"""FSDP2 by accelerate, in the precision that SSO's loss needs, and on a CPU too."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import Trainer

from selfsteer.policy.config import checkpointing_argument

_SWITCH = "ACCELERATE_USE_FSDP"


class ShardingTrainer(Trainer):
    """A Trainer whose FSDP2 computes in bfloat16 what autocast computes in it, and shards on CPUs as well.

    On CPUs accelerate (1.15) ignores FSDP without a word and trains whole copies, so what two cores test would not be
    what eight GPUs run.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator, and correct its plugin."""
        asked = os.environ.get(_SWITCH)
        super().create_accelerator_and_postprocess()
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None) or self._ignored_plugin()
        if asked is None:
            os.environ.pop(_SWITCH, None)  # accelerate leaves it set: the process's next training would be sharded too
        if plugin is None or plugin.fsdp_version != 2:
            return
        if plugin.activation_checkpointing:
            # accelerate's wrappers change the names of modules, and peft then saves an adapter without its weights.
            # transformers' own checkpointing gathers no more than they do under FSDP2.
            plugin.activation_checkpointing = False
            setattr(self.args, checkpointing_argument(), True)
        if self.accelerator.mixed_precision == "bf16":
            from torch.distributed.fsdp import MixedPrecisionPolicy

            # accelerate's own policy would round gradients before they are summed, and the log-probs themselves.
            plugin.mixed_precision_policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate; before the first training with the model as it is, neither wrapped nor sharded.

        accelerate can't shard a model without an optimiser; and one that it has prepared for an evaluation it never
        wraps in DDP afterwards, so that each process would train a model of its own.
        """
        unprepared = not self.accelerator._models and not self.is_deepspeed_enabled
        if unprepared:
            self.accelerator._models.append(self.model)
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            if unprepared:
                self.accelerator._models.clear()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as one folder of safetensors, written by process zero; every process has to call it."""
        if not self.is_fsdp_enabled or _internal_call:
            super().save_model(output_dir, _internal_call)
            return
        # transformers writes no weights at all where checkpoints are sharded.
        self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write gathered weights, tied ones once: gathered one by one they are no longer one tensor."""
        for name, source in (getattr(self.model, "all_tied_weights_keys", None) or {}).items():
            if state_dict and source in state_dict:
                state_dict.pop(name, None)
        super()._save(output_dir, state_dict)

    def _ignored_plugin(self) -> Any:
        """Return the plugin that accelerate ignored because the processes are on CPUs, switched on; else None."""
        from accelerate.state import DistributedType, PartialState
        from accelerate.utils import FullyShardedDataParallelPlugin

        state = self.accelerator.state
        if state.distributed_type != DistributedType.MULTI_CPU or os.environ.get(_SWITCH, "").lower() != "true":
            return None
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**(self.args.fsdp_plugin_args or {}))
        state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.is_fsdp_enabled = True
        return state.fsdp_plugin
