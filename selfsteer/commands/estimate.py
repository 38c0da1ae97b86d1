"""What `selfsteer estimate`, and `run` and `generate` with `--dry-run`, do and print."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfsteer.config import Recipe
from selfsteer.estimate.costs import Cost, Costs, Sizes
from selfsteer.estimate.flops import Arithmetic
from selfsteer.estimate.forecast import (
    costs_of,
    disk_needed,
    free_disk,
    knowing,
    precisions,
    start_of,
)
from selfsteer.estimate.memory import (
    PROCESS,
    STRATEGIES,
    Tuning,
    cache_bytes,
    generation_memory,
    scoring_memory,
    training_memory,
    tuning,
)
from selfsteer.estimate.model_shape import read_shape, source_of, stored_weights
from selfsteer.estimate.prompt_lengths import sizes_of
from selfsteer.estimate.throughput import machine, rates_file, sample_file, write_rates, write_sample
from selfsteer.loop.dry_run import State, Step, plan
from selfsteer.loop.run import check, open_stages
from selfsteer.runs.progress import Display, clock, size
from selfsteer.runs.store import Claim
from selfsteer.stages.context import DataStages

STYLE = {State.DONE: "green", State.SHARED: "cyan", State.TODO: "", State.REDO: "yellow", State.AFTER: "dim"}
"""How the state of a stage is shown."""
_LABELS = {
    "queries": "read queries",
    "principles": "choose aspects",
    "responses": "sample responses",
    "scores": "clean and score",
    "contrasts": "quality control",
    "preferences": "read preferences",
    "generator-responses": "sample responses for the generator",
    "generator-scores": "clean and score for the generator",
    "generator-contrasts": "quality control for the generator",
    "generator": "train the generator",
    "average": "average the weights",
    "reference": "score under the reference",
    "policy": "train",
    "implicit": "implicit rewards",
    "judgements": "ask the judge",
}


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


def dry_run(
    recipe: Recipe,
    run_dir: Path,
    *,
    measure: bool,
    out: Console,
    errors: Console,
    shelf: Path | None = None,
    claims: Mapping[Claim, str] | None = None,
) -> list[Step]:
    """Print what a run would do in a run directory, and why; writes nothing and loads no weights.

    Args:
        recipe: The recipe, as the run takes it.
        run_dir: It may be missing.
        measure: Whether the run measures on held-out queries.
        out: Where the plan goes.
        errors: Where warnings go.
        shelf: Of a run in a sweep, the sweep's folder.
        claims: Of a run in a sweep, the stages that the runs before it will have done, with their names.

    Raises:
        InputError, WorkFailed: As the run would, where it can be told beforehand.
    """
    stages = open_stages(recipe, run_dir, Display(quiet=True), shelf=shelf)
    check(stages)
    start_of(stages.models)  # says so where the model would have to be fetched
    steps = plan(stages, measure=measure, claims=claims)
    known = next((step.entry.info for step in steps if step.slot[0] == "queries" and step.entry), None)
    sizes = Sizes(known["train"], known["heldout"] if measure else 0) if known else sizes_of(recipe.queries)
    costs = knowing(costs_of(stages, sizes), steps)
    _show_plan(costs, steps, run_dir, out)
    _show_grounds(costs, stages, out, errors)
    return steps


def _calibrate(stages: DataStages, errors: Console) -> None:
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


def plain_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Return a table of these columns, with a line under its head only; those to the ``right`` hold figures."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column in right)
    return table


def _show_model(costs: Costs, stages: DataStages, out: Console) -> None:
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


def _show_memory(costs: Costs, stages: DataStages, devices: int, out: Console) -> None:
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


def _tunings(costs: Costs) -> list[Tuning]:
    """The four ways of tuning; the recipe's adapter, or the default one."""
    from selfsteer.config import LoraSettings

    assert costs.shape is not None
    lora = costs.recipe.train.lora or LoraSettings()
    return [
        tuning(costs.shape, None),
        *(tuning(costs.shape, lora, bits) for bits in (None, 8, 4)),
    ]


