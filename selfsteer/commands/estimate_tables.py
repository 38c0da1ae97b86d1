"""The tables of `selfsteer estimate`: the model, its memory, and the time and disk space of each stage."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.dry_run import show_assumptions, show_disk, time_text, total_time
from selfsteer.commands.tables import plain_table
from selfsteer.config import LoraSettings
from selfsteer.estimate import memory
from selfsteer.estimate.costs import Costs
from selfsteer.estimate.fit import launch_of_recipe, needs
from selfsteer.estimate.flops import Arithmetic
from selfsteer.estimate.forecast import precisions, start_of
from selfsteer.estimate.model_shape import source_of, stored_weights
from selfsteer.loop.dry_run import plan
from selfsteer.models.gpus import Gpu, assumed_gpus
from selfsteer.runs.pipeline import GENERATOR
from selfsteer.runs.pipeline import stage as stage_of
from selfsteer.runs.progress import size
from selfsteer.stages.context import RunContext
from selfsteer.stages.model_pool import ModelPool


def show_estimate(costs: Costs, context: RunContext, devices: int) -> None:
    """Print the costs of a recipe; a backend without weights has no table of the model and none of the memory."""
    if costs.shape:
        _show_model(costs, context.models)
        _show_memory(costs, context.models, devices)
        if assumed := assumed_gpus():
            _show_fit(costs, context.models, *assumed)
    steps = plan(context, measure=True, start=start_of(context.models))
    table = plain_table("stage", "times", "each", "time", "disk", right=("times", "each", "time", "disk"))
    for (stage, heldout), times in Counter((step.slot[0], step.slot[2]) for step in steps).items():
        one = costs.of(stage, heldout=heldout)
        label = stage_of(stage).title + (" for the generator" if stage.startswith(GENERATOR) else "")
        label += ", held-out" if heldout else ""
        whole = None if one.seconds is None else times * one.seconds
        table.add_row(label, str(times), time_text(one.seconds), time_text(whole), size(times * one.disk))
    table.add_section()
    everything = [costs.of(step.slot[0], heldout=step.slot[2]) for step in steps]
    table.add_row("all", "", "", total_time(everything), size(sum(one.disk for one in everything)))
    out.print(table)
    show_disk(costs, steps, Path())
    show_assumptions(costs, context.models)


def _show_fit(costs: Costs, models: ModelPool, gpu: Gpu, count: int) -> None:
    """Print what each part of a run needs on these GPUs, and what to set where it does not fit."""
    nodes = costs.recipe.train.nodes
    machines = f"{nodes} nodes of " if nodes > 1 else ""
    table = plain_table(f"{machines}{count} x {gpu.title}", "GPUs", "each needs", "", right=("GPUs", "each needs"))
    for need in needs(costs, launch_of_recipe(costs.recipe, models.device), precisions(models), gpu):
        verdict = f"does not fit: {need.do}" if need.do else "fits"
        table.add_row(need.what, str(need.gpus), size(need.bytes), Text(verdict))
    out.print(table)


def _show_model(costs: Costs, models: ModelPool) -> None:
    shape, recipe, chosen = costs.shape, costs.recipe, costs.tuning
    assert shape is not None
    generating, training = precisions(models)
    table = plain_table("model", models.name)
    used, experts = shape.experts
    mixture = f"; {used} of {experts} experts a token" if experts > 1 else ""
    table.add_row("architecture", f"{shape.architecture}, {shape.layers} layers{mixture}")
    head = "embedding and head are one" if shape.tied else "embedding and head apart"
    table.add_row("parameters", f"{shape.parameters:,}, {head}")
    way = f"{chosen.name} r={chosen.r}" if chosen.r else chosen.name
    table.add_row("trainable", f"{chosen.trainable:,} ({way}, {chosen.trainable / shape.parameters:.2%})")
    if stored := stored_weights(source_of(recipe.model.name)):
        same = "" if stored.numbers == shape.parameters else f", {stored.numbers:,} numbers (not what config.json says)"
        table.add_row("weights on disk", f"{size(stored.size)}{same}")
    table.add_row("generating, training in", f"{generating}, {training}")
    longest, batch = max(costs.prompts[:3]) + recipe.generation.max_new_tokens, recipe.generation.batch
    each, whole = memory.cache_bytes(shape, 1, generating), memory.cache_bytes(shape, longest, generating)
    table.add_row("KV cache", f"{size(each)} a token, {size(batch * whole)} a batch of {batch} x {longest:.0f} tokens")
    scored, trained = costs.scored, costs.trained
    table.add_row("scoring a row", f"{_flops(scored.forward)} (nine cells, {_parts(scored)})")
    backward = _flops(costs.training_flops(costs.recipe.train) - trained.forward)
    table.add_row("training on a row", f"{_flops(trained.forward)} forward, {backward} backward ({_parts(trained)})")
    out.print(table)


def _parts(one: Arithmetic) -> str:
    shares = (one.layers, one.attention, one.head)
    return "layers {:.0%}, attention {:.0%}, head {:.0%}".format(*(part / one.forward for part in shares))


def _flops(number: float) -> str:
    return f"{number / 1e12:.3g} TFLOP"


def _show_memory(costs: Costs, models: ModelPool, devices: int) -> None:
    shape, recipe = costs.shape, costs.recipe
    assert shape is not None
    device, (generating, precision) = models.device.partition(":")[0], precisions(models)
    tokens, predicted = costs.micro_batch
    columns = ("weights", "copies", "grads", "Adam", "activ.", "logits", "total", "ckpt.")
    table = plain_table("training", *columns, right=columns)
    lora = recipe.train.lora or LoraSettings()
    ways = [memory.tuning(shape, None), *(memory.tuning(shape, lora, bits) for bits in (None, 8, 4))]
    for one in [costs.tuning] if assumed_gpus() else ways:
        for strategy in memory.STRATEGIES if devices > 1 else memory.STRATEGIES[:1]:
            plainly, checkpointed = (
                memory.training_memory(
                    shape, one, strategy, devices, tokens=tokens, predicted=predicted, precision=precision,
                    checkpointing=checkpointing, device=device,
                )
                for checkpointing in (False, True)
            )  # fmt: skip
            if assumed_gpus():
                name = strategy if devices > 1 else "single"
            else:
                name = one.name if devices == 1 else f"{one.name}, {strategy}"
                name += " *" if one == costs.tuning else ""
            table.add_row(name, *map(size, (*plainly, plainly.total, checkpointed.total)))
    out.print(table)
    share = f"each of {devices} devices" if devices > 1 else "one device"
    say(
        f"bytes on {share} with {tokens:,.0f} tokens in a micro-batch; ckpt.: the total with activation checkpointing"
        f"{'' if assumed_gpus() else '; *: this recipe'}"
    )
    weights = costs.tuning.frozen if costs.tuning.name.startswith("QLoRA") else None
    sampling = memory.generation_memory(
        shape, weights=weights, batch=recipe.generation.batch,
        tokens=max(costs.prompts[:3]) + recipe.generation.max_new_tokens, precision=generating,
    )  # fmt: skip
    scoring = memory.scoring_memory(shape, weights=weights, precision=precision, device=device)
    libraries = f"; and {size(memory.PROCESS[device])} for the libraries"
    say(f"sampling a batch takes {size(sampling)}, scoring {size(scoring)}{libraries}")
