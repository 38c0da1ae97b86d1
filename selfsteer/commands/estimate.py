"""What `selfsteer estimate`, and `run` and `generate` with `--dry-run`, do and print."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from selfsteer.commands.dry_run import _show_disk, _show_grounds, _sum, _time, _tunings
from selfsteer.commands.tables import plain_table
from selfsteer.config import Recipe
from selfsteer.estimate.costs import Costs
from selfsteer.estimate.flops import Arithmetic
from selfsteer.estimate.forecast import (
    costs_of,
    precisions,
    start_of,
)
from selfsteer.estimate.memory import (
    PROCESS,
    STRATEGIES,
    cache_bytes,
    generation_memory,
    scoring_memory,
    training_memory,
)
from selfsteer.estimate.model_shape import read_shape, source_of, stored_weights
from selfsteer.estimate.prompt_lengths import sizes_of
from selfsteer.estimate.throughput import machine, rates_file, sample_file, write_rates, write_sample
from selfsteer.loop.dry_run import plan
from selfsteer.loop.run import open_stages
from selfsteer.runs.pipeline import GENERATOR
from selfsteer.runs.pipeline import stage as line
from selfsteer.runs.plan_step import PlanStep
from selfsteer.runs.progress import Display, size
from selfsteer.stages.context import RunContext


def estimate(
    recipe: Recipe, *, devices: int, queries: int | None, calibrate: bool, out: Console, errors: Console
) -> Costs:
    """Print what a recipe will cost, from its configuration, its queries and its model's shape; loads no weights.

    Args:
        recipe: The recipe.
        devices: How many devices share the training, for the table of memory.
        queries: How many queries there are, in place of counting them.
        calibrate: Measure this machine first, with the recipe's model.
        out: Where the tables go.
        errors: Where progress and warnings go.

    Raises:
        InputError: The recipe, its queries or its model can't be used, or the model's costs are not known.
    """
    stages = open_stages(recipe, Path(os.devnull), Display(quiet=True))
    if calibrate:
        _calibrate(stages, errors)
    costs = costs_of(stages, sizes_of(recipe.queries, queries))
    if costs.shape:
        _show_model(costs, stages, out)
        _show_memory(costs, stages, devices, out)
    _show_stages(costs, plan(stages, measure=True, start=start_of(stages.models)), out)
    _show_grounds(costs, stages, out, errors)
    return costs


def _calibrate(stages: RunContext, errors: Console) -> None:
    from selfsteer.estimate.calibrate import calibrate

    recipe, models = stages.recipe, stages.models
    if models.weightless:
        errors.print(f"nothing to measure: the backend {recipe.generation.backend} has no weights")
        return
    shape = read_shape(recipe.model)
    rates, sample = calibrate(stages, shape, errors.print)
    about = {"machine": machine(models.device), "model": models.name, "precisions": precisions(models)}
    write_rates(rates_file(shape, recipe, models.device, precisions(models)), rates, about)
    write_sample(sample_file(recipe, stages.principle_set.fingerprint), sample)


def _show_model(costs: Costs, stages: RunContext, out: Console) -> None:
    shape, recipe = costs.shape, costs.recipe
    assert shape is not None
    stored = stored_weights(source_of(recipe.model.name))
    generating, training = precisions(stages.models)
    table = plain_table("model", stages.models.name)
    used, experts = shape.experts
    mixture = f"; {used} of {experts} experts a token" if experts > 1 else ""
    table.add_row("architecture", f"{shape.architecture}, {shape.layers} layers{mixture}")
    head = "embedding and head are one" if shape.tied else "embedding and head apart"
    table.add_row("parameters", f"{shape.parameters:,}, {head}")
    share = costs.tuning.trainable / shape.parameters
    way = f"{costs.tuning.name} r={costs.tuning.r}" if costs.tuning.r else costs.tuning.name
    table.add_row("trainable", f"{costs.tuning.trainable:,} ({way}, {share:.2%})")
    if stored:
        same = "" if stored.numbers == shape.parameters else f", {stored.numbers:,} numbers (not what config.json says)"
        table.add_row("weights on disk", f"{size(stored.size)}{same}")
    table.add_row("generating, training in", f"{generating}, {training}")
    limit = recipe.generation.max_new_tokens
    longest = max(costs.prompts[:3]) + limit
    each, whole = cache_bytes(shape, 1, generating), cache_bytes(shape, longest, generating)
    batch = recipe.generation.batch
    table.add_row("KV cache", f"{size(each)} a token, {size(batch * whole)} a batch of {batch} x {longest:.0f} tokens")
    scored, trained = costs.scored, costs.trained
    table.add_row("scoring a row", f"{_flops(scored.forward)} (nine cells, {_parts(scored)})")
    table.add_row(
        "training on a row",
        f"{_flops(trained.forward)} forward, {_flops(costs.training_flops - trained.forward)} backward "
        f"({_parts(trained)})",
    )
    out.print(table)


def _parts(one: Arithmetic) -> str:
    shares = (one.layers, one.attention, one.head)
    return "layers {:.0%}, attention {:.0%}, head {:.0%}".format(*(part / one.forward for part in shares))


def _show_memory(costs: Costs, stages: RunContext, devices: int, out: Console) -> None:
    shape = costs.shape
    assert shape is not None
    device, (generating, precision) = stages.models.device.partition(":")[0], precisions(stages.models)
    tokens, predicted = costs.micro_batch
    columns = ("weights", "copies", "grads", "Adam", "activ.", "logits", "total", "ckpt.")
    table = plain_table("training", *columns, right=columns)
    for one in _tunings(costs):
        for strategy in STRATEGIES if devices > 1 else STRATEGIES[:1]:
            found, again = (
                training_memory(
                    shape, one, strategy, devices, tokens=tokens, predicted=predicted, precision=precision,
                    checkpointing=checkpointing, device=device,
                )
                for checkpointing in (False, True)
            )  # fmt: skip
            name = one.name if devices == 1 else f"{one.name}, {strategy}"
            name += " *" if one == costs.tuning else ""
            table.add_row(name, *map(size, (*found, found.total, again.total)))
    out.print(table)
    share = f"each of {devices} devices" if devices > 1 else "one device"
    out.print(
        f"bytes on {share} with {tokens:,.0f} tokens in a micro-batch; ckpt.: the total with activation checkpointing; "
        "*: this recipe",
        soft_wrap=True,
    )
    weights = costs.tuning.frozen if costs.tuning.name.startswith("QLoRA") else None
    sampling = generation_memory(
        shape, weights=weights, batch=costs.recipe.generation.batch,
        tokens=max(costs.prompts[:3]) + costs.recipe.generation.max_new_tokens, precision=generating,
    )  # fmt: skip
    scoring = scoring_memory(shape, weights=weights, precision=precision, device=device)
    base = f"; and {size(PROCESS[device])} for the libraries"
    out.print(f"sampling a batch takes {size(sampling)}, scoring {size(scoring)}{base}", soft_wrap=True)


def _show_stages(costs: Costs, steps: Sequence[PlanStep], out: Console) -> None:
    table = plain_table("stage", "times", "each", "time", "disk", right=("times", "each", "time", "disk"))
    for (stage, heldout), times in Counter((step.slot[0], step.slot[2]) for step in steps).items():
        one = costs.of(stage, heldout=heldout)
        label = line(stage).title + (" for the generator" if stage.startswith(GENERATOR) else "")
        label += ", held-out" if heldout else ""
        whole = None if one.seconds is None else times * one.seconds
        table.add_row(label, str(times), _time(one.seconds), _time(whole), size(times * one.disk))
    table.add_section()
    all_of_them = [costs.of(step.slot[0], heldout=step.slot[2]) for step in steps]
    table.add_row("all", "", "", _sum(all_of_them), size(sum(one.disk for one in all_of_them)))
    out.print(table)
    _show_disk(costs, steps, Path(), out)


def _flops(number: float) -> str:
    return f"{number / 1e12:.3g} TFLOP"