def _show_stages(costs: Costs, steps: Sequence[Step], out: Console) -> None:
    table = plain_table("stage", "times", "each", "time", "disk", right=("times", "each", "time", "disk"))
    for (stage, heldout), times in Counter((step.slot[0], step.slot[2]) for step in steps).items():
        one = costs.of(stage, heldout=heldout)
        label = _LABELS.get(stage, stage) + (", held-out" if heldout and stage != "implicit" else "")
        whole = None if one.seconds is None else times * one.seconds
        table.add_row(label, str(times), _time(one.seconds), _time(whole), size(times * one.disk))
    table.add_section()
    all_of_them = [costs.of(step.slot[0], heldout=step.slot[2]) for step in steps]
    table.add_row("all", "", "", _sum(all_of_them), size(sum(one.disk for one in all_of_them)))
    out.print(table)
    _show_disk(costs, steps, Path(), out)


def _show_plan(costs: Costs, steps: Sequence[Step], run_dir: Path, out: Console) -> None:
    table = plain_table("stage", "", "time", "disk", "why", right=("time", "disk"))
    for step in steps:
        one = costs.of(step.slot[0], heldout=step.slot[2])
        cells = (_time(one.seconds), size(one.disk)) if step.todo else ("-", "-")
        table.add_row(step.title, Text(step.state, STYLE[step.state]), *cells, Text(step.why))
    table.add_section()
    todo = [costs.of(step.slot[0], heldout=step.slot[2]) for step in steps if step.todo]
    table.add_row(f"{len(todo)} to do", "", _sum(todo), size(sum(one.disk for one in todo)))
    out.print(table)
    _show_disk(costs, steps, run_dir, out)


def _show_disk(costs: Costs, steps: Sequence[Step], folder: Path, out: Console) -> None:
    needed, free = disk_needed(costs, steps), free_disk(folder)
    passing = max((costs.of(step.slot[0], heldout=step.slot[2]).passing for step in steps), default=0.0)
    with_them = f" with the checkpoints ({size(passing)}, removed after each round)" if passing else ""
    out.print(f"disk at its worst {size(needed)}{with_them}; {size(free)} are free", soft_wrap=True)


def _show_grounds(costs: Costs, stages: DataStages, out: Console, errors: Console) -> None:
    """Say what the figures stand on; what is a guess is a warning."""
    sample, limit = costs.sample, costs.recipe.generation.max_new_tokens
    lengths = ", ".join(f"{name} {costs.responses[role]:.0f}" for role, name in _SIGNS.items())
    out.print(
        f"for {costs.sizes.train:,} queries a round and {costs.sizes.heldout:,} held out; prompts of "
        f"{costs.prompts.plain:.0f} / {costs.prompts.positive:.0f} / {costs.prompts.negative:.0f} tokens (x, x+, x-); "
        f"responses of {lengths} tokens; {costs.kept / costs.sizes.train:.0%} of the rows kept",
        soft_wrap=True,
    )
    guesses = []
    if costs.rates and not costs.rates.measured:
        guesses.append(
            f"times are guesses for {machine(stages.models.device)}: --calibrate measures it (one to three minutes)"
        )
    if costs.shape and not sample.rows:
        guesses.append(f"nothing was sampled, so every response is taken for {limit} tokens and every row for kept")
    if costs.shape and sample.rows and not sample.kept:
        what = f"none of the {sample.rows} rows sampled was kept"
        if sample.kept is None:
            what = f"the responses sampled were cut off before {limit} tokens"
        guesses.append(f"{what}, so every row is taken for kept")
    for text in guesses:
        errors.print("[bold yellow]warning:[/] ", end="")
        errors.print(text, markup=False, soft_wrap=True)


_SIGNS = {"positive": "y+", "negative": "y-", "original": "yo"}


def _sum(costs: Sequence[Cost]) -> str:
    """The time of all, at least: what is not known adds nothing."""
    known = [one.seconds for one in costs if one.seconds is not None]
    return ("" if len(known) == len(costs) else "at least ") + _time(sum(known))


def _time(seconds: float | None) -> str:
    return "?" if seconds is None else clock(seconds)


def _flops(number: float) -> str:
    return f"{number / 1e12:.3g} TFLOP"
