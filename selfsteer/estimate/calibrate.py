"""Measuring a machine: the recipe's own stages on one batch of responses, and one optimiser step."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from selfsteer.backends import Sampling
from selfsteer.errors import DataError
from selfsteer.estimate.flops import Arithmetic, Row, arithmetic
from selfsteer.estimate.model_shape import ModelShape
from selfsteer.estimate.throughput import Rates, Sample
from selfsteer.files import atomic_path, sha256_file
from selfsteer.quality.chain import FilterChain
from selfsteer.records import ROLES, Contrast, Query, Response, is_full
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store
from selfsteer.stages.context import RunContext
from selfsteer.stages.model_pool import Policy
from selfsteer.stages.principle_strategies import principled
from selfsteer.stages.principles import principles_stage
from selfsteer.stages.queries import queries_stage
from selfsteer.stages.responses import responses_stage
from selfsteer.stages.scores import scores_stage

if TYPE_CHECKING:
    from selfsteer.logprobs import Cell

_SECONDS = 60.0
"""Time limit for sampling; responses go up to the recipe's token limit, or as far as this allows."""
_MOST = 96
"""Largest batch that is sampled, for engines that take hundreds of requests at once."""
_TRAINED = 4
"""Largest number of rows that are trained on."""
_WRITTEN = 1 << 28
"""Bytes written to measure the disk."""


