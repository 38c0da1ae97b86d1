"""Verdicts of a judge on rows, kept from run to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfsteer.evaluation.signal_quality import pairs_of
from selfsteer.files import write_json
from selfsteer.judges import AnswerCache, Judge, Judgement, Pair, judge_pairs, make_judge
from selfsteer.judges.agreement import agreement
from selfsteer.judges.tables import Judged, invalid_warning
from selfsteer.records import Contrast, is_full
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.store import Workspace
from selfsteer.stages.context import RunContext, stage_folder, stage_title

Progress = Callable[[str, int, int], None]


def judge_rows(stages: RunContext, judge: Judge, rows: Sequence[Contrast]) -> list[Judgement]:
    """Put a run's rows before a judge as the recipe says, with progress; answers are kept in the run directory."""
    pairs = pairs_of(rows, by=stages.recipe.judge.by, principle_set=stages.principle_set)
    done = 0

    def progress(name: str, answered: int, total: int) -> None:
        nonlocal done
        stages.store.display.advance(answered - done)
        done = answered

    return list(judge_with_cache(judge, pairs, stages.store.run_dir / "judgements", progress).judgements)


def told_by(judge: Judge, judgements: Sequence[Judgement]) -> dict[str, tuple[str, int]]:
    """Return by row id the judge's name and its debiased verdict; a pair that it could not answer is left out."""
    return {one.pair.id: (judge.name, one.debiased) for one in judgements if one.outcome != "invalid"}


def judge_with_cache(
    judge: Judge, pairs: Sequence[Pair], answers: Path, progress: Progress = lambda name, done, total: None
) -> Judged:
    """Put the pairs before one judge; what it answered before is not asked again."""
    cache = AnswerCache(answers / f"{judge.key}.jsonl")
    report = judge_pairs(judge, pairs, cache, progress=lambda done, total: progress(judge.name, done, total))
    return Judged(judge.name, report)


def judged_stage(stages: RunContext, entry: StageRecord, split: str, round: int) -> StageRecord | None:
    """Put the pairs of a scored stage before the recipe's judge; None where it names none."""
    if not stages.recipe.judge.name:
        return None
    # Opened for each stage: a judge's weights should not stay in memory while the policy is trained.
    judge = make_judge(stages.recipe.judge)
    rows = list(filter(is_full, stages.store.read(entry, Contrast)))

    def write(space: Workspace) -> tuple[list[Path], dict[str, Any]]:
        stages.models.free()
        found = judge_rows(stages, judge, rows)
        path = space.path("verdicts.json")
        write_json(path, told_by(judge, found))
        return [path], {"judge": judge.name, **asdict(agreement(found))}

    def note(info: dict[str, Any]) -> str:
        told = invalid_warning(judge.name, info)
        whole = "warning: " if info["outcomes"]["invalid"] == info["n"] else ""
        return f": {whole}{told}" if told else ""

    return stages.store.get_or_compute(
        "judgements", round, {"rows": entry.key, "judge": judge.key, "by": stages.recipe.judge.by}, write,
        folder=stage_folder(split, round, "judgements"), units=2 * len(rows),
        title=stage_title(f"ask {judge.name}", split, round), note=note,
    )  # fmt: skip
