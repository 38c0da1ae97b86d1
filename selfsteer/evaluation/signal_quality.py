"""Is the data right? Accuracy by program and by judge, on-policyness, margins, and what free scores are worth.

No torch here. The claim of the data, that y+ is better, is checked by a program where one can decide, else by a judge,
which is worth what its own figures say. The steering margin shows that the prompts matter, never that y+ is better.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any, Literal

import numpy as np

from selfsteer.confidence_intervals import bootstrap, wilson
from selfsteer.evaluation.calibration import calibrate, keep_best, worth
from selfsteer.evaluation.metrics import counted, onpolicyness
from selfsteer.evaluation.row_table import CANDIDATES, OUTCOMES, UNKNOWN, ProgramOf, RowTable
from selfsteer.judges.base import Judgement, Pair
from selfsteer.principles import PrincipleSet
from selfsteer.records import PROMPTS, ROLES, Contrast

Figures = dict[str, Any]

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
        rows: Cleaned rows before the filters, those with an empty response included. They may be in files
            (:class:`StoredRows`), so each pass over them reads them again.
        filtered: Whether the filters have run, so that ``kept`` of a row is their result.
        judgements: By row id; a row without one was not judged.
        implicit: The implicit reward after this round, where the run has measured it.
    """

    round: int
    label: str
    rows: Collection[Contrast]
    filtered: bool
    judgements: Mapping[str, Judgement] = field(default_factory=dict)
    implicit: Implicit | None = None
    chosen: Chosen | None = None


def sample_rows(rows: Iterable[Contrast], limit: int | None, seed: int) -> list[Contrast]:
    """Return a random sample of ``limit`` rows, all where it is None, by id and in the order of the ids."""
    found = {row.id: row for row in rows}
    return [found[name] for name in sorted(sample_ids(found, limit, seed))]


def sample_ids(ids: Iterable[str], limit: int | None, seed: int) -> set[str]:
    """Return a random sample of ``limit`` of some rows' ids, all where it is None.

    Every command draws the rows of a run in this way, so equal limits and seeds give the same rows.
    """
    # By a hash of the id, not by the place: a smaller sample is part of a larger one, in whatever order rows come.
    if limit is None:
        return set(ids)
    return set(heapq.nsmallest(limit, ids, key=lambda name: hashlib.sha256(f"{seed}\n{name}".encode()).digest()))


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


def signal_quality(part: Part, *, program_of: ProgramOf, judge: str = "") -> Figures:
    """Return the figures of a part: all its rows, those the filters kept, its groups, and the free scores by judge."""
    table = RowTable.of(part.rows, program_of, part.judgements)
    implicit = part.implicit
    start = RowTable.of(implicit.rows, program_of, implicit.judgements) if implicit else None
    return table_figures(part, table, np.arange(len(table)), start, judge=judge)


def table_figures(
    part: Part, table: RowTable, rows: np.ndarray, start: RowTable | None = None, *, judge: str = ""
) -> Figures:
    """Return the figures of a part as :func:`signal_quality` does, for rows that were read into a table.

    Args:
        part: Its own rows and judgements are not used.
        rows: The places of the rows, in the order in which they are resampled.
        start: The table of the implicit reward's pairs.
    """
    checked = rows[table.column("full")[rows]]
    aspects, principles = (part.chosen.aspects, part.chosen.principles) if part.chosen else (None, None)
    # How often the judge agrees with the program. Where the program finds a tie, there is nothing to agree with.
    by_program, by_judge = table.column("by_program"), table.column("by_judge")
    both = checked[np.isin(by_program[checked], (1, -1)) & (by_judge[checked] != UNKNOWN)]
    agreed = by_program[both] * by_judge[both]
    programs = table.named_programs(checked)
    return {
        "round": part.round,
        "label": part.label,
        "empty": len(rows) - len(checked),
        **_before_and_kept(table, checked, part.filtered),
        "judge_check": {"n": len(agreed), "program": ", ".join(programs), **counted(agreed)} if len(agreed) else None,
        "aspects": _groups(part, table, rows, "aspects", aspects),
        "principles": _groups(part, table, rows, "principles", principles),
        "candidates": _candidates(part.implicit, table, checked, start, judge),
    }


def _before_and_kept(table: RowTable, checked: np.ndarray, filtered: bool) -> Figures:
    kept = _figures(table, checked[table.column("kept")[checked]]) if filtered else None
    return {"before": _figures(table, checked), "kept": kept}


