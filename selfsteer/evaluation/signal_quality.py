"""Is the data right? Accuracy by program and by judge, on-policyness, margins, and what free scores are worth.

No torch here. The claim of the data, that y+ is better, is checked by a program where one can decide, else by a judge,
which is worth what its own figures say. The steering margin shows that the prompts matter, never that y+ is better.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, get_args

import numpy as np

from selfsteer.confidence_intervals import bootstrap, wilson
from selfsteer.evaluation.calibration import calibrate, keep_best, worth
from selfsteer.evaluation.metrics import counted, onpolicyness
from selfsteer.judges.base import Judgement, Outcome, Pair
from selfsteer.principles import PrincipleSet
from selfsteer.quality import contrastive_likelihood, direction_of, steering_margin
from selfsteer.records import PROMPTS, ROLES, Contrast, is_full, is_scored, score

Figures = dict[str, Any]
ProgramOf = Callable[[Contrast], str | None]
"""Names the program that decides the direction of a row, None where none can."""

QUANTILES = (5, 25, 50, 75, 95)
SMALLEST_GROUP = 5
"""Groups of fewer pairs are listed with their size and no figures."""


@dataclass(frozen=True)
class Implicit:
    """Effect of a round's training on the start's held-out pairs.

    Attributes:
        rewards: By row id, the change of the log-prob of y+ under the plain prompt minus that of y-, nats.
        scale: "per token" or "summed".
        judgements: By row id.
    """

    rows: Sequence[Contrast]
    rewards: Mapping[str, float]
    scale: str
    judgements: Mapping[str, Judgement] = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen:
    """For how many queries each aspect and each positive principle was chosen, before anything was sampled."""

    aspects: Mapping[str, int]
    principles: Mapping[str, int]


@dataclass(frozen=True)
class Part:
    """Rows of one policy: a round's training rows, or a policy's held-out ones.

    Attributes:
        rows: Cleaned rows before the filters, those with an empty response included.
        filtered: Whether the filters have run, so that ``kept`` of a row is their result.
        judgements: By row id; a row without one was not judged.
        implicit: The implicit reward after this round, where the run has measured it.
    """

    round: int
    label: str
    rows: Sequence[Contrast]
    filtered: bool
    judgements: Mapping[str, Judgement] = field(default_factory=dict)
    implicit: Implicit | None = None
    chosen: Chosen | None = None


@dataclass(frozen=True)
class CheckedRow:
    """A row with the program and the judgement that decide whether it is right; either may be missing."""

    row: Contrast
    program: str | None
    judgement: Judgement | None

    @property
    def by_program(self) -> int | None:
        """The program's verdict: 1 y+ is better, -1 y- is, 0 a tie; None without a program."""
        return direction_of(self.program, self.row) if self.program else None

    @property
    def by_judge(self) -> int | None:
        """The judge's debiased verdict; None where it was not asked or its answer could not be read."""
        if self.judgement is None or self.judgement.outcome == "invalid":
            return None
        return self.judgement.debiased


def sample_rows(rows: Iterable[Contrast], limit: int | None, seed: int) -> list[Contrast]:
    """Return a random sample of ``limit`` rows by id, all where it is None.

    Every command draws the rows of a run in this way, so equal limits and seeds give the same rows.
    """
    # By a hash of the id, not by the place: a smaller sample is part of a larger one, in whatever order rows come.
    drawn = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}\n{row.id}".encode()).digest())[:limit]
    return sorted(drawn, key=lambda row: row.id)


def pairs_of(
    contrasts: Sequence[Contrast], *, by: Literal["overall", "aspects"], principle_set: PrincipleSet
) -> list[Pair]:
    """Return each row as a pair for judges: y+ first, y- second, and label 1, which is the claim of the data.

    Args:
        contrasts: Rows with both responses.
        by: "overall" leaves the criterion empty; "aspects" makes one of the row's aspects and their meanings, or of the
            good guideline that was written in place of aspects. The set must have the aspects (PrincipleError).
    """
    return [
        Pair(
            id=row.id,
            prompt=row.prompt,
            first=row.positive_response,
            second=row.negative_response,
            label=1,
            criterion=_criterion(row, principle_set) if by == "aspects" else "",
            first_finish=row.positive_finish,
            second_finish=row.negative_finish,
        )
        for row in contrasts
    ]


