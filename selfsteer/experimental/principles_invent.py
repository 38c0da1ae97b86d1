"""`selfsteer principles invent`: a model proposes new aspects from a sample of queries, and each is tried on it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfsteer.backends import shared_prefix
from selfsteer.config import Recipe, RolesSettings
from selfsteer.contrast import Request
from selfsteer.errors import NothingSurvived
from selfsteer.evaluation.steerability import AspectProbe
from selfsteer.experimental.prompt_templates import template_contents
from selfsteer.experimental.proposals import TEMPLATE, TOKENS, Reading, inventor_messages, read_proposals
from selfsteer.experimental.similarity import THRESHOLD, Candidate, merged
from selfsteer.files import storage_errors, write_json
from selfsteer.judges import Judge, make_judge
from selfsteer.principles import PrincipleSet
from selfsteer.quality import think_apart
from selfsteer.queries import source_fingerprint
from selfsteer.records import Message, Query, Response, write_rows
from selfsteer.runs.dropped import dropped_note
from selfsteer.runs.executor import BatchResult
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.progress import Display
from selfsteer.runs.results import DroppedRows, StageResult
from selfsteer.runs.shards import SHARD_ROWS, Dropped, ShardJob, ShardPlan, check_any_left, run_sharded
from selfsteer.runs.store import Store, Workspace, in_batches
from selfsteer.seeding import batch_seed
from selfsteer.stages.context import RunContext
from selfsteer.stages.model_pool import Policy
from selfsteer.stages.queries import draw_queries
from selfsteer.stages.responses import sample
from selfsteer.workflows.principles_check import Trial, probe_along, trial


@dataclasses.dataclass(frozen=True)
class InventOptions:
    """Numbers of queries, aspects and trials.

    Attributes:
        sample: Largest number of queries drawn from the source.
        similarity: At this or a higher one, two aspects are the same
            (:func:`selfsteer.experimental.similarity.similarities`).
        support: Answers that have to propose an aspect.
        each: Queries that each of them is tried on; 0 tries none.
        tokens: Tokens of an answer for each requested aspect, without those for thoughts.
    """

    sample: int = 24
    per_prompt: int = 4
    aspects: int = 2
    similarity: float = THRESHOLD
    support: int = 1
    most: int = 8
    each: int = 4
    tokens: int = TOKENS


@dataclasses.dataclass(frozen=True)
class Invented:
    """Proposed aspects and their trials.

    Attributes:
        readings: The parsed answers, in order.
        known: By aspect of the given set, the number of proposals similar to it.
        passed_over: Names of aspects with too few proposals, or beyond the largest number kept.
        probes: The effect of steering along a new aspect, by its name; empty without trials.
    """

    given: PrincipleSet
    queries: list[Query]
    model: str
    readings: list[Reading]
    candidates: list[Candidate]
    known: dict[str, int]
    passed_over: list[str]
    probes: dict[str, AspectProbe]

    @property
    def outcomes(self) -> Counter[str]:
        """Number of answers that were ok, repaired and failed."""
        return Counter(reading.outcome for reading in self.readings)

    @property
    def refused(self) -> Counter[str]:
        """Number of rejected proposals by reason, the most frequent first."""
        return _refused(self.readings)


def invent(recipe: Recipe, order: InventOptions, folder: Path, *, display: Display | None = None) -> Invented:
    """Ask the recipe's model for aspects that the recipe's principle set lacks, and try them.

    Samples and verdicts are stored in ``folder``: the same call again computes nothing, and an interrupted one resumes
    with its batch. ``folder/proposals.json`` has the result of each proposal.

    Raises:
        InputError: The model, the set, the queries or the judge can't be used.
        NothingSurvived: No proposal is a new aspect.
        WorkFailed: Sampling, scoring or judging failed; finished stages stay.
    """
    display = display or Display(quiet=True)
    stages = RunContext.from_recipe(recipe, Store(folder, display))
    stages.check_programs()
    judge = make_judge(recipe.judge) if recipe.judge.name else None
    with display, storage_errors(folder), stages.store.locked():
        pairs = order.most * order.each
        asking = 4.0 * order.aspects * order.sample / order.per_prompt
        display.plan([0.1, asking, *((0.1, 3.0 * pairs, 1.5 * pairs) if pairs else ())])
        policy = stages.models.initial_policy(display.say)
        sample = _sample(stages, order)
        queries = stages.store.read(sample, Query)
        answers = _answers(stages, order, sample, queries, policy)
        chat = stages.models.chat(policy)
        found = {row.id: think_apart(row, chat) for row in stages.store.read(answers, Response)}
        readings = [
            read_proposals(row.text, place, group, cut=row.finish == "length")
            for place, group in enumerate(in_batches(queries, order.per_prompt))
            if (row := found.get(f"{place:05d}")) is not None
        ]
        candidates, known = merged(
            [proposal for reading in readings for proposal in reading.proposals],
            stages.principle_set.aspects,
            order.similarity,
        )
        kept = [one for one in candidates if one.answers >= order.support][: order.most]
        write_json(folder / "proposals.json", _account(readings, kept, known))
        if not kept:
            raise _nothing(readings, candidates, known, stages.principle_set.name, order, folder)
        probes = _probes(stages, kept, queries, order.each, judge)
    return Invented(
        given=stages.principle_set, queries=queries, model=stages.models.name, readings=readings, candidates=kept,
        known=known, passed_over=[one.aspect.name for one in candidates if one not in kept], probes=probes,
    )  # fmt: skip


def _probes(
    context: RunContext, kept: Sequence[Candidate], queries: Sequence[Query], each: int, judge: Judge | None
) -> dict[str, AspectProbe]:
    """Steer along each new aspect alone, with the given set's steering; frees the model.

    Each has up to ``each`` trials: on queries that it is proposed for, then on others.
    """
    trials: list[Trial] = []
    for place, candidate in enumerate(kept):
        own = [query for query in queries if query.id in candidate.queries]
        rest = [query for query in queries if query.id not in candidate.queries]
        start = place * each % max(1, len(rest))
        trials += [trial(candidate.aspect.name, query) for query in (own + rest[start:] + rest[:start])[:each]]
    if not trials:
        context.models.free()
        return {}
    aspects, steering = [one.aspect for one in kept], context.principle_set.steering
    alone = PrincipleSet(name="trial", version=1, aspects_per_query=1, steering=steering, aspects=aspects)
    found = probe_along(dataclasses.replace(context, principle_set=alone), trials, judge)
    return {aspect.aspect: aspect for aspect in found.aspects}


def _sample(context: RunContext, order: InventOptions) -> StageRecord:
    """Draw the sample of queries, by the seed and their ids alone."""
    settings, seed = context.recipe.queries, context.recipe.seed
    source = settings.model_dump(include={"source", "field", "dataset_split", "max_left_out"})
    depends = {
        "source": [source, settings.limit, source_fingerprint(settings.source)],
        "sample": order.sample,
        "seed": seed,
    }

    def write(space: Workspace) -> tuple[list[Path], StageResult]:
        path = space.path("sample.parquet")
        write_rows(path, Query, draw_queries(settings, order.sample, seed, max_left_out=settings.max_left_out))
        return [path], StageResult()

    return context.store.get_or_compute("sample", 0, depends, write, folder="invention", units=1)


def _answers(
    context: RunContext, order: InventOptions, sample: StageRecord, queries: Sequence[Query], policy: Policy
) -> StageRecord:
    """Ask for aspects, one prompt for a few queries each; prompts that don't fit are dropped and listed."""
    settings = context.recipe.generation
    known = [aspect.name for aspect in context.principle_set.aspects]
    depends = {
        "sample": sample.key,
        "order": [order.per_prompt, order.aspects],
        "known": known,
        "template": template_contents(TEMPLATE),
        "sampling": [settings.temperature, settings.top_p, _sampling(context, order, policy).generation.max_new_tokens],
        "seed": context.recipe.seed,
    } | context.sampling(policy)
    groups = in_batches(queries, order.per_prompt)
    blocks = in_batches(list(enumerate(groups)), SHARD_ROWS)

    def write(space: Workspace) -> tuple[list[Path], DroppedRows]:
        paths, info = run_sharded(space, len(blocks), _asking(context, order, known, blocks, policy))
        check_any_left(paths, info, len(groups), "prompt")
        return paths, info

    return context.store.get_or_compute(
        "proposals", 0, depends, write, folder="invention/answers", units=len(groups),
        note=lambda record: dropped_note(record).replace(",", ":", 1),
    )  # fmt: skip


