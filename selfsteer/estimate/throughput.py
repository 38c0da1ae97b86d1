"""How fast a machine is: one rate for each kind of stage, measured once and cached, or guessed."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from selfsteer.config import Recipe
from selfsteer.estimate.model_shape import ModelShape
from selfsteer.files import fingerprint
from selfsteer.models import cache_folder
from selfsteer.models.gpus import GPUS, assumed_gpus
from selfsteer.records import ROLES

_FORMAT = 2
"""Part of the name of every cached file: raise it when a file of the old form would be misread."""


@dataclass(frozen=True)
class Rates:
    """The speed of a machine with one model, one batch size and one way of training.

    FLOPs are those of :mod:`selfsteer.estimate.flops`, so anything computed twice makes a rate smaller.

    Attributes:
        asking: Seconds to choose the aspects of one query, in full batches.
        step: Seconds of one decoding step of a full batch; includes a share of reading the prompts.
        scoring: FLOP/s without gradients.
        training: FLOP/s of forward and backward; includes a share of the optimiser's update.
        disk: Bytes/s of writing a checkpoint and hashing it, and of loading weights.
        measured: False for guesses.
    """

    asking: float
    step: float
    scoring: float
    training: float
    disk: float
    measured: bool = True


@dataclass(frozen=True)
class Sample:
    """Statistics of a few sampled responses; ``rows`` is their number, 0 for none.

    Attributes:
        ends: By role, the probability that a response ends at its next token; 0 where none ended.
        kept: Share of rows that quality control keeps; None where responses were cut off before the recipe's limit, as
            filters (of length above all) see other rows then.
    """

    ends: Mapping[str, float]
    kept: float | None
    rows: int

    def length(self, role: str, limit: int) -> float:
        """Return the mean tokens of a response that is cut at ``limit``: sum of (1 - ends)^t over t < limit."""
        ends = self.ends.get(role, 0.0)
        return float(limit) if not ends else (1 - (1 - ends) ** limit) / ends

    def longest(self, role: str, limit: int, batch: int) -> float:
        """Return the expected tokens of the longest response of a batch, which is its number of decoding steps."""
        ends = self.ends.get(role, 0.0)
        return sum(1 - (1 - (1 - ends) ** t) ** batch for t in range(limit))


def assumed_sample(tokens: float | None, kept: float | None) -> Sample:
    """Return statistics that a user gives: mean tokens of a response, share of the rows that are kept.

    Without them every response is as long as the limit and every row is kept: the most that a recipe can cost.
    """
    return Sample({} if tokens is None else dict.fromkeys(ROLES, 1 / tokens), 1.0 if kept is None else kept, 0)


def guessed_rates(shape: ModelShape, recipe: Recipe, device: str, precision: str) -> Rates:
    """Return guesses for a machine that was not measured: from the number of cores, or a GPU's published figures.

    Where the GPU is not assumed but there, it counts as an A100. A decoding step reads all weights once or computes,
    whichever takes longer; choosing aspects takes 24 steps.
    """
    if device == "cuda":
        gpu, _ = assumed_gpus() or (GPUS["a100"], 1)
        # Shares that implementations reach: half the bandwidth, and (halved again below) a fifth of the FLOP/s.
        flops, memory, disk = 0.385 * gpu.flops, 0.49 * gpu.bandwidth, 2.5e8
    else:
        cores = os.cpu_count() or 1
        flops, memory, disk = cores * (8e10 if precision == "bfloat16" else 4e10), 8e9 * cores**0.5, 1.5e8
    size, batch = 2 if precision == "bfloat16" else 4, recipe.generation.batch
    step = max(size * shape.parameters / memory, 2.0 * (shape.active + shape.head) * batch / (flops / 4))
    return Rates(24 * step / batch, step, scoring=flops / 2, training=flops / 2, disk=disk, measured=False)


def machine(device: str) -> str:
    """Return a name for this machine and its device."""
    if assumed := assumed_gpus():
        return f"{assumed[1]} x {assumed[0].title}"
    parts = [platform.node(), platform.machine(), f"{os.cpu_count()} cores", device]
    if device.startswith("cuda"):
        import torch

        parts.append(torch.cuda.get_device_name(device))
    return ", ".join(parts)


def rates_file(shape: ModelShape, recipe: Recipe, device: str, precisions: tuple[str, str]) -> Path:
    """Return where the rates of a machine, an architecture, a precision, a batch size and a way of training are."""
    train = recipe.train
    way = [train.lora and train.lora.model_dump(), train.gradient_checkpointing, train.use_steering, train.objective]
    backend = [recipe.generation.backend, recipe.generation.batch]
    named = [_FORMAT, machine(device), dataclasses.asdict(shape), precisions, backend, way]
    return cache_folder() / "rates" / f"{fingerprint(named)}.json"


def sample_file(recipe: Recipe, principle_set: str) -> Path:
    """Return where the statistics of a model's responses under a principle set (its fingerprint) are."""
    generation = recipe.generation
    named = [_FORMAT, recipe.model.model_dump(), principle_set, *map(generation.drawing, ROLES)]
    return cache_folder() / "rates" / f"sample-{fingerprint([*named, recipe.quality.model_dump()])}.json"
