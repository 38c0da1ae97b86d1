"""`selfsteer estimate`."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfsteer.commands.console import errors, say
from selfsteer.commands.options import count_option
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
    devices: Annotated[int, count_option(help="Number of devices that share the training, for the memory figures.")] = 1
    queries: Annotated[int | None, count_option(help="Number of queries.", show_default="counted")] = None
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First measure this machine with the recipe's model, 1 to 3 minutes.")
    ] = False


def estimate(arguments: EstimateArguments) -> Costs:
    """Estimate what a recipe costs: parameters, FLOPs, memory, time and disk. Loads no weights."""
    from selfsteer.commands.estimate_tables import show_estimate
    from selfsteer.config import load_recipe
    from selfsteer.estimate.forecast import costs_of
    from selfsteer.estimate.prompt_lengths import sizes_of
    from selfsteer.loop.run import open_stages
    from selfsteer.runs.progress import Display

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    stages = open_stages(recipe, Path(os.devnull), Display(quiet=True), runs_code=False)
    if arguments.calibrate:
        _calibrate(stages)
    costs = costs_of(stages, sizes_of(recipe.queries, arguments.queries))
    show_estimate(costs, stages, arguments.devices)
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