def _groups(
    part: Part, table: RowTable, rows: np.ndarray, grouping: str, chosen: Mapping[str, int] | None
) -> list[Figures]:
    """Return the figures of each group, the largest first; a row of several groups counts under each.

    "chosen" counts queries, "passed" all rows of the group, those with an empty response too, and which were kept.
    """
    full, kept = table.column("full"), table.column("kept")
    groups = table.groups(grouping, rows)
    checked = {name: members[full[members]] for name, members in groups.items()}
    empty = rows[:0]
    checked = dict.fromkeys(chosen or (), empty) | {name: own for name, own in checked.items() if len(own)}
    passed = {}
    for name, members in groups.items() if part.filtered else ():
        n, left = len(members), int(kept[members].sum())
        passed[name] = {"n": n, "kept": left, "share": left / n, "interval": wilson(left, n)}
    return [
        {
            "name": name,
            "n": len(own),
            "chosen": None if chosen is None else chosen.get(name, 0),
            "passed": passed.get(name),  # None before the filters, and for a group without rows
            **(_before_and_kept(table, own, part.filtered) if len(own) >= SMALLEST_GROUP else {}),
        }
        for name, own in sorted(checked.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _figures(table: RowTable, checked: np.ndarray) -> Figures:
    scored = checked[table.column("scored")[checked]]
    verdicts = table.column("by_program")[checked]
    verdicts = verdicts[verdicts != UNKNOWN]
    # Of each response under each prompt; a row may lack some of the roles.
    logps = {
        f"{role}_response": {
            prompt: _distribution(table.scores(role, prompt)[scored[table.column(role)[scored]]]) for prompt in PROMPTS
        }
        for role in ROLES
    }
    programs = ", ".join(table.named_programs(checked))
    own = [table.scores(role, "prompt")[scored] for role in ("positive", "negative")]
    margins = table.column("steering margin")[scored[table.column("has_margin")[scored]]]
    return {
        "n": len(checked),
        "program": {"program": programs, "n": len(verdicts), **counted(verdicts)} if len(verdicts) else None,
        "judge": _by_judge(table, checked),
        "onpolicyness": onpolicyness(*own) if len(scored) else None,
        "steering_margin": _distribution(margins),
        "logps": logps if len(scored) else None,
    }


def _by_judge(table: RowTable, checked: np.ndarray) -> Figures | None:
    """Return the strict and the debiased accuracy; every judged pair counts, also one without a readable answer."""
    outcomes = table.column("outcome")
    judged = checked[outcomes[checked] >= 0]
    if not len(judged):
        return None
    return {
        "n": len(judged),
        "strict": counted(table.column("strict")[judged]),
        "debiased": counted(table.column("debiased")[judged]),
        "outcomes": {outcome: int((outcomes[judged] == place).sum()) for place, outcome in enumerate(OUTCOMES)},
    }


def _distribution(values: np.ndarray) -> Figures | None:
    if not len(values):
        return None
    quantiles = np.percentile(values, QUANTILES).tolist()
    return {
        "n": len(values),
        "mean": fmean(values.data),
        "interval": bootstrap(values),
        "quantiles": {str(name): value for name, value in zip(QUANTILES, quantiles, strict=True)},
    }


# --- the worth of a free score as a filter

IMPLICIT = "implicit reward, held-out"


def _candidates(
    implicit: Implicit | None, table: RowTable, checked: np.ndarray, start: RowTable | None, judge: str
) -> list[Figures]:
    """Return the worth of each score against the program's verdicts, then against the judge's."""
    scores = [(name, partial(table.column, name), table, checked) for name in CANDIDATES]
    if implicit and start is not None:
        values = partial(start.values, implicit.rewards)
        scores.append((f"{IMPLICIT}, {implicit.scale}", values, start, np.flatnonzero(start.column("full"))))
    found = []
    for truth in ("program", "judge"):
        for name, values, source, own in scores:
            verdicts = source.column(f"by_{truth}")
            known = own[verdicts[own] != UNKNOWN]
            if len(known):
                programs = ", ".join(source.named_programs(known))
                said = f"{judge}, debiased" if truth == "judge" else f"program {programs}"
                decided = known[verdicts[known] != 0]
                worths = _worth(values()[decided], verdicts[decided] == 1, len(own), len(known))
                found.append({"score": name, "truth": said, **worths})
    return found


def _worth(values: np.ndarray, right: np.ndarray, rows: int, known: int) -> Figures:
    """Return the worth of a score, given its value for each decided pair and whether the pair is right."""
    usable = np.isfinite(values)  # NaN, which also stands for none, has no rank
    decided, values, right = len(values), values[usable], right[usable]
    figures = {
        "n": len(values),
        "wrong": int((~right).sum()),
        "left_out": {"unknown": rows - known, "tied": known - decided, "unscored": decided - len(values)},
    }
    if not len(values):
        return figures | {
            "calibration": None,
            "kept": [],
            "worth": "unknown: no pair has both this score and a verdict",
        }
    found = calibrate(values, right)
    return figures | {"calibration": found, "kept": keep_best(values, right), "worth": worth(found)}
