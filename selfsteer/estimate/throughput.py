"""How fast a machine is: measured once and kept in the cache folder, else stated guesses."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsteer.config import Recipe
from selfsteer.estimate.model_shape import ModelShape
from selfsteer.files import fingerprint, read_json, write_json
from selfsteer.models import cache_folder
from selfsteer.records import ROLES

_ANSWER = 24
"""Tokens that a model may use up to name aspects."""

_FORMAT = 1
"""Raised where a file of rates would be read as something else than it was written."""


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second, with one model, one batch size and one way of training.

    FLOPs are those of :mod:`selfsteer.estimate.flops`, so what is computed twice makes a rate smaller.

    Attributes:
        prefill: FLOP/s of reading prompts.
        step: Seconds of one decoding step of a whole batch over an empty cache.
        context: Seconds more for each token in the cache of a sequence.
        asking: Seconds of asking for the aspects of a whole batch of queries.
        scoring: FLOP/s without gradients.
        training: FLOP/s of forward and backward.
        update: Seconds of an optimiser step for each trained weight.
        loading: Bytes/s of reading weights from disk into float32.
        writing: Bytes/s of writing a checkpoint or a policy, and of hashing it.
        measured: Whether it was measured; else these are guesses.
    """

    prefill: float
    step: float
    context: float
    asking: float
    scoring: float
    training: float
    update: float
    loading: float
    writing: float
    measured: bool = True


@dataclass(frozen=True)
class Sample:
    """What a few responses told.

    Attributes:
        ends: By role, the probability that a response ends at its next token; 0 where none ended.
        kept: Share of rows that quality control keeps; None where they were cut off before the recipe's limit, so that
            filters (of length above all) see other rows than a run's.
        rows: How many rows that is told by; 0: nothing was sampled.
    """

    ends: Mapping[str, float]
    kept: float | None
    rows: int

    def length(self, role: str, limit: int) -> float:
        """Return the mean tokens of a response that is cut at ``limit``: sum of (1 - ends)^t over t < limit."""
        ends = self.ends.get(role, 0.0)
        return float(limit) if not ends else (1 - (1 - ends) ** limit) / ends

    def longest(self, role: str, limit: int, batch: int) -> float:
        """Return the mean tokens of the longest of a batch: a step is needed while any response goes on."""
        ends = self.ends.get(role, 0.0)
        return sum(1 - (1 - (1 - ends) ** t) ** batch for t in range(limit))


NOT_SAMPLED = Sample({}, 1.0, 0)
"""Every response as long as it may be, and every row kept: the most that a recipe can cost."""


def guessed_rates(shape: ModelShape, recipe: Recipe, device: str, precision: str) -> Rates:
    """Return guesses for a machine that was not measured: of a processor by its cores, of a GPU as of an A100.

    A decoding step reads all weights once, or computes, whichever takes longer.
    """
    if device == "cuda":
        flops, memory, disk = 1.2e14, 1.0e12, 5e8
    else:
        cores = os.cpu_count() or 1
        flops, memory, disk = cores * (8e10 if precision == "bfloat16" else 4e10), 8e9 * cores**0.5, 3e8
    size = 2 if precision == "bfloat16" else 4
    batch = recipe.generation.batch
    needed = 2.0 * (shape.active + shape.head) * batch
    cache = 2.0 * size * shape.key_width * shape.layers * batch
    step = max(size * shape.parameters / memory, needed / (flops / 4))
    return Rates(
        prefill=flops / 2,
        step=step,
        context=2 * cache / memory,
        asking=_ANSWER * step,
        scoring=flops / 2,
        training=flops / 2,
        update=28 / memory,
        loading=disk,
        writing=disk / 2,
        measured=False,
    )


def machine(device: str) -> str:
    """Return what names a machine and its device."""
    parts = [platform.node(), platform.machine(), f"{os.cpu_count()} cores", device]
    if device.startswith("cuda"):
        import torch

        parts.append(torch.cuda.get_device_name(device))
    return ", ".join(parts)


def rates_file(shape: ModelShape, recipe: Recipe, device: str, precisions: tuple[str, str]) -> Path:
    """Return where the rates of a machine, an architecture, a precision, a batch and a way of training are kept."""
    train = recipe.train
    way = [train.lora and train.lora.model_dump(), train.gradient_checkpointing, train.use_steering, train.objective]
    backend = [recipe.generation.backend, recipe.generation.batch]
    named = [_FORMAT, machine(device), dataclasses.asdict(shape), precisions, backend, way]
    return cache_folder() / "rates" / f"{fingerprint(named)}.json"


def sample_file(recipe: Recipe, principle_set: str) -> Path:
    """Return where it is kept what a few responses of a model under a principle set told."""
    generation = recipe.generation
    named = [_FORMAT, recipe.model.model_dump(), principle_set, *map(generation.drawing, ROLES)]
    return cache_folder() / "rates" / f"sample-{fingerprint([*named, recipe.quality.model_dump()])}.json"


def read_rates(path: Path) -> Rates | None:
    """Return kept rates, None where there are none."""
    found = read_json(path)
    return Rates(**found["rates"]) if found else None


def read_sample(path: Path) -> Sample | None:
    """Return a kept sample, None where there is none."""
    found = read_json(path)
    return Sample(**found) if found else None


def write_rates(path: Path, rates: Rates, about: Mapping[str, Any]) -> None:
    """Keep rates, with words that say whose they are."""
    write_json(path, {**about, "rates": dataclasses.asdict(rates)})


def write_sample(path: Path, sample: Sample) -> None:
    """Keep a sample."""
    write_json(path, dataclasses.asdict(sample))
