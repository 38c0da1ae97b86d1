"""Guards: the figures of a round in, verdicts out. No files and no torch.

A guard compares the policy that a round trained with the run's start, on the same held-out queries. It fires where the
whole 95 % interval of its figure lies beyond its threshold, so that few queries make it late, not wrong. A guard is
silent, and says so, about a figure that was not measured or was measured on fewer than :data:`FEWEST` queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from selfsteer.confidence_intervals import Interval, bootstrap, bootstrap_statistic, wilson
from selfsteer.config import guards as config
from selfsteer.config.guards import GuardAction, GuardSettings
from selfsteer.evaluation.metrics import Measure

FEWEST = 8
"""Held-out queries below which resampled intervals are too narrow to be believed."""

Standing = Literal["fired", "quiet", "silent"]
_SILENT = f"can't tell: not measured, on fewer than {FEWEST} queries, or the start has no figure to compare with"


@dataclass(frozen=True)
class RoundFigures:
    """The figures that a round is judged by.

    Attributes:
        round: 0 for the start.
        measured: Its policy's held-out figures (:func:`selfsteer.stages.heldout.heldout_measures`); None without any.
        kept: Training rows that the filters kept, and all of them; None for the start and before the filters have run.
        failures: Why the round has no policy, by the guard that it concerns; empty where it has one.
    """

    round: int
    measured: Measure | None = None
    kept: tuple[int, int] | None = None
    failures: Mapping[str, str] = field(default_factory=dict)


class Compared(NamedTuple):
    """The policy of a round beside the run's start and beside the policy that the round began from.

    ``first_kept`` is ``kept`` of the run's first round.
    """

    start: RoundFigures
    before: RoundFigures
    now: RoundFigures
    first_kept: tuple[int, int] | None = None


@dataclass(frozen=True)
class Finding:
    """The verdict of one guard on one round; ``action`` is taken if it fired, ``detail`` has the figures."""

    round: int
    guard: str
    standing: Standing
    action: GuardAction
    detail: str


class Check(NamedTuple):
    """One comparison of a guard: whether it is beyond its threshold, and a sentence with its figures."""

    fired: bool
    detail: str


def check_round(settings: GuardSettings, case: Compared) -> list[Finding]:
    """Return the verdict on a round of each guard that is not ignored."""
    found = []
    for name, check in GUARDS.items():
        guard = getattr(settings, name)
        action: GuardAction = guard.action or settings.action
        if action == "ignore":  # not even computed
            continue
        failed = case.now.failures.get(name)
        checks = [Check(True, failed)] if failed else list(check(guard, case))
        fired = [check for check in checks if check.fired]
        standing: Standing = "fired" if fired else "quiet" if checks else "silent"
        detail = "; ".join(check.detail for check in fired or checks) or _SILENT
        found.append(Finding(case.now.round, name, standing, action, detail))
    return found


def rejects(findings: Sequence[Finding]) -> bool:
    """Return whether a round's policy must not be used: a guard fired that does more than warn."""
    return any(one.standing == "fired" and one.action in ("stop", "rollback") for one in findings)


def best_round(criterion: str, good: Sequence[RoundFigures]) -> int | None:
    """Return which of the good rounds' policies is the run's, by ``guards.best``; of equals the later one.

    The criterion is "last" or a key of :data:`CRITERIA`; rounds without that figure come after all others.
    """
    if not good:
        return None
    # "last" is the default: on few held-out queries the best of several rounds is the luckiest.
    path = CRITERIA.get(criterion)
    values = [_dig(one.measured, *path) if path else None for one in good]
    known = [-math.inf if value is None or math.isnan(value) else value for value in values]
    return max(zip(known, (one.round for one in good), strict=True))[1]


CRITERIA = {
    "signal_accuracy": ("signal", "accuracy"),
    "implicit_accuracy": ("implicit", "accuracy"),
    "onpolicyness": ("onpolicyness", "mean"),
}
"""The held-out figure behind each criterion but "last", by its path in a policy's measures."""


# --- the guards: each yields nothing where it can't tell


def _length(guard: config.LengthGuard, case: Compared) -> Iterator[Check]:
    total, step = _ratio(case.now, case.start), _ratio(case.now, case.before)
    if total:
        yield _check("answers are {} times as long as the start's", total, low=guard.min_ratio, high=guard.max_ratio)
    if step:
        words = "answers are {} times as long as those of the policy that the round began from"
        yield _check(words, step, high=guard.max_ratio_per_round)
    # With a tight token limit lengths can't grow: then the share of cut-off answers shows an explosion.
    cut, first = (_dig(one.measured, "length", "original", "capped_share") for one in (case.now, case.start))
    if cut is not None and first is not None:
        n = _dig(case.now.measured, "n")
        words = "the share of answers cut off at the token limit changed by {}"
        yield _check(words, _rise(cut * n, n, first), high=guard.max_cut_rise)


def _onpolicyness(guard: config.OnpolicynessGuard, case: Compared) -> Iterator[Check]:
    for role, sign in (("positive_response", "y+"), ("negative_response", "y-")):
        now, first = (
            [math.exp(value) for value in _values(one, "mean_logps", role, "prompt", "values")]
            for one in (case.now, case.start)
        )
        if now and any(first):  # exp() of very low log-probs may all be 0
            words = f"on-policyness of {sign} is {{}} times the start's"
            yield _check(words, _relative(now, first), low=guard.min_ratio)


def _steering_margin(guard: config.SteeringMarginGuard, case: Compared) -> Iterator[Check]:
    now, first = (_values(one, "steering_margin", "values") for one in (case.now, case.start))
    if now and first and bootstrap(first)[0] > 0:  # of a margin that may be 0 no multiple means anything
        yield _check("the steering margin is {} times the start's", _relative(now, first), low=guard.min_ratio)


