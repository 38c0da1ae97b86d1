"""Time and disk of each stage of a recipe, from its numbers of queries, lengths, the model's shape and the rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from selfsteer.config import GeneratorSettings, Recipe, TrainSettings
from selfsteer.estimate.flops import Arithmetic, Row, arithmetic, rows_for
from selfsteer.estimate.memory import Tuning, tuning
from selfsteer.estimate.model_shape import ModelShape
from selfsteer.estimate.throughput import Rates, Sample
from selfsteer.records import PROMPTS, ROLES
from selfsteer.runs.shards import SHARD_ROWS

_TOKEN_BYTES, _ROW_BYTES, _FILE_BYTES = 4.2, 800.0, 17e3
"""Bytes on disk of a token (its text and its id, compressed), of the rest of a row, and of a file without rows."""
_FOLDER = 4e6
"""Bytes of a tokenizer and a model card beside weights."""


Loss = TrainSettings | GeneratorSettings
"""A section of the recipe that says how something is trained."""


class Sizes(NamedTuple):
    """How many rows a round aligns on, and how many are held out; by split."""

    train: int
    heldout: int


class Prompts(NamedTuple):
    """Mean tokens of the plain, the positive and the negative prompt; whether a model is asked for the aspects, and how
    many tokens all those questions share.
    """

    plain: float
    positive: float
    negative: float
    asked: bool = False
    shared: float = 0.0


class Cost(NamedTuple):
    """Seconds and bytes on disk of a stage; None: not known. ``passing`` bytes are gone when the stage is done."""

    seconds: float | None
    disk: float
    passing: float = 0.0


@dataclass(frozen=True)
class Costs:
    """The costs of a recipe's stages.

    Attributes:
        recipe: What is to be done.
        shape: Its model; None where the backend has no weights.
        rates, sample: Of the machine, and of its responses.
        sizes, prompts: How many rows, how long.
    """

    recipe: Recipe
    shape: ModelShape | None
    rates: Rates | None
    sample: Sample
    sizes: Sizes
    prompts: Prompts

    def of(self, stage: str, *, heldout: bool) -> Cost:
        """Return the cost of one stage, by its name in the ledger; of one that is not known here time is None."""
        what, count = stage.removeprefix("generator-"), self._count(stage, heldout)
        annotated = bool(self.recipe.preferences.source) and not heldout  # pairs without principles
        # Nor does a generator write plain answers.
        two = annotated or (self.recipe.mode == "generator" and what == stage and not heldout)
        roles, prompts = ROLES[:2] if two else ROLES, PROMPTS[:1] if annotated else PROMPTS
        seconds = {
            "queries": lambda: 0.0,
            "principles": lambda: self._asking(count),
            "responses": lambda: self._sampling(count, roles, heldout=heldout),
            "scores": lambda: self._loading() + self._scoring(self._scored(roles, prompts), count),
            "preferences": lambda: 0.0,
            "reference": lambda: self._loading() + self._scoring(self.trained, self._kept(self._in_the_mix)),
            "average": lambda: 2 * self._loading() + self.policy_bytes / self.rates.writing if self.rates else None,
            "contrasts": lambda: 0.0,
            "generator": lambda: self._training(self.recipe.generator, count),
            "policy": lambda: self._training(self.recipe.train, self._in_the_mix),
            "implicit": lambda: self._scoring(self.compared, count),  # by what has just scored
        }.get(what, lambda: None)()
        rows = {"queries": self.prompts.plain, "principles": sum(self.prompts[:3]), "responses": self._told}
        rows |= dict.fromkeys(("scores", "rewards", "contrasts", "implicit"), sum(self.prompts[:3]) + self._told)
        passing = 0.0
        if stage == "policy":
            disk, passing = self.policy_bytes, self._passing(self.recipe.train, self._in_the_mix)
        elif stage == "generator":  # its weights go when it has answered, unless the recipe keeps them
            disk = self.policy_bytes if self.recipe.generator.keep else 0.0
            passing = self.policy_bytes - disk + self._passing(self.recipe.generator, count)
        elif stage == "average":
            disk = self.policy_bytes
        else:
            disk = math.ceil(count / SHARD_ROWS) * _FILE_BYTES + count * (
                _ROW_BYTES + _TOKEN_BYTES * rows.get(what, 0.0)
            )
        return Cost(seconds, disk, passing)

    def _count(self, stage: str, heldout: bool) -> int:
        if heldout:
            return self.sizes.heldout
        if stage.startswith("generator"):
            return min(self.recipe.generator.queries, self.sizes.train)
        return self.sizes.train

    @property
    def _in_the_mix(self) -> int:
        """Rows that a training is given, in the mean over rounds: the round's own, and those of older ones."""
        older, rounds = self.recipe.train.older_rounds, self.recipe.rounds
        sets = [min(before, rounds if older == "all" else older) + 1 for before in range(rounds)]
        return round(self.sizes.train * sum(sets) / rounds)

    # What a round does.

    @property
    def scored(self) -> Arithmetic:
        """A row's nine cells: three responses under each of three prompts."""
        return self._scored(ROLES)

    @property
    def compared(self) -> Arithmetic:
        """A held-out row's three responses under the plain prompt."""
        return self._rows([(role, "prompt") for role in ROLES])

    @property
    def trained(self) -> Arithmetic:
        """A row's cells in the policy's loss."""
        return self._rows(self._cells(self.recipe.train))

    @property
    def micro_batch(self) -> tuple[float, float]:
        """Packed tokens of a micro-batch, and those predicted: the policy's, or a generator's if larger."""
        losses: list[Loss] = [self.recipe.train]
        if self.recipe.mode == "generator":
            losses.append(self.recipe.generator)
        return max(map(self._micro_batch, losses))

    def _micro_batch(self, loss: Loss) -> tuple[float, float]:
        rows = rows_for(self._cells(loss), self._lengths, self.responses, self._limit)
        count = min(self.recipe.train.micro_batch_size, loss.batch_size)
        return count * sum(row.tokens for row in rows), count * sum(sum(row.responses) for row in rows)

    @property
    def training_flops(self) -> float:
        """Forward and backward of an example of the policy, recomputation included where the recipe asks for it."""
        return self._training_flops(self.recipe.train)

    def _training_flops(self, loss: Loss) -> float:
        one = self._rows(self._cells(loss))
        again = one.again if self.recipe.train.gradient_checkpointing else 0.0
        return (one.training if self.tuning.full else one.adapting) + again

    @property
    def kept(self) -> int:
        """Rows that are trained on; all where the share is not known, or none of a sample: too little to go by."""
        return self._kept(self.sizes.train)

    @property
    def steps(self) -> int:
        """Optimiser steps of a round."""
        return self._steps(self.recipe.train, self.sizes.train)

    @property
    def checkpoints(self) -> int:
        """Checkpoints that a round's training writes: every ``save_steps``, and one at its end."""
        return self._checkpoints(self.recipe.train, self.sizes.train)

    def _kept(self, count: int) -> int:
        return round((self.sample.kept or 1.0) * count)

    def _steps(self, loss: Loss, count: int) -> int:
        return math.ceil(self._kept(count) / loss.batch_size) * loss.epochs

    def _checkpoints(self, loss: Loss, count: int) -> int:
        return math.ceil(self._steps(loss, count) / self.recipe.train.save_steps)

    def _passing(self, loss: Loss, count: int) -> float:
        return self.checkpoint_bytes * min(3, self._checkpoints(loss, count))

    @property
    def responses(self) -> Mapping[str, float]:
        """Mean tokens of each response, by role."""
        limit = self.recipe.generation.max_new_tokens
        return {role: self.sample.length(role, limit) for role in ROLES}

    @property
    def tuning(self) -> Tuning:
        """What is trained."""
        assert self.shape is not None
        lora = self.recipe.train.lora
        return tuning(self.shape, lora, lora.bits if lora else None)

    @property
    def policy_bytes(self) -> float:
        """A saved policy: float32 weights, of an adapter its own only."""
        return 4.0 * self.tuning.trainable + _FOLDER if self.shape else 0.0

    @property
    def checkpoint_bytes(self) -> float:
        """A checkpoint: that, and AdamW's two states."""
        return self.policy_bytes + 8.0 * self.tuning.trainable if self.shape else 0.0

    def _asking(self, count: int) -> float | None:
        if self.shape is None or self.rates is None:
            return None if self.recipe.generation.backend == "endpoint" else 0.0
        if not self.prompts.asked:
            return 0.0
        if self.recipe.principles.strategy != "fixed" or self.recipe.principles.model.name:
            return None  # how long a writer writes was not measured
        batches = math.ceil(count / self.recipe.generation.batch)
        once = self._reading(self.prompts.shared) if self.prompts.shared else 0.0
        return self._loading() + once + batches * self.rates.asking

    def _sampling(self, count: int, roles: Sequence[str], *, heldout: bool) -> float | None:
        generation = self.recipe.generation
        if not heldout and (generation.model or (self.shape and generation.weightless)):
            return None  # whoever writes in the policy's place was not measured
        if self.shape is None or self.rates is None:
            return None if self.recipe.generation.backend == "endpoint" else 0.0
        batch, limit = self.recipe.generation.batch, self.recipe.generation.max_new_tokens
        lengths = dict(zip(("original", "positive", "negative"), self.prompts[:3], strict=True))
        one = sum(self._batch(lengths[role], self.sample.longest(role, limit, batch)) for role in roles) / len(roles)
        return self._loading() + math.ceil(len(roles) * count / batch) * one

    def _batch(self, prompt: float, steps: float) -> float:
        """Seconds of a batch: its prompts are read, then each step sees what came before it."""
        assert self.rates is not None
        each = self.rates.step + self.rates.context * (prompt + steps / 2)
        return self.recipe.generation.batch * self._reading(prompt) + steps * each

    def _reading(self, prompt: float) -> float:
        """Seconds of reading one prompt, up to its first new token."""
        assert self.shape is not None and self.rates is not None
        return arithmetic(self.shape, [Row(prompt, [1])]).forward / self.rates.prefill

    def _scoring(self, one: Arithmetic, count: int) -> float:
        return count * one.forward / self.rates.scoring if self.rates else 0.0

    def _training(self, loss: Loss, count: int) -> float:
        """Seconds of training on what is kept of ``count`` rows."""
        if self.rates is None or self.shape is None:
            return 0.0
        examples = self._kept(count) * loss.epochs * self._training_flops(loss) / self.rates.training
        updates = self._steps(loss, count) * self.tuning.trainable * self.rates.update
        written = self._checkpoints(loss, count) * self.checkpoint_bytes + self.policy_bytes
        return self._loading() + examples + updates + written / self.rates.writing

    def _loading(self) -> float:
        """The model is loaded anew where its precision changes or it was let go."""
        return 4.0 * self.shape.parameters / self.rates.loading if self.shape and self.rates else 0.0

    def _rows(self, cells: list[tuple[str, str]]) -> Arithmetic:
        if self.shape is None:
            return Arithmetic(0.0, 0.0, 0.0)
        return arithmetic(self.shape, rows_for(cells, self._lengths, self.responses, self._limit))

    def _scored(self, roles: Sequence[str], prompts: Sequence[str] = PROMPTS) -> Arithmetic:
        return self._rows([(role, prompt) for role in roles for prompt in prompts])

    def _cells(self, loss: Loss) -> list[tuple[str, str]]:
        from selfsteer.logprobs import view_cells
        from selfsteer.policy.objective import objective_of

        return list(view_cells(objective_of(loss).views))

    @property
    def _lengths(self) -> Mapping[str, float]:
        return dict(zip(PROMPTS, self.prompts[:3], strict=True))

    @property
    def _limit(self) -> int:
        return self.recipe.train.max_length

    @property
    def _told(self) -> float:
        return sum(self.responses.values())
