"""Measuring a machine with the recipe's own model: one batch of responses, some rows scored, two training steps."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

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
    from selfsteer.logprobs.cells import PromptRow

_SECONDS = 60.0
"""Responses are sampled to the recipe's limit, or as far as this time goes."""
_MOST = 96
"""Requests at most, however large a batch is: an engine that takes hundreds at once is not measured by that."""
_SCORED = 4
"""Rows that are scored, unless filters need the scores of all."""
_WRITTEN = 1 << 28
"""Bytes written to see how fast the disk is."""


def calibrate(
    stages: RunContext, shape: ModelShape, say: Callable[[str], None] = lambda text: None
) -> tuple[Rates, Sample]:
    """Return the rates of this machine, and what a batch of the recipe's responses told.

    Rows are made, scored, filtered and trained on as a run does it, in a temporary folder; nothing of it is kept.

    Args:
        stages: Those of the recipe; used for their settings alone.
        shape: The model's.
        say: Is told what is being measured.

    Raises:
        InputError, WorkFailed: As in a run.
    """
    with TemporaryDirectory() as folder:
        own = RunContext.of(stages.recipe, Store(Path(folder), Display(quiet=True)))
        try:
            return _Calibration(own, shape, say).go()
        finally:
            own.models.free()


class _Calibration:
    def __init__(self, stages: RunContext, shape: ModelShape, say: Callable[[str], None]) -> None:
        self.stages, self.recipe, self.models, self.shape, self.say = stages, stages.recipe, stages.models, shape, say
        self.policy: Policy = self.models.initial_policy(say)

    def go(self) -> tuple[Rates, Sample]:
        self.say("      sampling a batch of responses ...")
        backend = self.models.backend(self.policy)
        asking, principled = self._ask(backend)
        prefill, step, context, rows, ends, whole = self._sample(backend, principled)
        self.say("      scoring some rows ...")
        loading, scoring, scored = self._score(rows)
        kept = self._kept(scored if len(scored) == len(rows) else rows) if whole else None
        self.models.free()
        self.say("      training on some rows ...")
        training, update = self._train(scored)
        rates = Rates(
            prefill=prefill, step=step, context=context, asking=asking, scoring=scoring, training=training,
            update=update, loading=loading, writing=self._write(),
        )  # fmt: skip
        return rates, Sample(ends, kept, len(rows))

    def _ask(self, backend: Backend) -> tuple[float, list[SteeredQuery]]:
        """Choose aspects for a batch of queries, twice: what all questions share is computed by the first."""
        queries = first_queries(self.recipe.queries, min(self.recipe.generation.batch, _MOST))
        chat = self.models.chat(self.policy)
        asked = self.recipe, self.stages.principle_set, backend, [chat] if chat else []
        principled(*asked, queries[:1])
        started = time.perf_counter()
        rows = list(principled(*asked, queries).rows)
        return time.perf_counter() - started, rows

    def _sample(
        self, backend: Backend, principled: Sequence[SteeredQuery]
    ) -> tuple[float, float, float, list[Contrast], dict[str, float], bool]:
        """Sample one batch: a token, nine, and as many as there is time for; the rows that came of it, and whether
        their responses were as long as a run's.
        """
        rows = principled[: math.ceil(min(self.recipe.generation.batch, _MOST) / len(ROLES))]
        batch, _ = planned(rows, backend, self.recipe)
        if not batch:
            raise DataError("no prompt of the first queries fits", where="queries", do="raise train.max_length")
        prompt = statistics.mean(backend.length(request.prompt) for request in batch)
        self._timed(backend, batch, 1)  # warms up
        first, _ = self._timed(backend, batch, 1)
        few = _Decoding.of(*self._timed(backend, batch, 9), first)
        wanted = self.recipe.generation.max_new_tokens
        limit = min(wanted, max(10, int(_SECONDS / few.each)))
        seconds, found = self._timed(backend, batch, limit)
        step, context = _slope(prompt, few, _Decoding.of(seconds, found, first))
        read = len(batch) * arithmetic(self.shape, [Row(prompt, [1])]).forward
        return read / first, step, context, self._joined(rows, found), _ends(found), limit == wanted

    def _timed(self, backend: Backend, batch: Sequence[Request], tokens: int) -> tuple[float, Sequence[Response]]:
        generation = self.recipe.generation.model_copy(update={"max_new_tokens": tokens})
        started = time.perf_counter()
        found = sample(self.recipe.model_copy(update={"generation": generation}), backend, batch, seed=0)
        return time.perf_counter() - started, found.rows

    def _joined(self, rows: Sequence[SteeredQuery], found: Sequence[Response]) -> list[Contrast]:
        responses: dict[tuple[str, str], Response] = {(response.id, response.role): response for response in found}
        contrasts = joined(
            [row for row in rows if all((row.id, role) in responses for role in ROLES)],
            responses,
            principle_set=self.stages.principle_set if self.recipe.quality.clean else None,
            chat=self.models.chat(self.policy),
            thinking_apart=self.recipe.generation.thinking == "apart",
            round=1,
            provenance={},
        )
        full = list(filter(is_full, contrasts))
        if not full:
            raise DataError("no row has three responses", where="the first queries", do="look at them with a small run")
        return full

    def _score(self, rows: Sequence[Contrast]) -> tuple[float, float, list[Contrast]]:
        self.models.free()  # what sampled may be what scores; loading it is measured here
        started = time.perf_counter()
        scorer = self.models.scorer(self.policy)
        loading = 4.0 * self.shape.parameters / (time.perf_counter() - started)
        assert scorer is not None  # only backends with weights are measured
        all_of_them = any(step.scored for step in parse_filters(self.stages.filters))
        chosen = list(rows if all_of_them else rows[:_SCORED])
        warm = scorer.score(chosen[:1])
        started = time.perf_counter()
        scored = [*warm, *scorer.score(chosen[1:])] if len(chosen) > 1 else scorer.score(chosen)
        seconds = time.perf_counter() - started
        return loading, sum(self._forward(row) for row in chosen[-max(1, len(chosen) - 1) :]) / seconds, scored

    def _forward(self, row: Contrast) -> float:
        from selfsteer.logprobs import ALL_CELLS
        from selfsteer.logprobs.cells import rows_of

        return _arithmetic_of(self.shape, rows_of(row, ALL_CELLS, self.recipe.train.max_length)).forward

    def _kept(self, rows: Sequence[Contrast]) -> float:
        chain = self.stages.chain()
        chain.fit(lambda: rows)
        return statistics.mean(chain.apply(row).kept for row in rows)

    def _train(self, rows: Sequence[Contrast]) -> tuple[float, float]:
        """Time two micro-batches (the first one warms up) and two optimiser steps of the run's own trainer."""
        import torch

        from selfsteer.logprobs import row_attention_on
        from selfsteer.logprobs.cells import rows_of
        from selfsteer.policy.dataset import collate
        from selfsteer.stages.training import Training, open_trainer

        training = Training("policy", 1, [], self.policy, self.policy)
        trainer = open_trainer(self.stages, training, rows, self.models.run_dir / "checkpoints")
        trainer.state.global_step = 1  # after the first of the steps the policy is not its reference any more
        model = trainer.model.train()
        micro = min(self.recipe.train.micro_batch_size, self.recipe.train.batch_size, trainer.examples)
        if self.recipe.train.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        trainer.create_optimizer()
        chosen = [trainer.train_dataset[place] for place in range(micro)]
        seconds, updates = [], []
        for _ in range(2):
            started = time.perf_counter()
            with row_attention_on(model):
                trainer.compute_loss(model, collate(chosen)).backward()
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.recipe.train.max_grad_norm)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            updates.append(time.perf_counter() - started)
        flops = 0.0
        for row, _ in chosen:
            one = _arithmetic_of(self.shape, rows_of(row, trainer.cells, self.recipe.train.max_length))
            again = one.again if self.recipe.train.gradient_checkpointing else 0.0
            flops += (one.training if self.recipe.train.lora is None else one.adapting) + again
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        del trainer, model
        gc.collect()
        return flops / seconds[-1], updates[-1] / trained

    def _write(self) -> float:
        """Bytes a second of a file that is written, synced and hashed, beside the folder of temporary files."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "written"
            data = os.urandom(1 << 20)
            started = time.perf_counter()
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                for _ in range(_WRITTEN >> 20):
                    stream.write(data)
            sha256_file(path)
            return _WRITTEN / (time.perf_counter() - started)


class _Decoding(NamedTuple):
    """So many steps of a batch, and the mean seconds of one."""

    steps: int
    each: float

    @classmethod
    def of(cls, seconds: float, found: Sequence[Response], first: float) -> _Decoding:
        """The first token comes of reading the prompts, which takes ``first`` seconds."""
        steps = max(1, max(len(response.token_ids or ()) for response in found) - 1)
        return cls(steps, max((seconds - first) / steps, 1e-9))


def _slope(prompt: float, few: _Decoding, many: _Decoding) -> tuple[float, float]:
    """Return a step's seconds over an empty cache, and how they grow with each token in it; noise gives no growth."""
    before, behind = prompt + few.steps / 2, prompt + many.steps / 2
    growth = max(0.0, (many.each - few.each) / (behind - before)) if many.steps >= 4 * few.steps else 0.0
    growth = min(growth, 0.9 * many.each / behind)
    return many.each - growth * behind, growth


def _ends(found: Sequence[Response]) -> dict[str, float]:
    """Return by role the share of tokens that are a response's last one: the likeliest rate of ending."""
    tokens, ended = Counter[str](), Counter[str]()
    for response in found:
        tokens[response.role] += len(response.token_ids or ())
        ended[response.role] += response.finish == "stop"
    return {role: ended[role] / tokens[role] for role in ROLES if tokens[role]}


def _arithmetic_of(shape: ModelShape, rows: Sequence[PromptRow]) -> Arithmetic:
    return arithmetic(shape, [Row(len(row.prompt), list(map(len, row.responses))) for row in rows])
