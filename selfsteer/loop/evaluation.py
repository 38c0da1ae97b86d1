"""Held-out measurement: the same queries and principles, answered and scored by each policy of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfsteer.evaluation import Measure, measure
from selfsteer.evaluation.judges.agreement import agreement
from selfsteer.evaluation.measures import implicit_changes
from selfsteer.evaluation.probe import Direction, direction_by
from selfsteer.files import read_json, write_json
from selfsteer.loop.data import DataStages
from selfsteer.loop.ledger import Entry
from selfsteer.loop.models import Policy
from selfsteer.loop.store import Workspace, in_batches
from selfsteer.records import ROLES, Contrast

_BATCH = 8


def heldout_rows(stages: DataStages, principles: Entry, policy: Policy) -> Entry:
    """Let a policy answer the held-out queries under the start's principles, and score the answers under it."""
    responses = stages.responses(principles, "heldout", policy.round, policy)
    return stages.scores(principles, responses, "heldout", policy.round, policy)


def implicit_stage(stages: DataStages, start: Entry, policy: Policy) -> Entry:
    """Score the start's held-out pairs under a trained policy: what the implicit reward is made of."""
    rows = [row for row in stages.store.read(start, Contrast) if row.scores is not None]
    depends = {"start": start.key} | stages.scoring(policy)

    def write(space: Workspace) -> tuple[list[Path], dict[str, Any]]:
        from selfsteer.loop.scoring import PLAIN_CELLS

        scorer = stages.models.scorer(policy)
        assert scorer is not None  # rows have scores only where the backend has weights

        def score(_: int, batch: Sequence[Contrast]) -> list[Contrast]:
            return scorer.score(batch, PLAIN_CELLS)

        return space.batches(Contrast, in_batches(rows, _BATCH), score), {}

    return stages.store.stage(
        "implicit", policy.round, depends, write, folder=f"round-{policy.round:02d}/heldout/implicit", units=len(rows),
        title=f"implicit rewards, held-out, after round {policy.round}",
    )  # fmt: skip


def judged_stage(stages: DataStages, entry: Entry, policy: Policy) -> Entry | None:
    """Put a policy's held-out pairs before the recipe's judge; None where it names none."""
    settings = stages.recipe.judge
    if not settings.name:
        return None
    from selfsteer.evaluation.judges import AnswerCache, judge_pairs, open_judge
    from selfsteer.evaluation.signal import pairs_of

    # Opened for each stage: a judge's weights should not stay in memory while the policy is trained.
    judge = open_judge(settings)
    rows = [
        row for row in stages.store.read(entry, Contrast) if all(getattr(row, f"{role}_response") for role in ROLES)
    ]

    def write(space: Workspace) -> tuple[list[Path], dict[str, Any]]:
        stages.models.free()
        pairs = pairs_of(rows, by=settings.by, principle_set=stages.principle_set)
        cache = AnswerCache(stages.store.run_dir / "judgements" / f"{judge.key}.jsonl")
        done = 0

        def progress(answered: int, total: int) -> None:
            nonlocal done
            stages.store.display.advance(answered - done)
            done = answered

        found = judge_pairs(judge, pairs, cache, progress=progress)
        path = space.path("verdicts.json")
        write_json(path, [{"id": j.pair.id, "strict": j.strict, "debiased": j.debiased} for j in found])
        return [path], {"judge": judge.name, **asdict(agreement(found))}

    return stages.store.stage(
        "judgements", policy.round, {"rows": entry.key, "judge": judge.key, "by": settings.by}, write,
        folder=f"round-{policy.round:02d}/heldout/judgements", units=2 * len(rows),
        title=f"ask {judge.name}, held-out, {f'after round {policy.round}' if policy.round else 'before'}",
    )  # fmt: skip


def heldout_direction(stages: DataStages, entry: Entry, judged: Entry | None) -> Direction | None:
    """Return how often y+ is better on a policy's held-out pairs, by program or else by the judge; None is unknown."""
    rows = [row for row in stages.store.read(entry, Contrast) if row.positive_response and row.negative_response]
    verdicts = read_json(stages.store.run_dir / judged.files[0]) if judged else []
    told = {verdict["id"]: (judged.info["judge"], verdict["debiased"]) for verdict in verdicts} if judged else {}
    return direction_by(rows, stages.teller(told))


def measured(
    stages: DataStages, entry: Entry, start: Entry, implicit: Entry | None, judged: Entry | None = None
) -> Measure:
    """Return the figures of one policy on the held-out queries."""
    rows = stages.store.read(entry, Contrast)
    changes = _changes(stages, start, implicit) if implicit else None
    figures = measure(sorted(rows, key=lambda row: row.id), direction=stages.direction, implicit=changes)
    return figures | {"judged": judged.info if judged else None}


def samples(before: Sequence[Contrast], after: Sequence[Contrast], count: int) -> list[dict[str, Any]]:
    """Return a few held-out queries with the answers of the first and the last policy side by side."""
    later = {row.id: row for row in after}
    shown = [row for row in sorted(before, key=lambda row: row.id) if row.id in later][:count]
    return [
        {
            "id": row.id,
            "query": row.prompt[-1]["content"],
            "positive_principle": row.positive_principle,
            "before": _texts(row),
            "after": _texts(later[row.id]),
        }
        for row in shown
    ]


def _texts(row: Contrast) -> dict[str, str]:
    return {role: getattr(row, f"{role}_response") for role in ROLES}


def _changes(stages: DataStages, start: Entry, implicit: Entry) -> list[tuple[float, float]]:
    """Return for each pair of the start how much likelier the policy finds y+ and y-, nats per token."""
    found = implicit_changes(stages.store.read(start, Contrast), stages.store.read(implicit, Contrast))
    return list(found.values())
