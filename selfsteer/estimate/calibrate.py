"""Measuring a machine with the recipe's own model: aspects, one batch of responses, scores and an optimiser step."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from selfsteer.backends import Backend
from selfsteer.contrast import Request
from selfsteer.errors import DataError
from selfsteer.estimate.flops import Arithmetic, Row, arithmetic
from selfsteer.estimate.model_shape import ModelShape
from selfsteer.estimate.prompt_lengths import first_queries
from selfsteer.estimate.throughput import Rates, Sample
from selfsteer.files import atomic_path, sha256_file
from selfsteer.quality import parse_filters
from selfsteer.records import ROLES, Contrast, Response, SteeredQuery, is_full
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store
from selfsteer.stages.context import RunContext
from selfsteer.stages.model_pool import Policy
from selfsteer.stages.principle_strategies import principled
from selfsteer.stages.responses import planned, sample
from selfsteer.stages.scores import joined

if TYPE_CHECKING:
    from selfsteer.logprobs import Cell

_SECONDS = 60.0
"""Time limit for sampling; responses go up to the recipe's token limit, or as far as this allows."""
_MOST = 96
"""Largest batch that is sampled, for engines that take hundreds of requests at once."""
_SCORED = 4
"""Rows scored and trained on, unless the recipe's filters need the scores of all."""
_WRITTEN = 1 << 28
"""Bytes written to measure the disk."""


def calibrate(
    stages: RunContext, shape: ModelShape, say: Callable[[str], None] = lambda text: None
) -> tuple[Rates, Sample]:
    """Return the rates of this machine and statistics of the recipe's responses.

    Rows are made, scored, filtered and trained on as in a run, in a temporary folder that is removed afterwards.

    Args:
        stages: The recipe's; only their settings are used.
        shape: The model's.
        say: Called with a line of progress.

    Raises:
        InputError, WorkFailed: As in a run.
    """
    with TemporaryDirectory() as folder:
        own = RunContext.from_recipe(stages.recipe, Store(Path(folder), Display(quiet=True)))
        models, policy = own.models, own.models.initial_policy(say)
        try:
            say("      sampling a batch of responses ...")
            backend = models.backend(policy)
            asking, steered = _ask(own, backend, policy)
            step, rows, ends, whole = _respond(own, backend, policy, steered)
            say("      scoring some rows ...")
            scoring, scored = _score(own, shape, policy, rows)
            kept = share_kept(own, scored if len(scored) == len(rows) else rows) if whole else None
            models.free()
            say("      training on some rows ...")
            rates = Rates(asking, step, scoring, _train(own, shape, policy, scored[:_SCORED]), _disk_speed(folder))
        finally:
            models.free()
    return rates, Sample(ends, kept, len(rows))


def _ask(stages: RunContext, backend: Backend, policy: Policy) -> tuple[float, list[SteeredQuery]]:
    """Return the seconds a query of choosing aspects for a batch, and the steered queries."""
    recipe, chat = stages.recipe, stages.models.chat(policy)
    queries = first_queries(recipe.queries, min(recipe.generation.batch, _MOST))
    asked = recipe, stages.principle_set, backend, [chat] if chat else []
    principled(*asked, queries[:1])  # warms up, and computes the few-shot part that all questions share
    started = time.perf_counter()
    rows = list(principled(*asked, queries).rows)
    return (time.perf_counter() - started) / len(queries), rows


