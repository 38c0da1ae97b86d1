"""Is the data right? Accuracy by program and by judge, on-policyness, margins, and what free scores are worth.

No torch here. What the data claims, that y+ is better, is checked by a program where one can tell, else by a judge,
whose word is worth what its own figures say. The steering margin says that the prompts matter, never that y+ is better.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
"""Names the program that tells the direction of a row, None where none can."""

QUANTILES = (5, 25, 50, 75, 95)
KEEP_SHARES = (0.25, 0.5, 0.75, 1.0)
SMALLEST_GROUP = 5
"""Groups of fewer pairs are listed with their size and no figures."""


@dataclass(frozen=True)
class Implicit:
    """What a round's training changed for the start's held-out pairs.

    Attributes:
        rows: The pairs.
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
    """How often what was chosen, before anything was sampled."""

    aspects: Mapping[str, int]
    principles: Mapping[str, int]


@dataclass(frozen=True)
class Part:
    """Rows of one policy: a round's training rows, or a policy's held-out ones.

    Attributes:
        round: The round.
        label: For tables.
        rows: Cleaned rows before the filters, those with an empty response included.
        filtered: Whether ``kept`` says what the filters left; False where they have not run.
        judgements: By row id; a row without one was not judged.
        implicit: The implicit reward after this round, where the run has measured it.
        chosen: How many queries each aspect, and each positive principle, was chosen for; None where nobody knows.
    """

    round: int
    label: str
    rows: Sequence[Contrast]
    filtered: bool
    judgements: Mapping[str, Judgement] = field(default_factory=dict)
    implicit: Implicit | None = None
    chosen: Chosen | None = None


@dataclass(frozen=True)
class Told:
    """A row with who can tell whether it is right: a program, a judge, both or nobody."""

    row: Contrast
    program: str | None
    judgement: Judgement | None

    @property
    def by_program(self) -> int | None:
        """The program's verdict: 1 y+ is better, -1 y- is, 0 a tie; None without a program."""
        return direction_of(self.program, self.row) if self.program else None

    @property
    def by_judge(self) -> int | None:
        """The judge's debiased verdict; None where it was not asked or gave no answer that could be read."""
        if self.judgement is None or self.judgement.outcome == "invalid":
            return None
        return self.judgement.debiased