def _asking(
    context: RunContext,
    order: InventOptions,
    known: Sequence[str],
    blocks: Sequence[Sequence[tuple[int, Sequence[Query]]]],
    policy: Policy,
) -> ShardJob[Request, Response]:
    """Return the job that asks for aspects, by blocks of numbered groups of queries."""
    backend = context.models.backend(policy)
    role = backend.chat.system_role if backend.chat else "native"
    recipe = _sampling(context, order, policy)
    room, size = recipe.generation.max_new_tokens, recipe.generation.batch

    def messages(texts: Sequence[str]) -> list[Message]:
        return inventor_messages(texts, known, order.aspects, role)

    prefix = shared_prefix(backend.chat, messages(["A"]), messages(["Z"]))

    def plan(number: int) -> ShardPlan[Request]:
        items, left_out = [], []
        for place, group in blocks[number]:
            item = Request(f"{place:05d}", "original", messages([query.prompt[-1]["content"] for query in group]))
            length = backend.length(item.prompt) + room
            if backend.context is not None and length > backend.context:
                reason = f"it needs {length} tokens with its answer, and the model's context is {backend.context}"
                left_out.append(Dropped(item.id, reason, "lower --per-prompt or --aspects"))
            else:
                items.append(item)
        context.store.display.advance(len(left_out))
        return ShardPlan(in_batches(items, size), left_out)

    def do(number: int, batch: Sequence[Request]) -> BatchResult[Response]:
        seed = batch_seed(recipe.seed, "proposals", number)
        done = sample(recipe, backend, batch, seed, prefix)
        return BatchResult(done.rows, {key[0]: failure for key, failure in done.failures.items()})  # type: ignore[index]

    return ShardJob(Response, plan, do, per_block=-(-SHARD_ROWS // size), failed=recipe.generation.endpoint.failed)


def _sampling(context: RunContext, order: InventOptions, policy: Policy) -> Recipe:
    """Return the recipe with the token limit of an answer; the recipe's own limits the trials' responses."""
    settings = context.recipe.generation
    thinks = context.models.may_think(policy)
    tokens = order.tokens * order.aspects + (context.recipe.thinking_tokens if thinks else 0)
    update = {"max_new_tokens": tokens, "roles": RolesSettings()}  # an answer with aspects is no response to a query
    return context.recipe.model_copy(update={"generation": settings.model_copy(update=update)})


def _refused(readings: Sequence[Reading]) -> Counter[str]:
    reasons = Counter(refused.reason for reading in readings for refused in reading.refused)
    return Counter(dict(reasons.most_common()))


def _account(readings: Sequence[Reading], kept: Sequence[Candidate], known: dict[str, int]) -> dict[str, Any]:
    """Return the result of each answer and each proposal."""
    return {
        "schema_version": 1,
        "answers": [
            {
                "outcome": reading.outcome,
                "proposals": [{**one.aspect.model_dump(), "queries": one.queries} for one in reading.proposals],
                "refused": [dataclasses.asdict(one) for one in reading.refused],
            }
            for reading in readings
        ],
        "new": {one.aspect.name: [proposal.aspect.name for proposal in one.proposals] for one in kept},
        "known": known,
    }


def _nothing(
    readings: Sequence[Reading],
    candidates: Sequence[Candidate],
    known: dict[str, int],
    given: str,
    order: InventOptions,
    folder: Path,
) -> NothingSurvived:
    counts = {
        f"answers without a JSON list or object, of {len(readings)}": sum(one.outcome == "failed" for one in readings),
        f"aspects that are in {given!r} already": sum(known.values()),
        f"aspects that fewer than {order.support} answers propose": len(candidates),
        **{f"rejected, {reason}": count for reason, count in _refused(readings).items()},
    }
    what = "no new aspect: " + "; ".join(f"{words}: {count}" for words, count in counts.items() if count)
    do = "lower --support" if candidates else "use a larger model, or more queries (--sample)"
    return NothingSurvived(what, where=str(folder / "proposals.json"), do=do)
