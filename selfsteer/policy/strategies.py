"""How several processes share a training: what each strategy sets in TrainingArguments, and what its package needs."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal, get_args

from selfsteer.errors import ConfigError, did_you_mean
from selfsteer.policy.config import checkpointing_argument

Strategy = Literal["single", "ddp", "fsdp", "deepspeed-zero2", "deepspeed-zero3"]


def strategy_arguments(strategy: str, *, gradient_checkpointing: bool = False, offload: bool = False) -> dict[str, Any]:
    """Return the entries of ``SSOConfig(...)`` (any TrainingArguments) that train by ``strategy``.

    The processes are started with torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, ...); these entries do the rest,
    so that neither an accelerate configuration nor its launcher is needed. Masters, gradients and optimiser states are
    float32 under all of them; ``bf16=True`` beside them computes in bfloat16.

    Args:
        strategy: "single" and "ddp": whole weights in every process. "fsdp": weights, gradients and optimiser states
            sharded with FSDP2, a decoder layer at a time, checkpoints sharded too. "deepspeed-zero2": gradients and
            optimiser states sharded. "deepspeed-zero3": weights too.
        gradient_checkpointing: Recompute activations in the backward pass, by the strategy's own means.
        offload: Keep shards and optimiser states in main memory (fsdp and DeepSpeed).

    Raises:
        ConfigError: An unknown strategy; DeepSpeed is not installed; ``offload`` where nothing is sharded.
    """
    if strategy not in get_args(Strategy):
        known = get_args(Strategy)
        raise ConfigError(f"unknown strategy {strategy!r}", where="strategy", do=did_you_mean(strategy, known))
    if strategy == "fsdp":
        config = {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "reshard_after_forward": True,
            "state_dict_type": "SHARDED_STATE_DICT",
            # transformers refuses its own argument beside FSDP's; ShardingTrainer has both mean the same.
            "activation_checkpointing": gradient_checkpointing,
            "cpu_offload": offload,
        }
        return {"fsdp": True, "fsdp_config": config}
    options: dict[str, Any] = {checkpointing_argument(): gradient_checkpointing}
    if strategy in ("single", "ddp"):
        if offload:
            do = "choose fsdp, deepspeed-zero2 or deepspeed-zero3"
            raise ConfigError(f"strategy {strategy!r} shards nothing that could be offloaded", where="offload", do=do)
        return options
    if importlib.util.find_spec("deepspeed") is None:
        do = "pip install deepspeed, or choose fsdp, which shards the same"
        raise ConfigError(f"strategy {strategy!r} needs DeepSpeed, which is not installed", where="strategy", do=do)
    return options | {"deepspeed": deepspeed_config(3 if strategy.endswith("3") else 2, offload=offload)}


def deepspeed_config(stage: Literal[2, 3], *, offload: bool = False) -> dict[str, Any]:
    """Return DeepSpeed's configuration of a ZeRO stage; transformers fills in each "auto" from its own arguments."""
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3:
        # Checkpoints and the final folder get whole weights from it.
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        zero |= {"offload_param": {"device": "cpu"}} if stage == 3 else {}
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        # Any optimiser of transformers'; DeepSpeed otherwise takes only those that it has tested.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
