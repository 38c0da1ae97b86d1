"""`selfsteer principles check`: steer a model along each aspect of a set alone, and measure the effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from selfsteer.config import Recipe
from selfsteer.errors import DataError
from selfsteer.evaluation.steerability import Probe, probe_figures
from selfsteer.files import storage_errors, write_json
from selfsteer.judges import Judge, make_judge
from selfsteer.principles import pair_for
from selfsteer.queries import load_queries
from selfsteer.records import Contrast, Query, SteeredQuery, is_full, write_rows
from selfsteer.runs.dropped import dropped_note
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.progress import Display
from selfsteer.runs.results import DroppedRows
from selfsteer.runs.shards import Dropped, summed
from selfsteer.runs.store import Store, Workspace
from selfsteer.stages.context import RunContext
from selfsteer.stages.judgements import judge_rows, told_by
from selfsteer.stages.model_pool import Policy
from selfsteer.stages.principle_strategies import WrittenPrinciples, refusal, steered
from selfsteer.stages.principles import check_queries_left
from selfsteer.stages.responses import responses_stage
from selfsteer.stages.scores import scores_stage

Trial = tuple[str, Query]
"""The aspect to steer along, and the query to answer."""

PAIRS = 32
"""Pairs that a probe makes by default, spread over the aspects."""


def probe(recipe: Recipe, folder: Path, *, pairs: int = PAIRS, display: Display | None = None) -> Probe:
    """Return how the recipe's model follows the recipe's principle set, aspect by aspect.

    Samples and verdicts are stored in ``folder``: the same call again computes nothing, and an interrupted one resumes.
    The figures are written to ``folder/probe.json``.

    Args:
        recipe: Its model, set, queries, sampling and judge, if any, are used.
        pairs: Approximate number of pairs; each aspect gets the same number.

    Raises:
        InputError: The model, the set, the queries or the judge can't be used.
        WorkFailed: Sampling, scoring or judging failed; finished stages stay.
    """
    display = display or Display(quiet=True)
    stages = RunContext.from_recipe(recipe, Store(folder, display))
    stages.check_programs()
    judge = make_judge(recipe.judge) if recipe.judge.name else None
    with display, storage_errors(folder), stages.store.locked():
        display.plan([1.0, 3.0 * pairs, 1.5 * pairs])
        settings, names = stages.recipe.queries, [aspect.name for aspect in stages.principle_set.aspects]
        each = -(-pairs // len(names))
        shared = settings.model_dump(include={"field", "limit", "dataset_split", "max_left_out"})
        queries = load_queries(settings.source, **shared).queries
        if len(queries) < each:
            what = f"{len(queries)} queries are too few: each aspect is tried on {each}"
            raise DataError(what, where=settings.source, do="give more queries, or ask for fewer pairs")
        found = probe_along(stages, list(spread(names, queries, each)), judge)
        write_json(folder / "probe.json", {"schema_version": 1, **asdict(found), "standing": found.standing})
        return found


def probe_along(context: RunContext, trials: Sequence[Trial], judge: Judge | None) -> Probe:
    """Steer the start along one aspect in each trial, and return the effect of each aspect.

    The caller holds the lock of the run directory. Frees the model at the end.
    """
    policy = context.models.initial_policy(context.store.display.say)
    principles = _principles(context, policy, trials)
    responses = responses_stage(context, principles, "heldout", 0, policy)
    scores = scores_stage(context, principles, responses, "heldout", 0, policy)
    context.models.free()
    rows: dict[str, list[Contrast]] = {aspect.name: [] for aspect in context.principle_set.aspects}
    for row in sorted(context.store.read(scores, Contrast), key=lambda row: row.id):
        if is_full(row):
            rows[row.aspects[0]].append(row)
    verdicts: dict[str, tuple[str, int]] = {}
    if judge:
        undecided = [row for own in rows.values() for row in own if context.program(row) is None]
        context.store.display.begin(f"ask {judge.name}", 2 * len(undecided))
        verdicts = told_by(judge, judge_rows(context, judge, undecided))
        context.store.display.finish(f"ask {judge.name}", reused=False)
    return probe_figures(rows, context.verdict_fn(verdicts))


def _principles(context: RunContext, policy: Policy, trials: Sequence[Trial]) -> StageRecord:
    """Write a row for each trial: the aspect's own pair of principles, and no other."""
    depends = {
        "trials": [(name, query.id, query.prompt) for name, query in trials],
        "set": context.principle_set.fingerprint,
        "policy": policy.fingerprint,
    }

    def write(space: Workspace) -> tuple[list[Path], DroppedRows]:
        chat, principle_set = context.models.chat(policy), context.principle_set
        chats = [chat] if chat else []
        reasons = {query.id: reason for _, query in trials if (reason := refusal(query, chats))}
        rows = [
            steered(query, WrittenPrinciples(pair_for(principle_set, [name]), "all", "fixed"), chats)
            for name, query in trials
            if query.id not in reasons
        ]
        path = space.path("principles.parquet")
        write_rows(path, SteeredQuery, rows)
        return [path], summed([[Dropped(*reason) for reason in reasons.items()]])

    entry = context.store.get_or_compute(
        "probe", 0, depends, write, folder="round-00/heldout/principles", units=1, note=dropped_note
    )
    check_queries_left(context.recipe.queries, entry, len({query.id for _, query in trials}))
    return entry


def spread(names: Sequence[str], queries: Sequence[Query], each: int) -> Iterator[Trial]:
    """Yield ``each`` queries for every aspect, as few of them twice as possible; ids name query and aspect."""
    for place, name in enumerate(names):
        for number in range(each):
            yield trial(name, queries[(place * each + number) % len(queries)])


def trial(name: str, query: Query) -> Trial:
    """Return the trial of an aspect on a query; its row's id names both."""
    return name, Query(f"{query.id} {name}", query.prompt, "heldout")
