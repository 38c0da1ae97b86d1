"""The stage ``judgements``: a judge's verdicts on rows, kept from run to run."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from selfsteer.errors import PrincipleError, SelfsteerWarning
from selfsteer.evaluation.signal_quality import pairs_of
from selfsteer.evaluation.steerability import Direction, direction_by
from selfsteer.files import read_json, write_json
from selfsteer.judges import AnswerCache, Judge, Judgement, Pair, judge_pairs, make_judge
from selfsteer.judges.agreement import agreement
from selfsteer.judges.judgements import Judgements
from selfsteer.judges.registry import runs_code
from selfsteer.judges.tables import Judged, invalid_warning
from selfsteer.records import Contrast, is_full
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.pipeline import Split
from selfsteer.runs.results import StageResult
from selfsteer.runs.store import Workspace
from selfsteer.stages.context import Pass, RunContext


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgementsResult(StageResult):
    """The judge's name and the figures of :func:`selfsteer.judges.agreement.agreement`."""

    judge: str
    figures: dict[str, Any]

    @property
    def info(self) -> dict[str, Any]:
        """Return what the ledger keeps: the figures beside the name."""
        return {"judge": self.judge, **self.figures}


Progress = Callable[[str, int, int], None]


def judge_rows(context: RunContext, judge: Judge, rows: Sequence[Contrast]) -> list[Judgement]:
    """Put a run's rows before a judge as the recipe says, with progress; answers are kept in the run directory."""
    pairs = pairs_of(rows, by=context.recipe.judge.by, principle_set=context.principle_set)
    done = 0

    def progress(name: str, answered: int, total: int) -> None:
        nonlocal done
        context.store.display.advance(answered - done)
        done = answered

    return list(judge_with_cache(judge, pairs, context.store.run_dir / "judgements", progress).judgements)


def told_by(judge: Judge, judgements: Sequence[Judgement]) -> dict[str, tuple[str, int]]:
    """Return by row id the judge's name and its debiased verdict; a pair that it could not answer is left out."""
    return {one.pair.id: (judge.name, one.debiased) for one in judgements if one.outcome != "invalid"}


class StoredPairs(Protocol):
    """Pairs in files, of which a block is read at a time, in any order."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[Sequence[Pair]]:
        """Yield all pairs, some thousand at a time."""
        ...


def judge_with_cache(
    judge: Judge,
    pairs: Sequence[Pair] | StoredPairs,
    answers: Path,
    progress: Progress = lambda name, done, total: None,
) -> Judged:
    """Put the pairs before one judge; what it answered before is not asked again.

    The judgements are in the order of ``pairs``, those of stored pairs in the order of their ids.
    """
    if isinstance(pairs, Sequence):
        cache = AnswerCache(answers / f"{judge.key}.jsonl")
        report = judge_pairs(judge, pairs, cache, progress=lambda done, total: progress(judge.name, done, total))
        return Judged(judge.name, report)
    found = Judgements()
    for some in judge_blocks(judge, pairs.blocks(), len(pairs), answers, progress):
        found.extend(some)
    found.sort()
    return Judged(judge.name, found)


def judge_blocks(
    judge: Judge,
    blocks: Iterable[Sequence[Pair]],
    count: int,
    answers: Path,
    progress: Progress = lambda name, done, total: None,
) -> Iterator[list[Judgement]]:
    """Yield the judgements of block after block, of ``count`` pairs; no known answer is asked again."""
    cache = AnswerCache(answers / f"{judge.key}.jsonl")
    done, total = 0, 2 * count
    for block in blocks:
        yield judge_pairs(judge, block, cache, progress=partial(_shifted, progress, judge.name, done, total))
        done += 2 * len(block)
        progress(judge.name, done, total)  # pairs of the same content are shown once


def _shifted(progress: Progress, name: str, before: int, total: int, new: int, _: int) -> None:
    progress(name, before + new, total)


def run(state: Pass) -> StageRecord | None:
    """Do the stage for a pass: held-out pairs are always judged, the first training pairs where they are the first that
    show whether the principles are followed.

    Raises:
        PrincipleError: They are not followed, and ``principles.below_chance`` is "refuse".
    """
    context, scores = state.context, state.records["scores"]
    if state.split == "heldout":
        judged = judged_stage(context, scores, "heldout", state.number)
    elif state.checks:
        # The first shard is enough to tell, however many there are.
        scores = dataclasses.replace(scores, files=scores.files[:1])
        judged = judged_stage(context, scores, "train", state.number)
    else:
        return None
    if state.checks and context.store.computes:
        _check_direction(context, scores, judged, "held-out" if state.split == "heldout" else "training")
    return judged


def _check_direction(context: RunContext, scores: StageRecord, judged: StageRecord | None, which: str) -> None:
    """Refuse to train a policy away from what its principles say; what no program or judge can tell is not refused."""
    found = direction_on(context, scores, judged)
    if found is None or not found.refused:
        return
    settings = context.recipe.principles
    what = (
        f"y+ is better than y- in {found.accuracy:.0%} of {found.n} {which} pairs only (by {found.by}): this "
        "model does not follow these principles, and training would teach it the opposite"
    )
    if settings.below_chance == "refuse":
        where = f"principles.set={settings.set}, model={context.recipe.model.name}"
        do = "take another set or a larger model, or set principles.below_chance=warn to continue"
        raise PrincipleError(what, where=where, do=do)
    warnings.warn(what, SelfsteerWarning, stacklevel=2)


def direction_on(context: RunContext, scores: StageRecord, judged: StageRecord | None) -> Direction | None:
    """Return how often y+ is better on the pairs of a scored stage, by program or else by the judge; None: unknown."""
    verdicts = read_json(context.store.run_dir / judged.files[0]) if judged else {}
    return direction_by(list(filter(is_full, context.store.read(scores, Contrast))), context.verdict_fn(verdicts))


def _last_key(context: RunContext, split: Split, round: int) -> str:
    """Return the key of the judge that gave a stage's last verdicts, for a plan that does not run the judge's code."""
    last = context.store.ledger.newest(("judgements", round, split == "heldout"))
    return str(((last and last.depends) or {}).get("judge"))


def judged_stage(context: RunContext, scores: StageRecord, split: Split, round: int) -> StageRecord | None:
    """Put the pairs of a scored stage before the recipe's judge; None where it names none."""
    recipe = context.recipe
    if not recipe.judge.name:
        return None
    # Opened for each stage: a judge's weights should not stay in memory while the policy is trained.
    opens = context.models.runs_code or not runs_code(recipe.judge)
    judge = make_judge(recipe.judge) if opens else None
    name, key = (judge.name, judge.key) if judge else (recipe.judge.name, _last_key(context, split, round))
    rows = list(filter(is_full, context.store.read(scores, Contrast)))

    def write(space: Workspace) -> tuple[list[Path], JudgementsResult]:
        assert judge is not None  # a plan computes nothing
        context.models.free()
        found = judge_rows(context, judge, rows)
        path = space.path("verdicts.json")
        write_json(path, told_by(judge, found))
        return [path], JudgementsResult(judge=judge.name, figures=asdict(agreement(found)))

    def note(record: StageRecord) -> str:
        told = invalid_warning(name, record.info)
        whole = "warning: " if record.info["outcomes"]["invalid"] == record.info["n"] else ""
        return f": {whole}{told}" if told else ""

    return context.store.get_or_compute(
        "judgements", round, {"rows": scores.key, "judge": key, "by": recipe.judge.by}, write, split=split,
        units=2 * len(rows), title=f"ask {name}", note=note,
    )  # fmt: skip
