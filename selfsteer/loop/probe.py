"""`selfsteer principles check`: steer a model along each aspect of a set alone, and see whether it follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfsteer.config import Recipe
from selfsteer.errors import DataError
from selfsteer.evaluation.judges import Judge, open_judge
from selfsteer.evaluation.measures import is_full
from selfsteer.evaluation.probe import Probe, probe_figures
from selfsteer.files import storage_errors, write_json
from selfsteer.loop import work
from selfsteer.loop.data import DataStages
from selfsteer.loop.display import Display, Planned
from selfsteer.loop.judging import judge_rows, told_by
from selfsteer.loop.ledger import Entry
from selfsteer.loop.models import Policy
from selfsteer.loop.store import Store, Workspace
from selfsteer.principles import Choice
from selfsteer.queries import load_queries
from selfsteer.records import Contrast, Principled, Query, write_rows

PAIRS = 32
"""Pairs that a probe makes by default, spread over the aspects."""


def probe(recipe: Recipe, folder: Path, *, pairs: int = PAIRS, display: Display | None = None) -> Probe:
    """Return whether the recipe's model follows the recipe's principle set, aspect by aspect.

    What is sampled and judged is kept in ``folder``; the same call again computes nothing, and one that was killed goes
    on. The figures go into ``folder/probe.json``.

    Args:
        recipe: Names model, set, queries, sampling and, if there is one, the judge.
        folder: Where everything goes.
        pairs: About how many pairs to make; each aspect gets the same number.
        display: Shows progress.

    Raises:
        InputError: The model, the set, the queries or the judge can't be used.
        WorkFailed: Sampling, scoring or judging failed; what was finished stays.
    """
    display = display or Display(quiet=True)
    stages = DataStages.of(recipe, Store(folder, display))
    stages.check_programs()
    judge = open_judge(recipe.judge) if recipe.judge.name else None
    with display, storage_errors(folder), stages.store.locked():
        display.plan([Planned("", 1.0), Planned("", 3.0 * pairs), Planned("", 1.5 * pairs)])
        rows = _rows(stages, pairs)
        found = probe_figures(rows, stages.teller(_judged(judge, stages, rows)))
        write_json(folder / "probe.json", {"schema_version": 1, **asdict(found), "standing": found.standing})
        return found


def _rows(stages: DataStages, pairs: int) -> dict[str, list[Contrast]]:
    policy = stages.models.start(stages.store.display.say)
    principles = _principles(stages, policy, pairs)
    responses = stages.responses(principles, "heldout", 0, policy)
    scores = stages.scores(principles, responses, "heldout", 0, policy)
    stages.models.free()
    rows: dict[str, list[Contrast]] = {aspect.name: [] for aspect in stages.principle_set.aspects}
    for row in sorted(stages.store.read(scores, Contrast), key=lambda row: row.id):
        if is_full(row):
            rows[row.aspects[0]].append(row)
    return rows


def _principles(stages: DataStages, policy: Policy, pairs: int) -> Entry:
    """Write a row for each aspect and query: the aspect's own pair of principles, and no other."""
    settings, names = stages.recipe.queries, [aspect.name for aspect in stages.principle_set.aspects]
    each = -(-pairs // len(names))
    queries = load_queries(settings.source, field=settings.field, dataset_split=settings.dataset_split).queries
    if len(queries) < each:
        what = f"{len(queries)} queries are too few: each aspect is tried on {each}"
        raise DataError(what, where=settings.source, do="give more queries, or ask for fewer pairs")
    depends = {
        "queries": [(query.id, query.prompt) for query in queries],
        "set": stages.principle_set.fingerprint,
        "policy": policy.fingerprint,
        "pairs": pairs,
    }

    def write(space: Workspace) -> tuple[list[Path], dict[str, Any]]:
        chat = stages.models.chat(policy)
        rows = [
            work.steered(query, Choice([name], "all"), stages.principle_set, [chat] if chat else [])
            for name, query in spread(names, queries, each)
        ]
        path = space.path("principles.parquet")
        write_rows(path, Principled, rows)
        return [path], {}

    folder, title = "round-00/heldout/principles", "write principles"
    return stages.store.stage("probe", 0, depends, write, folder=folder, units=1, title=title)


def spread(names: Sequence[str], queries: Sequence[Query], each: int) -> Iterator[tuple[str, Query]]:
    """Yield ``each`` queries for every aspect, as different ones as there are; ids name query and aspect."""
    for place, name in enumerate(names):
        for number in range(each):
            query = queries[(place * each + number) % len(queries)]
            yield name, Query(f"{query.id} {name}", query.prompt, "heldout", query.source)


def _judged(judge: Judge | None, stages: DataStages, rows: dict[str, list[Contrast]]) -> dict[str, tuple[str, int]]:
    """Return the judge's debiased verdicts on the rows that no program can tell about."""
    if judge is None:
        return {}
    untold = [row for own in rows.values() for row in own if stages.program(row) is None]
    stages.store.display.begin(f"ask {judge.name}", 2 * len(untold))
    judgements = judge_rows(stages, judge, untold)
    stages.store.display.finish(f"ask {judge.name}", reused=False)
    return told_by(judge, judgements)