def pairs_of(
    contrasts: Sequence[Contrast], *, by: Literal["overall", "aspects"], principle_set: PrincipleSet
) -> list[Pair]:
    """Return each row as a pair for judges: y+ first, y- second, and label 1, which is what the data claims.

    Args:
        contrasts: Rows with both responses.
        by: "overall" leaves the criterion empty; "aspects" makes one of the row's aspects and their meanings, or of the
            good guideline that was written in place of aspects.
        principle_set: Where the meanings stand.

    Raises:
        PrincipleError: The set lacks an aspect of a row.
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


def signal_quality(parts: Sequence[Part], *, program_of: ProgramOf, judge: str = "") -> list[Figures]:
    """Return the figures of each part: all its rows, what the filters kept, its groups, and the candidate scores.

    Args:
        parts: What was read and judged.
        program_of: Names each row's program.
        judge: Name of the judge, for the candidates' table.
    """
    return [_part(part, program_of, judge) for part in parts]


def _criterion(row: Contrast, principle_set: PrincipleSet) -> str:
    if not row.aspects:  # a guideline was written for this query
        return f"keeping to this guideline: {row.positive_principle}"
    found = [principle_set.aspect(name) for name in row.aspects]
    return " and ".join(f"{aspect.name} ({aspect.meaning})" for aspect in found)


def principles_of(aspects: Sequence[str], principle: str, writing: str | None) -> list[str]:
    """Return the names of a row's good principles: those of a set one by one, each behind its aspect.

    Those that were written for one query each count together, by their outcome.

    Args:
        aspects: Of the row.
        principle: What the row states, a line an aspect.
        writing: How it came about; None where nobody noted it.
    """
    if writing not in (None, "fixed"):
        return [f"written for the query ({writing})"]
    lines = principle.split("\n")
    if len(lines) != len(aspects):  # a set's principle has lines of its own
        return [principle]
    return [f"{aspect}: {line}" for aspect, line in zip(aspects, lines, strict=True)]


def _principles(row: Contrast) -> list[str]:
    return principles_of(row.aspects, row.positive_principle, row.provenance.get("writing"))


def _part(part: Part, program_of: ProgramOf, judge: str) -> Figures:
    told = _told(part.rows, program_of, part.judgements)
    aspects, principles = (part.chosen.aspects, part.chosen.principles) if part.chosen else (None, None)
    return {
        "round": part.round,
        "label": part.label,
        "empty": len(part.rows) - len(told),
        **_both(told, part.filtered),
        "judge_check": _judge_check(told),
        "aspects": _groups(part, told, lambda row: row.aspects, aspects),
        "principles": _groups(part, told, _principles, principles),
        "candidates": _candidates(told, part.implicit, program_of, judge),
    }


def _told(rows: Iterable[Contrast], program_of: ProgramOf, judgements: Mapping[str, Judgement]) -> list[Told]:
    return [Told(row, program_of(row), judgements.get(row.id)) for row in rows if is_full(row)]


def _both(told: Sequence[Told], filtered: bool) -> Figures:
    """Return the figures before the filters and of what they kept, None where they have not run."""
    kept = [one for one in told if one.row.kept]
    return {"before": _figures(told), "kept": _figures(kept) if filtered else None}


def _groups(
    part: Part, told: Sequence[Told], names_of: Callable[[Contrast], Sequence[str]], chosen: Mapping[str, int] | None
) -> list[Figures]:
    """Return the figures of each group, the largest first; a row of several groups counts under each.

    "chosen" counts queries, "passed" all rows of the group, those with an empty response too, and which were kept.
    """
    groups: dict[str, list[Told]] = {name: [] for name in chosen or ()}
    for one in told:
        for name in names_of(one.row):
            groups.setdefault(name, []).append(one)
    passed = _passed(part, names_of) if part.filtered else {}
    return [
        {
            "name": name,
            "n": len(own),
            "chosen": None if chosen is None else chosen.get(name, 0),
            "passed": passed.get(name),
            **(_both(own, part.filtered) if len(own) >= SMALLEST_GROUP else {}),
        }
        for name, own in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _passed(part: Part, names_of: Callable[[Contrast], Sequence[str]]) -> dict[str, Figures]:
    """Return how many rows of each group the filters were given and kept, with the 95 % interval of the share."""
    given: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for row in part.rows:
        given.update(names_of(row))
        kept.update(names_of(row) if row.kept else ())
    return {
        name: {"n": n, "kept": kept[name], "share": kept[name] / n, "interval": wilson(kept[name], n)}
        for name, n in given.items()
    }


def _figures(told: Sequence[Told]) -> Figures:
    scored = [one.row for one in told if is_scored(one.row)]
    margins = [margin for row in scored if (margin := steering_margin(row)) is not None]
    return {
        "n": len(told),
        "program": _by_program(told),
        "judge": _by_judge([one.judgement for one in told if one.judgement]),
        "onpolicyness": onpolicyness(scored) if scored else None,
        "steering_margin": _distribution(margins),
        "logps": _logps(scored) if scored else None,
    }


def _by_program(told: Sequence[Told]) -> Figures | None:
    verdicts = [verdict for one in told if (verdict := one.by_program) is not None]
    if not verdicts:
        return None
    return {"program": _programs(told), "n": len(verdicts), **counted(verdicts)}


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


def _judge_check(told: Sequence[Told]) -> Figures | None:
    """Check the judge by the program: in how many of the pairs that both tell about does it say the same?

    Pairs in which the program finds a tie are left out; there the judge would have nothing to agree with.
    """
    both = [(one.by_program, one.by_judge) for one in told if one.by_program]
    products = [program * judge for program, judge in both if program and judge is not None]
    return {"n": len(products), "program": _programs(told), **counted(products)} if products else None


def _programs(told: Iterable[Told]) -> str:
    return ", ".join(dict.fromkeys(one.program for one in told if one.program))


def _logps(rows: Sequence[Contrast]) -> Figures:
    """Return the distribution of the mean log-prob of each response under each prompt, nats per token."""
    return {
        f"{role}_response": {
            prompt: _distribution([score(row, role, prompt) for row in rows if role in row.roles]) for prompt in PROMPTS
        }
        for role in ROLES
    }


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


# --- what a free score is worth as a filter

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


def _candidates(told: Sequence[Told], implicit: Implicit | None, program_of: ProgramOf, judge: str) -> list[Figures]:
    """Return what each score is worth against each truth there is."""
    scores: list[tuple[str, Score, Sequence[Told]]] = [(name, found, told) for name, found in CANDIDATES.items()]
    if implicit:
        pairs = _told(implicit.rows, program_of, implicit.judgements)
        scores.append((f"{IMPLICIT}, {implicit.scale}", lambda row: implicit.rewards.get(row.id), pairs))
    by_program = [_candidate(name, own, found, lambda one: one.by_program, "") for name, found, own in scores]
    by_judge = [
        _candidate(name, own, found, lambda one: one.by_judge, f"{judge}, debiased") for name, found, own in scores
    ]
    return [found for found in [*by_program, *by_judge] if found is not None]


def _candidate(
    name: str, told: Sequence[Told], find: Score, verdict_of: Callable[[Told], int | None], truth: str
) -> Figures | None:
    """Compare one score with one truth; None where that truth is known of no row."""
    known = [(one, verdict) for one in told if (verdict := verdict_of(one)) is not None]
    if not known:
        return None
    pairs = [(find(one.row), verdict == 1) for one, verdict in known if verdict]
    usable = [(value, right) for value, right in pairs if value is not None and math.isfinite(value)]
    return {
        "score": name,
        "truth": truth or f"program {_programs(one for one, _ in known)}",
        "n": len(usable),
        "wrong": sum(not right for _, right in usable),
        "left_out": {
            "unknown": len(told) - len(known),
            "tied": len(known) - len(pairs),
            "unscored": len(pairs) - len(usable),
        },
        **_worth(usable),
    }


def _worth(usable: Sequence[tuple[float, bool]]) -> Figures:
    if not usable:
        return {"calibration": None, "kept": [], "worth": "unknown: no pair has both this score and a verdict"}
    values, right = [value for value, _ in usable], [verdict for _, verdict in usable]
    found = calibrate(values, right)
    kept = [asdict(keep_best(values, right, share)) for share in KEEP_SHARES]
    return {"calibration": asdict(found), "kept": kept, "worth": worth(found)}
