"""The keys that recipe files take, and which of them a name from elsewhere stands for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from selfsteer.errors import did_you_mean

SAME_MEANING = {
    "lr": "train.learning_rate",
    "num_train_epochs": "train.epochs",
    "per_device_train_batch_size": "train.micro_batch_size",
    "max_seq_length": "train.max_length",
    "optim": "train.optimizer",
    "rank": "train.lora.r",
    "lora_r": "train.lora.r",
    "lora_rank": "train.lora.r",
    "lora_alpha": "train.lora.alpha",
    "lora_dropout": "train.lora.dropout",
    "lora_target": "train.lora.target_modules",
    "model_name_or_path": "model",
    "model_name": "model",
    "dataset": "queries",
    "dataset_name": "queries",
    "prompts": "queries",
    "max_samples": "queries.limit",
    "iterations": "rounds",
    "num_rounds": "rounds",
}
"""Names that people know from TRL, LLaMA-Factory and the like, and the key of a recipe with that meaning."""
OTHERWISE = {
    "deepspeed": "set train.strategy to deepspeed-zero2 or deepspeed-zero3",
    "fsdp": "set train.strategy to fsdp",
    "max_steps": "a training lasts train.epochs over the rows; limit them with queries.limit",
    "gradient_accumulation_steps": "it follows: train.batch_size over train.micro_batch_size and the processes",
    "warmup_steps": "set train.warmup_ratio, a share of the steps",
    "bf16": "set train.precision and generation.precision to bfloat16",
    "fp16": "set train.precision and generation.precision to bfloat16 or float32",
    "load_in_4bit": "set train.lora.bits to 4",
    "load_in_8bit": "set train.lora.bits to 8",
    "use_peft": "set train.lora.r, e.g. to 16",
    "finetuning_type": "set train.lora.r, e.g. to 16, for LoRA; without it all weights are trained",
    "output_dir": "use the option --run-dir",
    "num_gpus": "set train.processes and generation.engines",
    "beta1": "set train.adam_betas, e.g. to [0.9, 0.95]",
}
"""Such names without a key of the same meaning, and what to do instead."""
_SHOWN = 3


def sections_of(annotation: Any) -> Iterator[tuple[type[BaseModel], bool]]:
    """Yield the sections that a field's annotation allows, each with whether it is the value of a mapping by name."""
    named = getattr(annotation, "__origin__", None) is dict
    for option in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(option, type) and issubclass(option, BaseModel):
            yield option, named


def keys_of(kind: type[BaseModel], before: str = "") -> list[str]:
    """Return the dotted keys of a kind of recipe, sections too; those below names of the user's own are left out."""
    found = []
    for name, field in kind.model_fields.items():
        found.append(before + name)
        for section, named in sections_of(field.annotation):
            if not named:
                found += keys_of(section, f"{before}{name}.")
    return found


def meant(name: str, kind: type[BaseModel]) -> str | None:
    """Return the one key that ``name`` stands for: itself, a name from elsewhere, or the last part of a key.

    Of several keys with that last part it is the one of the policy (not the generator) that is nested least.
    """
    keys = dict.fromkeys(keys_of(kind))
    if name in keys:
        return name
    leaf = name.rpartition(".")[2]
    if (same := SAME_MEANING.get(leaf)) in keys:
        return same
    found = [key for key in keys if key.endswith(f".{leaf}") and not key.startswith("generator.")]
    least = min((key.count(".") for key in found), default=0)
    shallow = [key for key in found if key.count(".") == least]
    return shallow[0] if len(shallow) == 1 and name == leaf else None


def advice(name: str, available: list[str], kind: type[BaseModel]) -> str:
    """Return what to do about an unknown dotted key.

    Args:
        name: The key.
        available: The keys of the section that it was given in.
        kind: The kind of recipe.
    """
    leaf = name.rpartition(".")[2]
    keys = dict.fromkeys(keys_of(kind))
    if leaf in OTHERWISE and "train.epochs" in keys:
        return OTHERWISE[leaf]
    if key := meant(name, kind):
        return f"Did you mean {key!r}?"
    if found := [key for key in keys if key.endswith(f".{leaf}")]:
        return f"Did you mean {', '.join(repr(key) for key in found[:_SHOWN])}?"
    return did_you_mean(leaf, available)
