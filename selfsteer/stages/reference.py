"""What a round is compared with and which rounds' data it trains on: reference weights, their average, their scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from selfsteer.config import Recipe
from selfsteer.files import atomic_path
from selfsteer.records import Contrast, count_rows
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.results import StageResult
from selfsteer.runs.shards import contrasts_job, run_sharded
from selfsteer.runs.store import Workspace
from selfsteer.stages.context import Pass, RoundData, RunContext
from selfsteer.stages.model_pool import Policy
from selfsteer.stages.scoring_task import SCORE_BATCH, ScoringTask
from selfsteer.stages.training import kept_rows


def run(state: Pass) -> StageRecord | None:
    """Do the stage for a pass; None where the rows' scores are the reference's already, or nothing is trained."""
    if not state.trains:
        return None
    assert state.reference is not None
    made = trained_on(state.context.recipe, state.made)
    rows = training_rows(state.context, state.number, made, state.reference)
    return rows[0] if rows[0].stage == "reference" else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceResult(StageResult):
    """How many rows were scored."""

    rows: int


class References:
    """Keeps the run's reference from round to round: the round's start, the run's, or a moving average (``ema``)."""

    def __init__(self, context: RunContext, start: Policy) -> None:
        self._stages, self._reference = context, start
        self._kind = context.recipe.train.reference
        self._newest = start.round

    def of(self, policy: Policy) -> Policy:
        """Return the reference of the round that starts from ``policy``; to be asked of each round, in their order.

        Where a round was rejected, the next starts from a policy that is part of the average already.
        """
        if self._kind == "round-start":
            return policy
        if self._kind == "ema" and policy.round > self._newest:
            self._newest = policy.round
            self._reference = average_stage(self._stages, self._reference, policy)
        return self._reference


def average_stage(context: RunContext, average: Policy, policy: Policy) -> Policy:
    """Return the weights decay * ``average`` + (1 - decay) * ``policy``, in float32: the average after its round."""
    train = context.recipe.train
    depends = {"average": average.fingerprint, "policy": policy.fingerprint, "decay": train.ema_decay}

    def write(space: Workspace) -> tuple[list[Path], StageResult]:
        import torch

        from selfsteer.models import load_model, load_tokenizer

        context.models.free()
        folder = space.folder / f"average-{space.key}"
        if not folder.exists():
            with atomic_path(folder) as temporary:
                mean, other = (
                    load_model(one.path, dtype="float32", device="cpu", **one.options) for one in (average, policy)
                )
                weights = dict(other.named_parameters())
                with torch.no_grad():
                    for name, parameter in mean.named_parameters():
                        parameter.lerp_(weights[name], 1 - train.ema_decay)
                mean.save_pretrained(temporary)
                load_tokenizer(policy.path, **policy.options).save_pretrained(temporary)
        return [folder], StageResult()

    round = policy.round
    entry = context.store.get_or_compute("average", round, depends, write, units=1)
    path, name = str(context.store.run_dir / entry.files[0]), f"average after round {round}"
    return policy.trained(round, path, f"average:{entry.key}", name)


def trained_on(recipe: Recipe, made: Sequence[RoundData]) -> Sequence[RoundData]:
    """Return the data that a round is trained on: its own, the last of ``made``, and those of older rounds."""
    older = recipe.train.older_rounds
    return made if older == "all" else made[-1 - older :]


def training_rows(context: RunContext, number: int, made: Sequence[RoundData], reference: Policy) -> list[StageRecord]:
    """Return the stages whose kept rows a round trains on (``made``: its own last), all scored by its reference."""
    from selfsteer.policy.objective import objective_of

    objective = objective_of(context.recipe.train)
    if not objective.compares or all(one.scorer == reference for one in made):
        return [one.contrasts for one in made]
    # Rows that another model has scored are scored again, in the cells that training reads.
    scorers = {one.contrasts.round: one.scorer for one in made}
    files = [path for one in made for path in context.store.files(one.contrasts)]
    depends = {
        "rows": [[one.contrasts.key, one.scorer.fingerprint] for one in made],
        "views": list(map(str, objective.views)),
    } | context.scoring(reference)

    def write(space: Workspace) -> tuple[list[Path], ReferenceResult]:
        from selfsteer.logprobs import view_cells

        # Of rows that the reference itself has scored, nothing is computed.
        others = frozenset(number for number, scorer in scorers.items() if scorer != reference)
        task = ScoringTask(reference, view_cells(objective.views), partial(_of_rounds, others))
        job = contrasts_job(files, SCORE_BATCH, task, lambda row: row.kept)
        paths, _ = run_sharded(space, len(files), job, context.models.scoring_executor(reference))
        return paths, ReferenceResult(rows=sum(map(count_rows, paths)))

    units = sum(kept_rows(one.contrasts) for one in made)
    return [context.store.get_or_compute("reference", number, depends, write, units=units)]


def _of_rounds(rounds: frozenset[int], row: Contrast) -> bool:
    return row.round in rounds