def _respond(
    stages: RunContext, backend: Backend, policy: Policy, steered: Sequence[SteeredQuery]
) -> tuple[float, list[Contrast], dict[str, float], bool]:
    """Sample one batch.

    Returns:
        Seconds a decoding step; the rows; by role how likely a response ends at its next token; whether the token limit
        was the recipe's.
    """
    recipe = stages.recipe
    rows = steered[: math.ceil(min(recipe.generation.batch, _MOST) / len(ROLES))]
    batch, _ = planned(rows, backend, recipe)
    if not batch:
        raise DataError("no prompt of the first queries fits", where="queries", do="raise train.max_length")
    seconds, found = _timed(
        stages, backend, batch, 8
    )  # warms up: slower than the rest, so the limit is on the safe side
    wanted = recipe.generation.max_new_tokens
    limit = min(wanted, max(8, int(_SECONDS / (seconds / _steps(found)))))
    seconds, found = _timed(stages, backend, batch, limit)
    responses: dict[tuple[str, str], Response] = {(response.id, response.role): response for response in found}
    contrasts = joined(
        [row for row in rows if all((row.id, role) in responses for role in ROLES)],
        responses,
        principle_set=stages.principle_set if recipe.quality.clean else None,
        chat=stages.models.chat(policy),
        thinking_apart=recipe.generation.thinking == "apart",
        round=1,
        provenance={},
    )
    full = list(filter(is_full, contrasts))
    if not full:
        raise DataError("no row has three responses", where="the first queries", do="check them with a small run")
    return seconds / _steps(found), full, ending_rates(found), limit == wanted


def _timed(
    stages: RunContext, backend: Backend, batch: Sequence[Request], tokens: int
) -> tuple[float, Sequence[Response]]:
    generation = stages.recipe.generation.model_copy(update={"max_new_tokens": tokens})
    started = time.perf_counter()
    found = sample(stages.recipe.model_copy(update={"generation": generation}), backend, batch, seed=0)
    return time.perf_counter() - started, found.rows


def _steps(found: Sequence[Response]) -> int:
    """Decoding steps of a batch: the tokens of its longest response."""
    return max(1, *(len(response.token_ids or ()) for response in found))


def ending_rates(found: Sequence[Response]) -> dict[str, float]:
    """Return by role the share of tokens that are a response's last: the likeliest probability of ending."""
    tokens, ended = Counter[str](), Counter[str]()
    for response in found:
        tokens[response.role] += len(response.token_ids or ())
        ended[response.role] += response.finish == "stop"
    return {role: ended[role] / tokens[role] for role in ROLES if tokens[role]}


def _score(
    stages: RunContext, shape: ModelShape, policy: Policy, rows: Sequence[Contrast]
) -> tuple[float, list[Contrast]]:
    """Return the FLOP/s of scoring, and the scored rows; the first row warms up."""
    from selfsteer.logprobs import ALL_CELLS

    scorer = stages.models.scorer(policy)
    assert scorer is not None  # only backends with weights are measured
    needs_all = any(step.scored for step in parse_filters(stages.filters))
    chosen = list(rows if needs_all else rows[:_SCORED])
    first = scorer.score(chosen[:1])
    timed = chosen[1:] or chosen
    started = time.perf_counter()
    scored = [*first, *scorer.score(timed)]
    seconds = time.perf_counter() - started
    limit = stages.recipe.train.max_length
    return sum(_flops(shape, row, ALL_CELLS, limit).forward for row in timed) / seconds, scored[-len(chosen) :]


def share_kept(stages: RunContext, rows: Sequence[Contrast]) -> float:
    """Return the share of rows that the recipe's filters keep."""
    chain = stages.chain()
    chain.fit(lambda: rows)
    return statistics.mean(chain.apply(row).kept for row in rows)


def _train(stages: RunContext, shape: ModelShape, policy: Policy, rows: Sequence[Contrast]) -> float:
    """Return the FLOP/s of an optimiser step of the run's own trainer over ``rows``, in the recipe's micro-batches."""
    import torch

    from selfsteer.logprobs import row_attention_on
    from selfsteer.policy.dataset import collate
    from selfsteer.stages.training import Training, open_trainer

    settings = stages.recipe.train
    training = Training("policy", 1, [], policy, policy)
    trainer = open_trainer(stages, training, rows, stages.models.run_dir / "checkpoints")
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


def _disk_speed(folder: str) -> float:
    """Return bytes/s of a file that is written, synced and hashed in ``folder``."""
    path, data = Path(folder) / "written", os.urandom(1 << 20)
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
