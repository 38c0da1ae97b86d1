"""FSDP2 by accelerate, in the precision that SSO's loss needs, and on a CPU too."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import Trainer

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
        if self.accelerator.mixed_precision == "bf16":
            from torch.distributed.fsdp import MixedPrecisionPolicy

            # accelerate's own policy would round gradients before they are summed, and the log-probs themselves.
            plugin.mixed_precision_policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)

    def _ignored_plugin(self) -> Any:
        """Return the plugin that accelerate ignored because the processes are on CPUs, put in force; else None."""
        from accelerate.state import DistributedType, PartialState
        from accelerate.utils import FullyShardedDataParallelPlugin

        state = self.accelerator.state
        if state.distributed_type != DistributedType.MULTI_CPU or os.environ.get(_SWITCH, "").lower() != "true":
            return None
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**(self.args.fsdp_plugin_args or {}))
        state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.is_fsdp_enabled = True
        return state.fsdp_plugin
