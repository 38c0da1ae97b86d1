"""The stage ``responses``: y+, y- and yo for each query, sampled under its three prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import cast

from selfsteer.backends import Backend, Failure, Sampling
from selfsteer.config import Recipe
from selfsteer.contrast import PROMPT_OF_ROLE, Request, requests
from selfsteer.errors import PromptRefused
from selfsteer.records import ROLES, Response, Role, SteeredQuery, count_rows, read_columns, read_rows
from selfsteer.runs.dropped import dropped_note
from selfsteer.runs.executor import BatchResult, OpenTask
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.pipeline import Split
from selfsteer.runs.results import DroppedRows
from selfsteer.runs.row_ranges import RowRange, row_ranges
from selfsteer.runs.shards import SHARD_ROWS, Dropped, ShardJob, ShardPlan, check_any_left, run_sharded
from selfsteer.runs.store import Workspace, in_batches
from selfsteer.seeding import batch_seed
from selfsteer.stages.context import Pass, RunContext
from selfsteer.stages.model_pool import Lengths, ModelPool, Policy
from selfsteer.stages.principles import check_queries_left

NO_ROOM = "prompt of {} tokens leaves no room for a response within train.max_length"
SHORTER = "lower generation.max_new_tokens or raise train.max_length"
"""What helps where a prompt leaves no room for a response."""

_PROMPTS = tuple(PROMPT_OF_ROLE.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResponsesResult(DroppedRows):
    """How many responses there are, how many were cut off, and their sampled tokens (None without tokens)."""

    responses: int
    cut: int
    tokens: int | None = None


def run(state: Pass) -> StageRecord | None:
    """Do the stage for a pass."""
    context, split = state.context, state.split
    if "principles" not in state.records:
        return None
    limit = context.recipe.generator.queries if split == "generator" else None
    return responses_stage(
        context, state.records["principles"], split, state.number, state.writer, roles=state.roles, limit=limit
    )


def responses_stage(
    context: RunContext,
    principles: StageRecord,
    split: Split,
    round: int,
    policy: Policy,
    *,
    roles: Sequence[str] = ROLES,
    limit: int | None = None,
) -> StageRecord:
    """Sample responses for each row; rows whose prompts don't fit are left out and named.

    Args:
        split: "train", "heldout", or "generator" for what a generator is trained on.
    """
    recipe = context.recipe
    settings = recipe.generation
    depends = {
        "principles": principles.key,
        "sampling": [settings.temperature, settings.top_p, settings.max_new_tokens],
        "limit": None if policy.weightless else recipe.train.max_length,
        "seed": recipe.seed,
        "round": round,
        "roles": list(roles),
        "rows": limit,
    } | context.sampling(policy)
    if settings.own_drawings:
        depends["own_sampling"] = settings.own_drawings
    files = context.store.files(principles)
    parts = row_ranges(files, range(sum(map(count_rows, files)) if limit is None else limit))
    rows = sum(part.size for part in parts)

    def write(space: Workspace) -> tuple[list[Path], ResponsesResult]:
        task, models = SamplingTask(recipe, policy, split, round), context.models
        executor = models.sampling_executor(policy)
        size = settings.batch_of(policy.backend)
        room = executor.open(task, -(-len(roles) * rows // size))
        job = _sampling(context, parts, models.lengths(policy, room), task, roles, size)
        paths, dropped = run_sharded(space, len(parts), job, executor)
        check_any_left(paths, dropped, rows, "query")
        responses = cut = tokens = 0
        for finish, ids in read_columns(paths, ["finish", "token_ids"]):
            responses += 1
            cut += finish == "length"
            tokens += len(ids or ())
        return paths, ResponsesResult.from_info(dropped.info, responses=responses, cut=cut, tokens=tokens or None)

    entry = context.store.get_or_compute(
        "responses", round, depends, write, split=split, units=len(roles) * rows,
        note=lambda record: dropped_note(record).replace(",", ":", 1),
    )  # fmt: skip
    check_queries_left(context.recipe.queries, entry, rows)
    return entry


@dataclasses.dataclass(frozen=True)
class SamplingTask:
    """Responses of a policy to the requests of a split, in a round."""

    recipe: Recipe
    policy: Policy
    split: Split
    round: int

    def open(self, models: ModelPool) -> OpenTask[Request, Response]:
        """Open the policy's backend."""
        recipe, backend = self.recipe, models.backend(self.policy)

        def do(number: int, batch: Sequence[Request]) -> BatchResult[Response]:
            return sample(recipe, backend, batch, batch_seed(recipe.seed, "responses", self.split, self.round, number))

        return OpenTask(do, backend.context)


