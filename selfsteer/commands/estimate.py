"""`selfsteer estimate`."""

from __future__ import annotations

import dataclasses
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfsteer.commands.console import errors, say
from selfsteer.commands.options import count_option
from selfsteer.errors import ConfigError
from selfsteer.files import write_json

if TYPE_CHECKING:
    from selfsteer.estimate.costs import Costs
    from selfsteer.stages.context import RunContext


@dataclass(frozen=True)
class EstimateArguments:
    """The options of `selfsteer estimate`."""

    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")]
    overrides: Annotated[list[str], typer.Argument(help="Settings, e.g. model=./my-model train.lora.r=16.")] = field(
        default_factory=list
    )
    devices: Annotated[
        int | None,
        count_option(help="Number of devices that share the training, for the memory figures.", show_default="1"),
    ] = None
    queries: Annotated[int | None, count_option(help="Number of queries.", show_default="counted")] = None
    gpu: Annotated[
        str | None, typer.Option(help="A GPU to estimate for, whatever this machine has: l4, rtx4090, a100, h100, ...")
    ] = None
    count: Annotated[int | None, count_option(help="GPUs of that kind on each node.", show_default="1")] = None
    response_tokens: Annotated[
        int | None, count_option(help="Mean tokens of a response.", show_default="measured, or the limit")
    ] = None
    kept: Annotated[
        float | None,
        typer.Option(min=1e-6, max=1, help="Share of the rows that filters keep.", show_default="measured, or 1"),
    ] = None
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First measure this machine with the recipe's model, 1 to 3 minutes.")
    ] = False


def estimate(arguments: EstimateArguments) -> Costs:
    """Estimate what a recipe costs: parameters, FLOPs, memory, time and disk. Loads no weights.

    Raises:
        ConfigError: A setting is wrong, or nothing is known of the GPU.
    """
    from selfsteer.commands.estimate_tables import show_estimate
    from selfsteer.config import load_recipe
    from selfsteer.estimate.forecast import costs_of
    from selfsteer.estimate.prompt_lengths import sizes_of
    from selfsteer.estimate.throughput import assumed_sample
    from selfsteer.loop.run import open_stages
    from selfsteer.models.gpus import gpu_of, planning_for
    from selfsteer.runs.progress import Display

    if arguments.gpu is None and arguments.count is not None:
        raise ConfigError("--count is a number of GPUs of one kind", where="--count", do="add --gpu, e.g. --gpu h100")
    if arguments.gpu is not None and arguments.devices is not None:
        do = "leave --devices out"
        raise ConfigError("the training is shared by the --count GPUs of each node", where="--devices", do=do)
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    stages = open_stages(recipe, Path(os.devnull), Display(quiet=True), runs_code=False)
    with ExitStack() as stack:
        devices, count = arguments.devices or 1, arguments.count or 1
        if arguments.gpu is not None:
            if arguments.calibrate:
                do = "leave one of the two out"
                raise ConfigError("--calibrate measures this machine, --gpu stands for another", where="--gpu", do=do)
            stack.enter_context(planning_for(gpu_of(arguments.gpu), count))
            devices = count * recipe.train.nodes
        if arguments.calibrate:
            _calibrate(stages)
        given = arguments.response_tokens, arguments.kept
        sample = None if given == (None, None) else assumed_sample(*given)
        costs = costs_of(stages, sizes_of(recipe.queries, arguments.queries), sample)
        show_estimate(costs, stages, devices)
    return costs


def _calibrate(context: RunContext) -> None:
    from selfsteer.estimate.calibrate import calibrate
    from selfsteer.estimate.forecast import precisions
    from selfsteer.estimate.model_shape import read_shape
    from selfsteer.estimate.throughput import machine, rates_file, sample_file

    recipe, models = context.recipe, context.models
    if models.weightless:
        say(f"nothing to measure: the backend {recipe.generation.backend} has no weights", errors)
        return
    shape = read_shape(recipe.model)
    rates, sample = calibrate(context, shape, errors.print)
    # Machine and model for people who open the file.
    about = {"machine": machine(models.device), "model": models.name, "precisions": precisions(models)}
    file = rates_file(shape, recipe, models.device, precisions(models))
    write_json(file, {**about, "rates": dataclasses.asdict(rates)})
    write_json(sample_file(recipe, context.principle_set.fingerprint), dataclasses.asdict(sample))
