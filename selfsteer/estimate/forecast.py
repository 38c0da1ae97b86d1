"""The costs of a recipe on this machine, and a warning where the disk is too small."""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from selfsteer.chat import Chat
from selfsteer.errors import FetchError, ModelError, SelfsteerWarning
from selfsteer.estimate.costs import Costs, Sizes
from selfsteer.estimate.fit import launch_of_recipe
from selfsteer.estimate.known_models import known_config
from selfsteer.estimate.model_shape import read_shape, source_of
from selfsteer.estimate.prompt_lengths import prompt_lengths, rows_of
from selfsteer.estimate.throughput import Rates, Sample, assumed_sample, guessed_rates, rates_file, sample_file
from selfsteer.files import read_json
from selfsteer.runs.plan_step import PlanStep
from selfsteer.runs.progress import size
from selfsteer.stages.context import RunContext
from selfsteer.stages.engines import engine_count
from selfsteer.stages.model_pool import ModelPool, Policy


def precisions(models: ModelPool) -> tuple[str, str]:
    """Return the precisions of generation and of training."""
    recipe = models.recipe
    return models.precision(recipe.generation.precision), models.precision(recipe.train.precision)


def start_of(models: ModelPool) -> Policy:
    """Return the recipe's start without a fingerprint of its weights: enough for its tokenizer, not for a stage key.

    Raises as :func:`source_of`.
    """
    if models.weightless:
        return dataclasses.replace(models.weightless_policy(), fingerprint="")
    settings, generation = models.recipe.model, models.recipe.generation
    backend = "transformers" if generation.weightless else generation.backend
    return Policy(0, source_of(models.name), "", backend, models.name, {"revision": settings.revision})


def costs_of(context: RunContext, sizes: Sizes, sample: Sample | None = None) -> Costs:
    """Return the costs of a recipe's stages, with the rates of this machine: measured before, or guessed.

    ``sample`` are the statistics of its responses, None takes those that were measured.

    Raises as :func:`read_shape`, and :class:`DataError` where there are too few queries for the rounds.
    """
    recipe, models, principle_set = context.recipe, context.models, context.principle_set
    shape = rates = None
    gpus: dict[str, int] = {}
    if not models.weightless:
        shape, device, kinds = read_shape(recipe.model), models.device, precisions(models)
        measured = read_json(rates_file(shape, recipe, device, kinds))
        guessed = guessed_rates(shape, recipe, device.partition(":")[0], kinds[1])
        rates = Rates(**measured["rates"]) if measured else guessed
        if device.startswith("cuda"):  # engines on a CPU share its cores, at whose speed the rates are
            kinds_of = {"sampling": recipe.generation.backend, "scoring": "transformers"}
            gpus = {name: engine_count(recipe, backend, device) for name, backend in kinds_of.items()}
            gpus["training"] = max(launch_of_recipe(recipe, device).total, 1) if recipe.trains else 1
    sampled = read_json(sample_file(recipe, principle_set.fingerprint))
    return Costs(
        recipe=recipe, shape=shape, rates=rates,
        sample=sample or (Sample(**sampled) if sampled else assumed_sample(None, None)),
        sizes=sizes._replace(train=rows_of(recipe, sizes)),
        prompts=prompt_lengths(recipe, principle_set, _chat(models)), **gpus,
    )  # fmt: skip


def _chat(models: ModelPool) -> Chat | None:
    """Return the template of the recipe's model; None for a known model whose tokenizer can't be fetched."""
    try:
        return models.chat(start_of(models))
    except FetchError:
        if not known_config(models.name):
            raise
        return None


def knowing(costs: Costs, steps: Iterable[PlanStep]) -> Costs:
    """Return the costs with the share of rows that quality control kept, where that stage is done."""
    for step in steps:
        if step.slot[0] == "contrasts" and step.entry and step.entry.info["total"]:
            kept = step.entry.info["counts"]["kept"] / step.entry.info["total"]
            return dataclasses.replace(costs, sample=dataclasses.replace(costs.sample, kept=kept))
    return costs


def disk_needed(costs: Costs, steps: Iterable[PlanStep]) -> float:
    """Return the peak bytes on disk of the stages to do: all that stays, and the most that is there for a while."""
    todo = [costs.of(step.slot[0], heldout=step.slot[2]) for step in steps if step.todo]
    return sum(one.disk for one in todo) + max((one.passing for one in todo), default=0.0)


def free_disk(folder: Path) -> int:
    """Return the free bytes of the disk that ``folder`` is on, or would be created on."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def warn_of_disk(context: RunContext, steps: Sequence[PlanStep], sizes: Sizes) -> None:
    """Warn where a run needs more disk than is free; silent for a model whose costs are not known."""
    if not any(step.todo for step in steps):
        return
    try:
        needed = disk_needed(knowing(costs_of(context, sizes), steps), steps)
    except ModelError:  # a model that can't be estimated may still run
        return
    free = free_disk(context.store.run_dir)
    if free < needed:
        warnings.warn(
            f"this run may need {size(needed)} of disk at its peak, and {size(free)} are free in "
            f"{context.store.run_dir}: free some, or choose another --run-dir (finished stages are kept either way)",
            SelfsteerWarning,
            stacklevel=2,
        )