def _criterion(row: Contrast, principle_set: PrincipleSet) -> str:
    if not row.aspects:  # a guideline was written for this query
        return f"keeping to this guideline: {row.positive_principle}"
    found = [principle_set.aspect(name) for name in row.aspects]
    return " and ".join(f"{aspect.name} ({aspect.meaning})" for aspect in found)


def principles_of(aspects: Sequence[str], principle: str, writing: str | None) -> list[str]:
    """Return the names of a row's good principles: those of a set one by one, each after its aspect.

    Principles written for a single query count together, by the outcome of the writing (None: not recorded).
    """
    if writing not in (None, "fixed"):
        return [f"written for the query ({writing})"]
    lines = principle.split("\n")
    if len(lines) != len(aspects):  # a principle of the set has several lines
        return [principle]
    return [f"{aspect}: {line}" for aspect, line in zip(aspects, lines, strict=True)]


def signal_quality(part: Part, *, program_of: ProgramOf, judge: str = "") -> Figures:
    """Return the figures of a part: all its rows, those the filters kept, its groups, and the free scores by judge."""
    checked = _checked(part.rows, program_of, part.judgements)
    aspects, principles = (part.chosen.aspects, part.chosen.principles) if part.chosen else (None, None)
    # How often the judge agrees with the program. Where the program finds a tie, there is nothing to agree with.
    both = [(one.by_program, one.by_judge) for one in checked if one.by_program]
    agreed = [program * verdict for program, verdict in both if program and verdict is not None]
    return {
        "round": part.round,
        "label": part.label,
        "empty": len(part.rows) - len(checked),
        **_before_and_kept(checked, part.filtered),
        "judge_check": {"n": len(agreed), "program": _programs(checked), **counted(agreed)} if agreed else None,
        "aspects": _groups(part, checked, lambda row: row.aspects, aspects),
        "principles": _groups(
            part,
            checked,
            lambda row: principles_of(row.aspects, row.positive_principle, row.provenance.get("writing")),
            principles,
        ),
        "candidates": _candidates(part, checked, program_of, judge),
    }


def _checked(rows: Iterable[Contrast], program_of: ProgramOf, judgements: Mapping[str, Judgement]) -> list[CheckedRow]:
    return [CheckedRow(row, program_of(row), judgements.get(row.id)) for row in rows if is_full(row)]


def _before_and_kept(checked: Sequence[CheckedRow], filtered: bool) -> Figures:
    kept = [one for one in checked if one.row.kept]
    return {"before": _figures(checked), "kept": _figures(kept) if filtered else None}


