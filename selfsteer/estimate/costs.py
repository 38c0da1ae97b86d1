"""Time and disk of each stage of a recipe, from the number and length of its rows, the model's shape and the rates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from selfsteer.backends import BACKENDS
from selfsteer.config import DISTILLATION, GeneratorSettings, Recipe, TrainSettings
from selfsteer.estimate.flops import Arithmetic, Row, arithmetic, rows_for
from selfsteer.estimate.memory import STATES, Tuning, tuning
from selfsteer.estimate.model_shape import ModelShape
from selfsteer.estimate.throughput import Rates, Sample
from selfsteer.records import PROMPTS, ROLES
from selfsteer.runs.shards import SHARD_ROWS

_TOKEN_BYTES, _ROW_BYTES, _FILE_BYTES = 4.2, 800.0, 17e3
"""Bytes on disk of a token (its text and its id, compressed), of the rest of a row, and of a file without rows."""
_FOLDER = 4e6
"""Bytes of a tokenizer and a model card beside weights."""
_CHECKPOINTS = 3
"""Checkpoints on disk at once: the third is written before the oldest of ``save_total_limit`` 2 is removed."""

Loss = TrainSettings | GeneratorSettings
"""A section of the recipe with the settings of a training."""


class Sizes(NamedTuple):
    """Number of rows: those a round aligns on, and those held out."""

    train: int
    heldout: int


class Prompts(NamedTuple):
    """Mean tokens of the plain, the positive and the negative prompt; whether a model chooses the aspects."""

    plain: float
    positive: float
    negative: float
    asked: bool = False


class Cost(NamedTuple):
    """Seconds (None: not known) and bytes on disk of a stage; ``passing`` bytes are removed when the stage is done."""

    seconds: float | None
    disk: float
    passing: float = 0.0


@dataclass(frozen=True)
class Costs:
    """The costs of a recipe's stages; ``shape`` and ``rates`` are None where the backend has no weights.

    ``sampling``, ``scoring`` and ``training`` GPUs work side by side, each at the rates of one.
    """

    recipe: Recipe
    shape: ModelShape | None
    rates: Rates | None
    sample: Sample
    sizes: Sizes
    prompts: Prompts
    sampling: int = 1
    scoring: int = 1
    training: int = 1
    _known: dict[tuple[str, bool], Cost] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of(self, stage: str, *, heldout: bool) -> Cost:
        """Return the cost of one stage, by its name in the ledger; the time of a stage not known here is None."""
        # It is the same in every round, and a plan of many rounds asks for each several times.
        if (stage, heldout) not in self._known:
            self._known[stage, heldout] = self._cost(stage, heldout=heldout)
        return self._known[stage, heldout]

    def _cost(self, stage: str, *, heldout: bool) -> Cost:
        kind, rows = stage.removeprefix("generator-"), self.sizes.heldout if heldout else self.sizes.train
        if stage.startswith("generator"):
            rows = min(self.recipe.generator.queries, rows)
        elif stage == "policy" or stage == "reference":
            # A mean over rounds: each trains on its own rows and on those of older ones.
            older, rounds = self.recipe.train.older_rounds, self.recipe.rounds
            sets = [min(before, rounds if older == "all" else older) + 1 for before in range(rounds)]
            rows = round(self.sizes.train * sum(sets) / rounds)
        seconds = self._seconds(stage, kind, rows, heldout=heldout)
        if stage == "average":
            return Cost(seconds, self.policy_bytes)
        if stage == "policy":
            return Cost(seconds, self.policy_bytes, self._passing(self.recipe.train, rows))
        if stage == "generator":  # its weights are removed once it has answered, unless the recipe keeps them
            kept = self.policy_bytes if self.recipe.generator.keep else 0.0
            return Cost(seconds, kept, self.policy_bytes - kept + self._passing(self.recipe.generator, rows))
        prompts, responses = sum(self.prompts[:3]), sum(self.responses.values())
        tokens = {"queries": self.prompts.plain, "principles": prompts, "responses": responses}
        tokens |= dict.fromkeys(("scores", "rewards", "contrasts", "implicit"), prompts + responses)
        per_row = _ROW_BYTES + _TOKEN_BYTES * tokens.get(kind, 0.0)
        return Cost(seconds, math.ceil(rows / SHARD_ROWS) * _FILE_BYTES + rows * per_row)

    def _seconds(self, stage: str, kind: str, rows: int, *, heldout: bool) -> float | None:
        recipe = self.recipe
        annotated = bool(recipe.preferences.source) and not heldout  # pairs without principles
        # Rows of a trained generator have no plain response either.
        two = annotated or (recipe.mode == "generator" and kind == stage and not heldout)
        roles, prompts = ROLES[:2] if two else ROLES, PROMPTS[:1] if annotated else PROMPTS
        match kind:
            case "queries" | "preferences" | "contrasts":
                return 0.0
            case "principles":
                if self.shape is None or self.rates is None or not self.prompts.asked:
                    return None if self._remote and self.shape is None else 0.0
                if self.recipe.principles.strategy != "fixed" or self.recipe.principles.model.name:
                    return None  # writing principles is not measured
                return self._loading + rows * self.rates.asking / self.sampling
            case "responses":
                generation = self.recipe.generation
                if not heldout and (generation.model or (self.shape and generation.weightless)):
                    return None  # another model than the policy is not measured
                if self.rates is None:
                    return None if self._remote else 0.0
                longest = [self.sample.longest(role, generation.max_new_tokens, generation.batch) for role in roles]
                batches = math.ceil(len(roles) * rows / generation.batch)
                return self._loading + math.ceil(batches / self.sampling) * self.rates.step * sum(longest) / len(roles)
            case "scores":
                return self._loading + self._scoring(rows, roles, prompts)
            case "implicit":  # the model that has just scored is still loaded
                return self._scoring(rows, ROLES, PROMPTS[:1])
            case "reference":
                return self._loading + self._forward(self.kept(rows), self.trained)
            case "average":
                return 2 * self._loading + self.policy_bytes / self.rates.disk if self.rates else None
            case "policy" | "generator":
                loss = recipe.train if kind == "policy" else recipe.generator
                if self.rates is None:
                    return 0.0
                if loss.objective == DISTILLATION:
                    return None  # it samples while it trains, which is not measured
                if loss.objective == DISTILLATION:
                    return None  # it samples while it trains, which is not measured
                flops = self.kept(rows) * loss.epochs * self.training_flops(loss)
                written = self.checkpoints(loss, rows) * self.checkpoint_bytes + self.policy_bytes
                return self._loading + flops / self.rates.training / self.training + written / self.rates.disk
        return None

    # One row.

    @property
    def responses(self) -> Mapping[str, float]:
        """Mean tokens of each response, by role."""
        return {role: self.sample.length(role, self.recipe.generation.max_new_tokens) for role in ROLES}

    @property
    def scored(self) -> Arithmetic:
        """A row's nine cells: three responses under each of three prompts."""
        return self._row([(role, prompt) for role in ROLES for prompt in PROMPTS])

    @property
    def trained(self) -> Arithmetic:
        """A row's cells in the policy's loss."""
        return self._row(_cells(self.recipe.train))

    def training_flops(self, loss: Loss) -> float:
        """Return forward and backward of one row in a loss, with what gradient checkpointing recomputes."""
        one = self._row(_cells(loss))
        again = one.again if self.recipe.train.gradient_checkpointing else 0.0
        return (one.training if self.tuning.full else one.adapting) + again

    def _row(self, cells: Sequence[tuple[str, str]]) -> Arithmetic:
        if self.shape is None:
            return Arithmetic(0.0, 0.0, 0.0)
        return arithmetic(self.shape, self._packed(cells))

    def _packed(self, cells: Sequence[tuple[str, str]]) -> list[Row]:
        lengths = dict(zip(PROMPTS, self.prompts[:3], strict=True))
        return rows_for(cells, lengths, self.responses, self.recipe.train.max_length)

    # A training.

    @property
    def tuning(self) -> Tuning:
        """The weights that are trained."""
        assert self.shape is not None
        lora = self.recipe.train.lora
        found = tuning(self.shape, lora, lora.bits if lora else None)
        return dataclasses.replace(found, states=STATES.get(self.recipe.train.optimizer, found.states))

    @property
    def micro_batch(self) -> tuple[float, float]:
        """Packed tokens of a micro-batch, and those predicted: the policy's, or a generator's if larger."""
        losses: list[Loss] = [self.recipe.train, *([self.recipe.generator] if self.recipe.mode == "generator" else [])]
        found = []
        for loss in losses:
            rows = self._packed(_cells(loss))
            count = min(self.recipe.train.micro_batch_size, loss.batch_size)
            found.append((count * sum(row.tokens for row in rows), count * sum(sum(row.responses) for row in rows)))
        return max(found)

    def kept(self, rows: int) -> int:
        """Return how many rows filters keep; all where the share is unknown or 0, as a few rows prove little."""
        return round((self.sample.kept or 1.0) * rows)

    def steps(self, loss: Loss, rows: int) -> int:
        """Return the optimiser steps of training on what filters keep of ``rows``."""
        return math.ceil(self.kept(rows) / loss.batch_size) * loss.epochs

    def checkpoints(self, loss: Loss, rows: int) -> int:
        """Return the checkpoints that this writes: one every ``save_steps`` and one at the end."""
        return math.ceil(self.steps(loss, rows) / self.recipe.train.save_steps)

    @property
    def policy_bytes(self) -> float:
        """A saved policy: float32 weights, of an adapter its own only."""
        return 4.0 * self.tuning.trainable + _FOLDER if self.shape else 0.0

    @property
    def checkpoint_bytes(self) -> float:
        """A checkpoint: the weights and AdamW's two states."""
        return self.policy_bytes + self.tuning.states * self.tuning.trainable if self.shape else 0.0

    def _passing(self, loss: Loss, rows: int) -> float:
        return self.checkpoint_bytes * min(_CHECKPOINTS, self.checkpoints(loss, rows))

    # Seconds.

    @property
    def _remote(self) -> bool:
        """Whether a server samples, in a time that is not known."""
        return BACKENDS[self.recipe.generation.backend].remote

    def _scoring(self, rows: int, roles: Sequence[str], prompts: Sequence[str]) -> float:
        return self._forward(rows, self._row([(role, prompt) for role in roles for prompt in prompts]))

    def _forward(self, rows: int, one: Arithmetic) -> float:
        return rows * one.forward / self.rates.scoring / self.scoring if self.rates else 0.0

    @property
    def _loading(self) -> float:
        """Seconds of loading float32 weights: stages load again where the precision or the weights change."""
        return 4.0 * self.shape.parameters / self.rates.disk if self.shape and self.rates else 0.0


def _cells(loss: Loss) -> list[tuple[str, str]]:
    from selfsteer.logprobs import view_cells
    from selfsteer.policy.objective import objective_of

    return list(view_cells(objective_of(loss).views))
