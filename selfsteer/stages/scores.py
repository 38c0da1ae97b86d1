"""The stage ``scores``: queries and responses joined into rows, cleaned, every response scored under every prompt."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from selfsteer.chat import Chat
from selfsteer.config import Recipe
from selfsteer.contrast import PROMPT_OF_ROLE, assemble, with_token_ids
from selfsteer.errors import PromptRefused
from selfsteer.evaluation.metrics import response_length
from selfsteer.export.statistics import Mean
from selfsteer.principles import PrincipleSet, template_versions
from selfsteer.quality import clean_response, steering_margin, think_apart
from selfsteer.records import (
    ROLES,
    Contrast,
    Response,
    Role,
    SteeredQuery,
    count_rows,
    has_score,
    read_rows,
    score,
)
from selfsteer.runs.dropped import check_dropped_share, dropped_note
from selfsteer.runs.executor import BatchResult
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.pipeline import Split
from selfsteer.runs.results import DroppedRows
from selfsteer.runs.shards import SHARD_ROWS, Dropped, ShardJob, ShardPlan, check_any_left, run_sharded
from selfsteer.runs.store import Workspace, in_batches
from selfsteer.stages.context import Pass, RunContext
from selfsteer.stages.model_pool import Policy
from selfsteer.stages.principle_strategies import templates_of
from selfsteer.stages.principles import check_queries_left
from selfsteer.stages.responses import NO_ROOM, SHORTER, ResponsesResult
from selfsteer.stages.scoring_task import SCORE_BATCH, ScoringTask
from selfsteer.version import __version__

if TYPE_CHECKING:
    from selfsteer.logprobs import Cell


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoresResult(DroppedRows):
    """Means over the rows (:func:`data_figures`)."""

    figures: dict[str, Any]


def run(state: Pass) -> StageRecord | None:
    """Do the stage for a pass."""
    context, records = state.context, state.records
    if "preferences" in records:
        return scored_preferences(context, records["preferences"], state.policy)
    return scores_stage(
        context, records["principles"], records["responses"], state.split, state.number, state.writer,
        roles=state.roles, scorer=state.policy,
    )  # fmt: skip


def scores_stage(
    context: RunContext,
    principles: StageRecord,
    responses: StageRecord,
    split: Split,
    round: int,
    policy: Policy,
    *,
    roles: Sequence[str] = ROLES,
    scorer: Policy | None = None,
) -> StageRecord:
    """Join, clean and score the rows: every response under every prompt.

    Args:
        scorer: The policy that is to be trained (default: the one that wrote the responses).
    """
    recipe = context.recipe
    judge = scorer or policy
    depends = {
        "responses": responses.key,
        "clean": recipe.quality.clean,
        "thinking": recipe.generation.thinking,
    } | context.scoring(judge)
    # Where the last rows were not asked for, there are more files of principles than of responses.
    sources = list(zip(context.store.files(principles), context.store.files(responses), strict=False))

    def join(number: int) -> list[Contrast]:
        return _read_joined(context, *sources[number], round, policy, roles)

    def write(space: Workspace) -> tuple[list[Path], ScoresResult]:
        job = _scoring(context, judge, join)
        executor = None if judge.weightless else context.models.scoring_executor(judge)
        paths, dropped = run_sharded(space, len(sources), job, executor)
        check_any_left(paths, dropped, dropped.left_out + sum(map(count_rows, paths)), "query")
        return paths, ScoresResult.from_info(dropped.info, figures=data_figures(read_rows(paths, Contrast)))

    rows = ResponsesResult.of(responses).responses // len(roles)
    entry = context.store.get_or_compute("scores", round, depends, write, split=split, units=rows, note=dropped_note)
    check_queries_left(context.recipe.queries, entry, rows)
    return entry


def _scoring(
    context: RunContext, judge: Policy, join: Callable[[int], list[Contrast]], cells: Sequence[Cell] | None = None
) -> ShardJob[Contrast, Contrast]:
    """Return how shards of rows are scored: ``join`` gives the rows of a shard, ``judge`` their log-probs."""
    recipe, chat = context.recipe, context.models.chat(judge)

    def plan(number: int) -> ShardPlan[Contrast]:
        rows = join(number)
        fits, left_out = (rows, []) if chat is None else fitting(rows, chat, recipe)
        return ShardPlan(in_batches(fits, SHARD_ROWS if chat is None else SCORE_BATCH), left_out)

    if chat is None:
        return ShardJob(Contrast, plan, lambda _, batch: BatchResult(batch))
    return ShardJob(Contrast, plan, ScoringTask(judge, cells))


def _read_joined(
    context: RunContext, principles: Path, responses: Path, round: int, policy: Policy, roles: Sequence[str]
) -> list[Contrast]:
    """Return the rows of a shard that have all their responses."""
    found: dict[tuple[str, str], Response] = {
        (response.id, response.role): response for response in read_rows([responses], Response)
    }
    rows = read_rows([principles], SteeredQuery)
    recipe, chat = context.recipe, context.models.chat(policy)
    known, writer = context.principle_set, context.models.writer
    variables = recipe.model.chat_template_kwargs
    versions = template_versions(*templates_of(recipe))
    provenance = {
        "selfsteer": __version__,
        "backend": policy.backend,
        "model": policy.name,
        "weights": policy.fingerprint,
        "tokenizer": chat.fingerprint if chat else "",
        "sampling": recipe.generation.sampling,
        "principle_set": f"{known.name} v{known.version} {known.fingerprint}",
        "strategy": recipe.principles.strategy,
        "writer": f"{writer.name} {writer.fingerprint}" if writer else "the policy",
        "templates": ", ".join(f"{name} v{version}" for name, version in versions.items()),
        "seed": str(recipe.seed),
    } | ({"chat_template_kwargs": json.dumps(variables, sort_keys=True)} if variables else {})
    return joined(
        [row for row in rows if all((row.id, role) in found for role in roles)], found, roles=roles,
        principle_set=context.principle_set if recipe.quality.clean else None, chat=chat,
        thinking_apart=recipe.generation.thinking == "apart", round=round, provenance=provenance,
    )  # fmt: skip


def scored_preferences(context: RunContext, preferences: StageRecord, policy: Policy) -> StageRecord:
    """Score annotated pairs under the plain prompt by the policy that is to be trained: its reference."""
    depends = {"preferences": preferences.key} | context.scoring(policy)
    files = context.store.files(preferences)

    def write(space: Workspace) -> tuple[list[Path], ScoresResult]:
        from selfsteer.stages.scorer import PLAIN_CELLS

        job = _scoring(context, policy, lambda number: list(read_rows([files[number]], Contrast)), PLAIN_CELLS)
        paths, dropped = run_sharded(space, len(files), job, context.models.scoring_executor(policy))
        return paths, ScoresResult.from_info(dropped.info, figures=data_figures(read_rows(paths, Contrast)))

    rows = sum(map(count_rows, files))
    entry = context.store.get_or_compute(
        "scores", 1, depends, write, units=rows, title="score preferences", note=dropped_note
    )
    source, most = str(context.recipe.preferences.source), context.recipe.queries.max_left_out
    check_dropped_share(ScoresResult.of(entry), "pair", source, most, rows)
    return entry


def data_figures(rows: Iterable[Contrast]) -> dict[str, Any]:
    """Return means over rows after cleaning and before the filters; None where no row has what it takes.

    ``length``: tokens (words where there are no tokens) by role; ``onpolicyness``: exp(mean log-prob under the plain
    prompt) of y+, of y- and of both (v2, figure 3); ``steering_margin``: nats per token.
    """
    lengths, chances = {role: Mean() for role in ROLES}, {role: Mean() for role in ROLES[:2]}
    margin = Mean()
    for row in rows:
        for role in row.roles:
            lengths[role].add(response_length(row, role))
        for role, mean in chances.items():
            mean.add(math.exp(score(row, role, "prompt")) if has_score(row, role, "prompt") else None)
        margin.add(steering_margin(row))
    both = [mean.value for mean in chances.values() if mean.value is not None]
    return {
        "length": {role: mean.value for role, mean in lengths.items()},
        "onpolicyness": {f"{role}_response": mean.value for role, mean in chances.items()}
        | {"mean": sum(both) / len(both) if both else None},
        "steering_margin": margin.value,
    }


def joined(
    rows: Sequence[SteeredQuery],
    responses: Mapping[tuple[str, str], Response],
    *,
    principle_set: PrincipleSet | None,
    chat: Chat | None,
    thinking_apart: bool,
    round: int,
    provenance: dict[str, str],
    roles: Sequence[str] = ROLES,
) -> list[Contrast]:
    """Join each row with its responses of ``roles``, cleaned where ``principle_set`` (whose labels may leak) is given.

    ``thinking_apart`` takes a reasoning model's thoughts out of the responses, and closes what a prompt opens.
    """
    contrasts = []
    for row in rows:
        own = {role: responses[row.id, role] for role in roles}
        if thinking_apart:
            own = {role: think_apart(found, chat) for role, found in own.items()}
            for role, found in own.items():
                if chat and found.prompt_token_ids is not None:
                    closed = chat.without_thought(found.prompt_token_ids)
                    own[role] = dataclasses.replace(found, prompt_token_ids=closed)
        if principle_set is not None:
            labels = [word for name in row.aspects for word in principle_set.adjectives[name]]
            own = {role: clean_response(found, chat.decode if chat else None, labels) for role, found in own.items()}
        if chat is not None:  # a response that was not sampled gets prompts of the same form
            for role in (role for role in ROLES if role not in own):
                prompt = chat.encode(getattr(row, PROMPT_OF_ROLE[role]))
                prompt = chat.without_thought(prompt) if thinking_apart else prompt
                own[role] = Response(row.id, cast(Role, role), "", "absent", [], prompt)
        contrasts.append(assemble(row, own, round=round, provenance=provenance))
    return contrasts


def fitting(rows: Sequence[Contrast], chat: Chat, recipe: Recipe) -> tuple[list[Contrast], list[Dropped]]:
    """Return the rows, with token ids, whose prompts ``chat`` takes and which leave room for a response; and why the
    others don't.

    Who wrote the responses may have counted in other tokens than ``chat``.
    """
    fits: list[Contrast] = []
    left_out: list[Dropped] = []
    for given in rows:
        try:
            row = with_token_ids(given, chat)
        except PromptRefused as error:
            left_out.append(Dropped(given.id, error.what))
            continue
        if row.longest_prompt < recipe.train.max_length:
            fits.append(row)
        else:
            left_out.append(Dropped(row.id, NO_ROOM.format(row.longest_prompt), SHORTER))
    return fits, left_out