def _sampling(
    context: RunContext,
    parts: Sequence[RowRange],
    lengths: Lengths,
    task: SamplingTask,
    roles: Sequence[str],
    size: int,
) -> ShardJob[Request, Response]:
    """Return how the requests of a shard of rows are planned and answered."""
    recipe = context.recipe

    def plan(number: int) -> ShardPlan[Request]:
        rows = list(read_rows([parts[number].path], SteeredQuery))[parts[number].rows]
        items, reasons = planned(rows, lengths, recipe, roles)
        context.store.display.advance(len(roles) * len(reasons))
        return ShardPlan(in_batches(items, size), [Dropped(*reason, SHORTER) for reason in reasons.items()])

    return ShardJob(
        Response, plan, task, item_key=key_of, row_key=key_of, per_block=-(-len(roles) * SHARD_ROWS // size),
        failed=recipe.generation.endpoint.failed,
    )  # fmt: skip


def key_of(one: Request | Response) -> tuple[str, str]:
    """Return what a request and the response to it have in common."""
    return one.id, one.role


def planned(
    rows: Sequence[SteeredQuery], backend: Lengths, recipe: Recipe, roles: Sequence[str] = ROLES
) -> tuple[list[Request], dict[str, str]]:
    """Return the requests of the rows that fit, one for each of ``roles``, and by id why the others don't.

    Requests of one batch should be alike, so they are sorted by role, prompt length and id.
    """
    lengths: dict[tuple[str, str], int] = {}
    reasons: dict[str, str] = {}
    for row in rows:
        try:
            own = {(row.id, role): backend.length(getattr(row, name)) for role, name in _PROMPTS}
        except PromptRefused as error:
            reasons[row.id] = error.what
            continue
        lengths |= own
        longest, new = max(own.values()), recipe.generation.max_new_tokens
        if backend.context is not None and longest + new > backend.context:
            what = f"prompt of {longest} tokens + {new} new ones exceed the model's context of {backend.context}"
            reasons[row.id] = what
        elif backend.chat is not None and longest >= recipe.train.max_length:  # scoring keeps to training's limit
            reasons[row.id] = NO_ROOM.format(longest)
    items = requests([row for row in rows if row.id not in reasons], roles)
    items.sort(key=lambda item: (ROLES.index(item.role), lengths[item.id, item.role], item.id))
    return items, reasons


def sample(
    recipe: Recipe, backend: Backend, batch: Sequence[Request], seed: int, shared_prefix: Sequence[int] = ()
) -> BatchResult[Response]:
    """Sample one response a request; failures by id and role. ``shared_prefix``: token ids that all begin with.

    A backend samples the requests of one call alike, so it gets one call for each way of sampling in the batch.
    """
    settings = recipe.generation
    alike: dict[Sampling, list[Request]] = {}
    for request in batch:
        alike.setdefault(Sampling(settings.max_new_tokens, *settings.drawing(request.role)), []).append(request)
    rows: list[Response] = []
    failures: dict[Hashable, Failure] = {}
    for number, (sampling, own) in enumerate(alike.items()):
        prompts = [request.prompt for request in own]
        # Two calls with one seed would draw the same random numbers for other responses.
        drawn = batch_seed(seed, number) if number else seed
        outcomes = backend.generate(prompts, sampling, seed=drawn, shared_prefix=shared_prefix)
        for request, found in zip(own, outcomes, strict=True):
            if isinstance(found, Failure):
                failures[request.id, request.role] = found
            else:
                role, ids = cast(Role, request.role), (found.token_ids, found.prompt_token_ids)
                rows.append(Response(request.id, role, found.text, found.finish, *ids, found.thinking))
    return BatchResult(rows, failures)