def _groups(
    part: Part,
    checked: Sequence[CheckedRow],
    names_of: Callable[[Contrast], Sequence[str]],
    chosen: Mapping[str, int] | None,
) -> list[Figures]:
    """Return the figures of each group, the largest first; a row of several groups counts under each.

    "chosen" counts queries, "passed" all rows of the group, those with an empty response too, and which were kept.
    """
    groups: dict[str, list[CheckedRow]] = {name: [] for name in chosen or ()}
    for one in checked:
        for name in names_of(one.row):
            groups.setdefault(name, []).append(one)
    given = Counter(name for row in part.rows if part.filtered for name in names_of(row))
    kept = Counter(name for row in part.rows if row.kept for name in names_of(row))
    passed = {
        name: {"n": n, "kept": kept[name], "share": kept[name] / n, "interval": wilson(kept[name], n)}
        for name, n in given.items()
    }
    return [
        {
            "name": name,
            "n": len(own),
            "chosen": None if chosen is None else chosen.get(name, 0),
            "passed": passed.get(name),  # None before the filters, and for a group without rows
            **(_before_and_kept(own, part.filtered) if len(own) >= SMALLEST_GROUP else {}),
        }
        for name, own in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _figures(checked: Sequence[CheckedRow]) -> Figures:
    scored = [one.row for one in checked if is_scored(one.row)]
    verdicts = [verdict for one in checked if (verdict := one.by_program) is not None]
    # Of each response under each prompt; a row may lack some of the roles.
    logps = {
        f"{role}_response": {
            prompt: _distribution([score(row, role, prompt) for row in scored if role in row.roles])
            for prompt in PROMPTS
        }
        for role in ROLES
    }
    return {
        "n": len(checked),
        "program": {"program": _programs(checked), "n": len(verdicts), **counted(verdicts)} if verdicts else None,
        "judge": _by_judge([one.judgement for one in checked if one.judgement]),
        "onpolicyness": onpolicyness(scored) if scored else None,
        "steering_margin": _distribution([margin for row in scored if (margin := steering_margin(row)) is not None]),
        "logps": logps if scored else None,
    }


def _by_judge(judgements: Sequence[Judgement]) -> Figures | None:
    """Return the strict and the debiased accuracy; every judged pair counts, also one without a readable answer."""
    if not judgements:
        return None
    outcomes = Counter(judgement.outcome for judgement in judgements)
    return {
        "n": len(judgements),
        "strict": counted([judgement.strict for judgement in judgements]),
        "debiased": counted([judgement.debiased for judgement in judgements]),
        "outcomes": {outcome: outcomes[outcome] for outcome in get_args(Outcome)},
    }


def _programs(checked: Iterable[CheckedRow]) -> str:
    return ", ".join(dict.fromkeys(one.program for one in checked if one.program))


def _distribution(values: Sequence[float]) -> Figures | None:
    if not values:
        return None
    quantiles = np.percentile(values, QUANTILES).tolist()
    return {
        "n": len(values),
        "mean": fmean(values),
        "interval": bootstrap(values),
        "quantiles": {str(name): value for name, value in zip(QUANTILES, quantiles, strict=True)},
    }


# --- the worth of a free score as a filter

Score = Callable[[Contrast], float | None]
"""Higher should mean more likely right; None where the row can't be scored."""


def plain_likelihood(row: Contrast) -> float | None:
    """Return m(y+|x) - m(y-|x), nats per token; None without scores."""
    return score(row, "positive", "prompt") - score(row, "negative", "prompt") if is_scored(row) else None


CANDIDATES: dict[str, Score] = {
    "steering margin": steering_margin,
    "contrastive likelihood (DLMA)": contrastive_likelihood,
    "plain likelihood": plain_likelihood,
}
IMPLICIT = "implicit reward, held-out"


def _candidates(part: Part, checked: Sequence[CheckedRow], program_of: ProgramOf, judge: str) -> list[Figures]:
    """Return the worth of each score against the program's verdicts, then against the judge's."""
    scores: list[tuple[str, Score, Sequence[CheckedRow]]] = [(name, own, checked) for name, own in CANDIDATES.items()]
    if part.implicit:
        rewards, pairs = part.implicit.rewards, _checked(part.implicit.rows, program_of, part.implicit.judgements)
        scores.append((f"{IMPLICIT}, {part.implicit.scale}", lambda row: rewards.get(row.id), pairs))
    found = []
    for truth in ("program", "judge"):
        for name, find, own in scores:
            verdicts = [(one, getattr(one, f"by_{truth}")) for one in own]
            known = [(one, verdict) for one, verdict in verdicts if verdict is not None]
            if known:
                said = f"{judge}, debiased" if truth == "judge" else f"program {_programs(one for one, _ in known)}"
                decided = [(find(one.row), verdict == 1) for one, verdict in known if verdict]
                found.append({"score": name, "truth": said, **_worth(decided, len(own), len(known))})
    return found


def _worth(pairs: Sequence[tuple[float | None, bool]], rows: int, known: int) -> Figures:
    """Return the worth of a score, given its value for each decided pair and whether the pair is right."""
    usable = [(value, right) for value, right in pairs if value is not None and math.isfinite(value)]  # NaN has no rank
    figures = {
        "n": len(usable),
        "wrong": sum(not right for _, right in usable),
        "left_out": {"unknown": rows - known, "tied": known - len(pairs), "unscored": len(pairs) - len(usable)},
    }
    if not usable:
        return figures | {
            "calibration": None,
            "kept": [],
            "worth": "unknown: no pair has both this score and a verdict",
        }
    values, right = zip(*usable, strict=True)
    found = calibrate(values, right)
    return figures | {"calibration": found, "kept": keep_best(values, right), "worth": worth(found)}
