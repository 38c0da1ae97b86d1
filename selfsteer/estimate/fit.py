"""Which strategy a training takes on the GPUs that there are, by the memory estimate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

from selfsteer.backends import BACKENDS
from selfsteer.config import LoraSettings, Recipe
from selfsteer.errors import ConfigError
from selfsteer.estimate.costs import Costs
from selfsteer.estimate.memory import BYTES, PROCESS, cache_bytes, generation_memory, scoring_memory, training_memory
from selfsteer.jobs.launch import Launch, launch_of
from selfsteer.models.gpus import Gpu
from selfsteer.runs.progress import size
from selfsteer.stages.engines import gpus_each

_NAMES = {
    "single": "ddp", "ddp": "ddp", "fsdp": "fsdp", "deepspeed-zero2": "zero-2", "deepspeed-zero3": "zero-3",
}  # fmt: skip
_TOLERANCE = 1.1
"""A training is refused from so many times the memory on: the estimate is off by some percent (docs/estimate.md)."""


def launch_of_recipe(recipe: Recipe, device: str) -> Launch:
    """Return how a recipe's trainings are started; raises as :func:`selfsteer.jobs.launch.launch_of`."""
    share = recipe.train.batch_size
    if recipe.mode == "generator":
        share = math.gcd(share, recipe.generator.batch_size)
    return launch_of(recipe.train, device, share)


def needed(costs: Costs, strategy: str, devices: int, precision: str) -> float:
    """Return the bytes that a recipe's training needs on each of ``devices`` GPUs."""
    assert costs.shape is not None
    tokens, predicted = costs.micro_batch
    found = training_memory(
        costs.shape, costs.tuning, _NAMES[strategy], devices, tokens=tokens, predicted=predicted, precision=precision,
        checkpointing=costs.recipe.train.gradient_checkpointing, device="cuda",
    )  # fmt: skip
    return found.total + PROCESS["cuda"]


class Need(NamedTuple):
    """What a part of a run needs on each GPU, in bytes, and what to set where it does not fit ("" where it does)."""

    what: str
    gpus: int
    bytes: float
    do: str


def needs(costs: Costs, launch: Launch, precisions: tuple[str, str], gpu: Gpu) -> list[Need]:
    """Return what sampling, scoring and training need on GPUs of this kind.

    Args:
        precisions: Of generation and of training.
    """
    shape, generation = costs.shape, costs.recipe.generation
    assert shape is not None
    engine, each = BACKENDS[generation.backend].runs == "engine", gpus_each(costs.recipe, generation.backend)
    weights = costs.tuning.frozen if costs.tuning.name.startswith("QLoRA") else None
    longest = max(costs.prompts[:3]) + generation.max_new_tokens
    if engine:  # it takes all memory there is, and has to hold one sequence
        sampling = BYTES[precisions[0]] * shape.parameters + cache_bytes(shape, longest, precisions[0])
    else:
        sampling = generation_memory(
            shape, weights=weights, batch=generation.batch, tokens=longest, precision=precisions[0]
        )
    sampling = sampling / each + PROCESS["cuda"]
    scoring = scoring_memory(shape, weights=weights, precision=precisions[1], device="cuda") + PROCESS["cuda"]
    smaller = f"set generation.vllm.tensor_parallel_size={2 * each}" if engine else "lower generation.batch_size"
    found = [
        Need("sampling", costs.sampling * each, sampling, smaller if sampling > gpu.memory else ""),
        Need("scoring", costs.scoring, scoring, "take larger GPUs" if scoring > gpu.memory else ""),
    ]
    if costs.recipe.trains:
        do = ""
        try:
            launch, _ = fitted(costs, launch, precisions[1], gpu.memory)
        except ConfigError as error:
            do = error.do.partition(";")[0]
        training = needed(costs, launch.strategy, costs.training, precisions[1])
        found.append(Need(f"training, {launch.strategy}", costs.training, training, do))
    return found


def fitted(costs: Costs, launch: Launch, precision: str, capacity: float) -> tuple[Launch, str]:
    """Return how a training is started on GPUs of ``capacity`` bytes, and a sentence that says so.

    Where the recipe leaves the strategy open, FSDP replaces DDP if that does not fit.

    Raises:
        ConfigError: It does not fit; the message has the estimate and a setting with which it would.
    """
    if not launch.processes:
        return launch, ""
    count, asked = launch.processes, costs.recipe.train.strategy
    wanted = needed(costs, launch.strategy, count, precision)
    if wanted > capacity and asked == "auto" and count > 1:
        launch = dataclasses.replace(launch, strategy="fsdp")
        wanted = needed(costs, launch.strategy, count, precision)
    if wanted > capacity * _TOLERANCE:
        fits = next((told for told, other in _others(costs) if _smallest(other, count, precision) <= capacity), None)
        do = f"set {fits}" if fits else "take more or larger GPUs"
        what = f"training needs about {size(wanted)} on each GPU by {launch.strategy}, which has {size(capacity)}"
        raise ConfigError(what, where="train", do=f"{do}; `selfsteer estimate --devices {count}` has all figures")
    gpus = f"{count} GPUs" if count > 1 else "one GPU"
    return launch, f"training on {gpus} by {launch.strategy}: about {size(wanted)} of {size(capacity)} on each"


def _smallest(costs: Costs, devices: int, precision: str) -> float:
    strategies = ["fsdp", "ddp"] if devices > 1 else ["single"]
    return min(needed(costs, strategy, devices, precision) for strategy in strategies)


def _others(costs: Costs) -> Iterator[tuple[str, Costs]]:
    """Yield settings that need less memory, those that change least first."""
    plain = costs.recipe.train
    changes: dict[str, dict[str, object]] = {"train.strategy=fsdp": {}} if plain.strategy != "fsdp" else {}
    changes["train.gradient_checkpointing=true"] = {"gradient_checkpointing": True}
    changes["train.micro_batch_size=1 train.gradient_checkpointing=true"] = {
        "gradient_checkpointing": True, "micro_batch_size": 1,
    }  # fmt: skip
    changes["train.lora.r=16 train.micro_batch_size=1 train.gradient_checkpointing=true"] = {
        "gradient_checkpointing": True, "micro_batch_size": 1, "lora": plain.lora or LoraSettings(),
    }  # fmt: skip
    for told, change in changes.items():
        recipe = costs.recipe.model_copy(update={"train": plain.model_copy(update=change)})
        yield told, dataclasses.replace(costs, recipe=recipe)