def calibrate(
    context: RunContext, shape: ModelShape, say: Callable[[str], None] = lambda text: None
) -> tuple[Rates, Sample]:
    """Return the rates of this machine and statistics of the recipe's responses; raises as a run does.

    Runs the recipe's stages on a few queries in a temporary folder that is removed afterwards.
    """
    batch = min(context.recipe.generation.batch, _MOST)
    with TemporaryDirectory() as folder:
        # One round of so many queries.
        few = {"limit": batch, "heldout": 0, "heldout_limit": None, "per_round": "all", "round_size": None}
        queries = context.recipe.queries.unchecked.model_copy(update=few)
        one = context.recipe.generation.model_copy(update={"engines": 1})  # the rates are those of one
        recipe = context.recipe.model_copy(update={"rounds": 1, "queries": queries, "generation": one})
        own = RunContext.from_recipe(recipe, Store(Path(folder), Display(quiet=True)))
        try:
            return _measure(own, shape, max(1, batch // len(ROLES)), say)
        finally:
            own.models.free()


def _measure(context: RunContext, shape: ModelShape, rows: int, say: Callable[[str], None]) -> tuple[Rates, Sample]:
    from selfsteer.logprobs import ALL_CELLS

    models, recipe = context.models, context.recipe
    policy = models.initial_policy(say)
    say("      sampling a batch of responses ...")
    backend, chat, queries = models.backend(policy), models.chat(policy), queries_stage(context.recipe, context.store)
    first = context.store.read(queries, Query)
    principled(recipe, context.principle_set, backend, [chat] if chat else [], first[:1])  # the shared few-shot part
    principles, asking = _timed(principles_stage, context, queries, "train", 1, policy)
    # The recipe's token limit, or what the time limit allows by the speed of eight tokens.
    started = time.perf_counter()
    backend.generate([query.prompt for query in first[:rows] for _ in ROLES], Sampling(8, 0.0, 1.0), seed=0)
    limit = min(recipe.generation.max_new_tokens, max(8, int(8 * _SECONDS / (time.perf_counter() - started))))
    generation = recipe.generation.model_copy(update={"max_new_tokens": limit})
    limited = dataclasses.replace(context, recipe=recipe.model_copy(update={"generation": generation}))
    responses, sampling = _timed(responses_stage, limited, principles, "train", 1, policy, limit=rows)
    found = context.store.read(responses, Response)
    say("      scoring some rows ...")
    models.scorer(policy)  # loads the model
    scores, scoring = _timed(scores_stage, limited, principles, responses, "train", 1, policy)
    scored = list(filter(is_full, context.store.read(scores, Contrast)))
    if not scored:
        raise DataError("no row has three responses", where="the first queries", do="check them with a small run")
    flops = sum(_flops(shape, row, ALL_CELLS, recipe.train.max_length).forward for row in scored)
    kept = share_kept(context.chain(), scored) if limit == recipe.generation.max_new_tokens else None
    models.free()
    say("      training on some rows ...")
    training, disk = _train(context, shape, policy, scored[:_TRAINED]), _disk_speed(context.store.run_dir)
    steps = max(len(response.token_ids or ()) for response in found)
    rates = Rates(asking / len(first), sampling / max(1, steps), flops / scoring, training, disk)
    return rates, Sample(ending_rates(found), kept, len(scored))


def _timed(stage: Callable[..., StageRecord], *given: Any, **options: Any) -> tuple[StageRecord, float]:
    started = time.perf_counter()
    return stage(*given, **options), time.perf_counter() - started


def ending_rates(found: Sequence[Response]) -> dict[str, float]:
    """Return by role the share of tokens that are a response's last: the likeliest probability of ending."""
    tokens, ended = Counter[str](), Counter[str]()
    for response in found:
        tokens[response.role] += len(response.token_ids or ())
        ended[response.role] += response.finish == "stop"
    return {role: ended[role] / tokens[role] for role in ROLES if tokens[role]}


def share_kept(chain: FilterChain, rows: Sequence[Contrast]) -> float:
    """Return the share of rows that the filters, not fitted yet, keep."""
    chain.fit(lambda: rows)
    return statistics.mean(chain.apply(row).kept for row in rows)


def _train(context: RunContext, shape: ModelShape, policy: Policy, rows: Sequence[Contrast]) -> float:
    """Return the FLOP/s of an optimiser step of the run's own trainer over ``rows``, in the recipe's micro-batches."""
    import torch

    from selfsteer.logprobs import row_attention_on
    from selfsteer.policy.dataset import collate
    from selfsteer.stages.trainers import open_trainer
    from selfsteer.stages.training import Training

    settings = context.recipe.train
    training = Training("policy", 1, [], 0, policy, policy)
    trainer = open_trainer(
        context.recipe, context.models, training.task(context.recipe), rows, context.models.run_dir / "checkpoints"
    )
    trainer.state.global_step = 1  # from then on the policy is not its own reference
    model = trainer.model.train()
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    trainer.create_optimizer()
    examples = [trainer.train_dataset[place] for place in range(min(settings.batch_size, trainer.examples))]
    size = min(settings.micro_batch_size, len(examples))
    micro = [examples[start : start + size] for start in range(0, len(examples), size)]

    def step(batches: Sequence[list]) -> float:
        started = time.perf_counter()
        with row_attention_on(model):
            for batch in batches:
                trainer.compute_loss(model, collate(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return time.perf_counter() - started

    step(micro[:1])  # warms up, and allocates the optimiser's states
    seconds, flops = step(micro), 0.0
    for row, _ in examples:
        one = _flops(shape, row, trainer.cells, settings.max_length)
        flops += one.training if settings.lora is None else one.adapting
        flops += one.again if settings.gradient_checkpointing else 0.0
    return flops / seconds


def _disk_speed(folder: Path) -> float:
    """Return bytes/s of a file that is written, synced and hashed in ``folder``."""
    path, data = folder / "written", os.urandom(1 << 20)
    started = time.perf_counter()
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        for _ in range(_WRITTEN >> 20):
            stream.write(data)
    sha256_file(path)
    return _WRITTEN / (time.perf_counter() - started)


def _flops(shape: ModelShape, row: Contrast, cells: Sequence[Cell], limit: int) -> Arithmetic:
    from selfsteer.logprobs.cells import rows_of

    rows = rows_of(row, cells, limit)
    return arithmetic(shape, [Row(len(one.prompt), list(map(len, one.responses))) for one in rows])
