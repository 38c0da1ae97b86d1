"""The stage ``principles``: aspects, a principle pair and two steered prompts for each query."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfsteer.chat import Chat
from selfsteer.config import QuerySettings, Recipe
from selfsteer.principles import PrincipleSet, template_contents
from selfsteer.records import Query, SteeredQuery, read_columns, read_rows
from selfsteer.report.fallbacks import fallbacks_told
from selfsteer.runs.dropped import check_dropped_share, dropped_note
from selfsteer.runs.executor import OpenTask
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.pipeline import Split
from selfsteer.runs.results import DroppedRows
from selfsteer.runs.row_ranges import RowRange, row_ranges
from selfsteer.runs.shards import SHARD_ROWS, Dropped, ShardJob, ShardPlan, check_any_left, run_sharded
from selfsteer.runs.store import Workspace, in_batches
from selfsteer.seeding import batch_seed
from selfsteer.stages.context import Pass, RunContext
from selfsteer.stages.model_pool import ModelPool, Policy
from selfsteer.stages.principle_strategies import acting_settings, needs_model, principled, refusal, templates_of
from selfsteer.stages.queries import QueriesResult, query_files, round_queries


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrinciplesResult(DroppedRows):
    """How often each aspect was chosen, how the choices were made, and how the principles were written."""

    aspects: dict[str, int]
    choices: dict[str, int]
    writings: dict[str, int]


def run(state: Pass) -> StageRecord | None:
    """Do the stage for a pass."""
    context, queries = state.context, state.records["queries"]
    if context.recipe.preferences.source and state.split == "train":
        return None
    # In mode generator the policy chooses; the generator that answers later is trained from it.
    writer = state.policy if context.recipe.mode == "generator" else state.writer
    return principles_stage(context, queries, state.split, state.number, writer, reader=state.policy)


def principles_stage(
    context: RunContext, queries: StageRecord, split: Split, round: int, policy: Policy, *, reader: Policy | None = None
) -> StageRecord:
    """Choose aspects for each query of a split, give it its principles and write its two steered prompts.

    Args:
        policy: Chooses, and answers the prompts.
        reader: The model trained on them where that is another: they have to suit its template too.
    """
    recipe, principle_set = context.recipe, context.principle_set
    asked = round_queries(context.recipe, queries, split, round)
    settings = acting_settings(recipe, principle_set)
    writer, by_model = context.models.writer, needs_model(recipe, principle_set)
    thinks = by_model and (writer.may_think if writer else context.models.may_think(policy))
    depends = {
        "queries": [queries.key, split],
        "settings": settings,
        "thoughts": recipe.thinking_tokens if thinks else 0,
        "set": principle_set.fingerprint,
        "templates": template_contents(*templates_of(recipe)),
        "seed": recipe.seed,
    } | written_by(context, policy)
    if split == "train" and recipe.queries.per_round != "all":
        depends["asked"] = [recipe.queries.per_round, asked.start, asked.step, recipe.queries.round_size]
    if settings.get("choice_temperature"):
        depends["top_p"] = recipe.generation.top_p
    seed = recipe.seed
    if split == "train" and round > 1 and recipe.principles.per_round == "redrawn":
        depends["drawn"] = round
        seed = batch_seed(seed, "principles", round)
    readers = [policy, reader] if reader is not None and reader != policy else [policy]
    if len(readers) > 1:
        depends["reader"] = readers[1].fingerprint
    parts = row_ranges(query_files(context.store.files(queries), split, QueriesResult.of(queries).heldout), asked)

    def write(space: Workspace) -> tuple[list[Path], PrinciplesResult]:
        models = context.models
        task = WritingTask(recipe, context.principle_set, policy, tuple(readers), seed)
        executor = models.writing_executor(policy)
        paths, dropped = run_sharded(space, len(parts), _writing(context, parts, task), executor)
        check_any_left(paths, dropped, len(asked), "query")
        return paths, PrinciplesResult.from_info(dropped.info, **_chosen(paths))

    entry = context.store.get_or_compute(
        "principles", round, depends, write, split=split, units=len(asked), note=_note,
        title="" if recipe.principles.strategy == "fixed" else "write principles",
    )  # fmt: skip
    check_queries_left(context.recipe.queries, entry, len(asked))
    return entry


def check_queries_left(settings: QuerySettings, record: StageRecord, rows: int) -> None:
    """Raise where a stage of queries had to leave out more of its ``rows`` than ``queries.max_left_out`` allows."""
    check_dropped_share(DroppedRows.of(record), "query", settings.source, settings.max_left_out, rows)


def _note(record: StageRecord) -> str:
    found = PrinciplesResult.of(record)
    written = [counted(found.writings)] if found.writings.keys() - {"fixed"} else []
    fell_back = fallbacks_told(found.choices, found.writings)
    whole = "warning: " if any(of_all for _, of_all in fell_back) else ""
    sentences = [*written, *(sentence for sentence, _ in fell_back), dropped_note(record).removeprefix(", ")]
    notes = "; ".join(filter(None, sentences))
    return f": {whole}{notes}" if notes else ""


@dataclasses.dataclass(frozen=True)
class WritingTask:
    """Aspects, principles and prompts of queries.

    Attributes:
        policy: Writes them, unless the recipe names another model.
        readers: The policies whose chat templates have to take the prompts.
    """

    recipe: Recipe
    principle_set: PrincipleSet
    policy: Policy
    readers: Sequence[Policy]
    seed: int

    def open(self, models: ModelPool) -> OpenTask[Query, SteeredQuery]:
        """Open the backend that writes."""
        chats, backend = chats_of(models, self.readers), models.writing_backend(self.policy)
        return OpenTask(
            lambda _, batch: principled(self.recipe, self.principle_set, backend, chats, batch, self.seed),
            backend.context,
        )


def chats_of(models: ModelPool, policies: Sequence[Policy]) -> list[Chat]:
    """Return the chat templates of those policies that have one."""
    return [chat for chat in map(models.chat, policies) if chat]


def _writing(context: RunContext, parts: Sequence[RowRange], task: WritingTask) -> ShardJob[Query, SteeredQuery]:
    """Return how the aspects and principles of a shard of queries are planned and computed."""
    recipe, models = context.recipe, context.models
    chats, lengths, writer = chats_of(models, task.readers), models.writing_lengths(task.policy), models.writer
    asked = writer.batch if writer else recipe.generation.batch_of(task.policy.backend)
    size = asked if needs_model(recipe, task.principle_set) else SHARD_ROWS

    def plan(number: int) -> ShardPlan[Query]:
        rows = list(read_rows([parts[number].path], Query))[parts[number].rows]
        refused = {query.id: reason for query in rows if (reason := refusal(query, chats))}
        context.store.display.advance(len(refused))
        ordered = sorted(
            (query for query in rows if query.id not in refused),
            key=lambda query: (lengths.length([{"role": "user", "content": query.prompt[-1]["content"]}]), query.id),
        )
        return ShardPlan(in_batches(ordered, size), [Dropped(*reason) for reason in refused.items()])

    return ShardJob(SteeredQuery, plan, task, failed=writer.failed if writer else recipe.generation.endpoint.failed)


def written_by(context: RunContext, policy: Policy) -> dict[str, Any]:
    """What principles depend on besides the queries: the model that writes them, and the form of its prompts."""
    writer = context.models.writer
    # A plan may be made for a model that is not on this machine; it has no fingerprint, and no template to read.
    chat = context.models.chat(policy) if (policy.start or policy).fingerprint else None
    if writer is None:
        return context.sampling(policy)
    role = chat.system_role if chat else "native"
    return {"writer": [writer.backend, writer.fingerprint, writer.batch], "system_role": role}


def _chosen(paths: Sequence[Path]) -> dict[str, dict[str, int]]:
    """Count each aspect chosen, how the choices were made, and how the principles were written."""
    counts: dict[str, Counter[str]] = {"aspects": Counter(), "choices": Counter(), "writings": Counter()}
    for names, choice, outcome in read_columns(paths, ["aspects", "choice", "writing"]):
        for name, found in (("aspects", names), ("choices", [choice]), ("writings", [outcome])):
            counts[name].update(found)
    return {name: dict(own) for name, own in counts.items()}


def counted(counts: dict[str, int]) -> str:
    """Return "direction 12, leak 1"."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())