def _signal_accuracy(guard: config.SignalAccuracyGuard, case: Compared) -> Iterator[Check]:
    now, first = (_dig(one.measured, "signal") for one in (case.now, case.start))
    if now and first:
        # A start below min_accuracy is no reason to reject every round that is no worse.
        floor = max(first["accuracy"] - guard.max_drop, min(guard.min_accuracy, first["accuracy"]))
        words = f"y+ is better in {{}} of the pairs, the start's in {first['accuracy']:.2f} (by {now['by']})"
        yield _check(words, (now["accuracy"], now["interval"]), low=floor)


def _kept(guard: config.KeptGuard, case: Compared) -> Iterator[Check]:
    if case.now.kept and case.now.round == 1:
        kept, total = case.now.kept
        yield Check(False, f"the filters kept {kept} of {total} rows, with which later rounds are compared")
    elif case.now.kept and case.first_kept:
        (kept, total), (first, of_first) = case.now.kept, case.first_kept
        words = f"the filters kept {{}} times the share of rows of the first round ({kept} of {total})"
        yield _check(words, _scaled(kept / total, wilson(kept, total), first / of_first), low=guard.min_ratio)


def _repetition(guard: config.RepetitionGuard, case: Compared) -> Iterator[Check]:
    looping, first = (_dig(one.measured, "distinct", "looping") for one in (case.now, case.start))
    if looping is not None and first is not None:
        n = _dig(case.now.measured, "n")
        words = f"the share of answers that loop changed by {{}} ({looping} of {n} loop)"
        yield _check(words, _rise(looping, n, first / _dig(case.start.measured, "n")), high=guard.max_rise)


def _divergence(guard: config.DivergenceGuard, case: Compared) -> Iterator[Check]:
    # KL(start || policy) on the start's own answers: their log-probs under the start are stored already. The other
    # direction would take a pass of the start over every policy's answers.
    figures = _dig(case.now.measured, "divergence")
    if figures and figures["n"] >= FEWEST:
        words = "the start's plain answers became less likely by {} nats per token"
        yield _check(words, (figures["mean"], figures["interval"]), high=guard.max_nats)


def _not_finite(guard: config.NotFiniteGuard, case: Compared) -> Iterator[Check]:
    path = _first_bad(case.now.measured)
    if path:
        yield Check(True, f"the held-out figure {'.'.join(path)} is not finite")
    elif case.now.measured:
        yield Check(False, "the loss, the weights and the held-out figures are finite")


GUARDS: dict[str, Callable[[Any, Compared], Iterator[Check]]] = {
    "length": _length,
    "onpolicyness": _onpolicyness,
    "steering_margin": _steering_margin,
    "signal_accuracy": _signal_accuracy,
    "kept": _kept,
    "repetition": _repetition,
    "divergence": _divergence,
    "not_finite": _not_finite,
}


# --- figures and their intervals

_Figure = tuple[float, Interval]
_ROUNDING = 1e-9  # 16 times 0.05 over 16 is less than 0.05


def _check(words: str, found: _Figure, *, low: float | None = None, high: float | None = None) -> Check:
    """Fire where the whole interval lies below ``low`` or above ``high``; the figure replaces ``{}`` in the words."""
    value, (least, most) = found
    fired = (low is not None and most < low - _ROUNDING) or (high is not None and least > high + _ROUNDING)
    limits = [f"{side} {limit:.3g}" for side, limit in (("below", low), ("above", high)) if limit is not None]
    text = words.replace("{}", f"{value:.2f}", 1)
    return Check(fired, f"{text} (95 % interval {least:.2f} to {most:.2f}; fires {' or '.join(limits)})")


def _ratio(now: RoundFigures, other: RoundFigures) -> _Figure | None:
    """Return the ratio of mean answer lengths over the same queries, which are resampled together."""
    after, before = (np.array(_values(one, "length", "original", "values"), dtype=float) for one in (now, other))
    if not len(after) or len(after) != len(before) or not before.any():
        return None

    def ratio(picks: np.ndarray) -> float:
        total = before[picks].sum()
        return float(after[picks].sum() / total) if total else math.nan

    interval = bootstrap_statistic(ratio, len(after))
    return (ratio(np.arange(len(after))), interval) if interval else None


def _relative(now: Sequence[float], first: Sequence[float]) -> _Figure:
    """Return a mean and its interval as multiples of the start's mean, which counts as exact."""
    return _scaled(sum(now) / len(now), bootstrap(now), sum(first) / len(first))


def _scaled(value: float, interval: Interval, unit: float) -> _Figure:
    return value / unit, (interval[0] / unit, interval[1] / unit)


def _rise(count: float, n: int, before: float) -> _Figure:
    """Return by how much a share lies above another one, which counts as exact."""
    low, high = wilson(count, n)
    return count / n - before, (low - before, high - before)


def _values(one: RoundFigures, *path: str) -> list[float]:
    """Return a list of the measures; empty where it is missing or shorter than :data:`FEWEST`."""
    found = _dig(one.measured, *path)
    return found if isinstance(found, list) and len(found) >= FEWEST else []


def _dig(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _first_bad(value: Any, path: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the path of the first number in nested figures that is not finite, () where all are."""
    if isinstance(value, float):  # integers and bools are finite
        return () if math.isfinite(value) else path
    if isinstance(value, dict):
        items: Any = ((str(name), item) for name, item in value.items())
    else:
        items = enumerate(value) if isinstance(value, list | tuple) else ()
    return next((bad for name, item in items if (bad := _first_bad(item, (*path, str(name))))), ())
