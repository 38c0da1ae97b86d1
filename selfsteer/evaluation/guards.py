"""Guards: the figures of a round in, verdicts out. No files and no torch.

A guard compares the policy that a round trained with the run's start, on the same held-out queries. It fires where the
whole 95 % interval of its figure lies beyond its threshold, so that few queries make it slow, never trigger-happy. What
was not measured, or on fewer than :data:`FEWEST` queries, leaves it silent, and it says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from selfsteer.confidence_intervals import Interval, bootstrap, bootstrap_statistic, wilson
from selfsteer.config import (
    DivergenceGuard,
    GuardAction,
    GuardSettings,
    KeptGuard,
    LengthGuard,
    OnpolicynessGuard,
    RepetitionGuard,
    SignalAccuracyGuard,
    SteeringMarginGuard,
)
from selfsteer.evaluation.metrics import Measure

FEWEST = 8
"""Held-out queries below which resampled intervals are too narrow to be believed."""

Standing = Literal["fired", "quiet", "silent"]
_SILENT = f"can't tell: not measured, on fewer than {FEWEST} queries, or the start gives nothing to compare with"


@dataclass(frozen=True)
class RoundFigures:
    """What a round left to be judged by.

    Attributes:
        round: 0 for the start.
        measured: Its policy's held-out figures, as ``selfsteer.stages.heldout.heldout_measures`` returns them; None where
            there are none.
        kept: Training rows that the filters kept, and all of them; None for the start and where it did not come so far.
        failures: Why the round came to no policy, by the guard that it concerns; empty where it did.
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
    """What one guard says of one round; ``action`` is what its firing does, ``detail`` a sentence with the figures."""

    round: int
    guard: str
    standing: Standing
    action: GuardAction
    detail: str


class _Check(NamedTuple):
    fired: bool
    detail: str


def check_round(settings: GuardSettings, of: Compared) -> list[Finding]:
    """Return what each guard that is not ignored says of a round."""
    found = []
    for name, look in GUARDS.items():
        guard = getattr(settings, name)
        action: GuardAction = guard.action or settings.action
        if action == "ignore":
            continue
        failed = of.now.failures.get(name)
        checks = [_Check(True, failed)] if failed else list(look(guard, of))
        fired = [check for check in checks if check.fired]
        standing: Standing = "fired" if fired else "quiet" if checks else "silent"
        detail = "; ".join(check.detail for check in fired or checks) or _SILENT
        found.append(Finding(of.now.round, name, standing, action, detail))
    return found


def given_up(findings: Sequence[Finding]) -> bool:
    """Return whether a round's policy is not to be used: a guard fired that does more than warn."""
    return any(one.standing == "fired" and one.action in ("stop", "rollback") for one in findings)


def best_round(criterion: str, good: Sequence[RoundFigures]) -> int | None:
    """Return which of the good rounds' policies is the run's, by ``guards.best``; of equals the later one.

    Args:
        criterion: "last", or a key of :data:`CRITERIA`; rounds without that figure come after all others.
        good: The good rounds in their order, without the start.
    """
    if not good:
        return None
    path = CRITERIA.get(criterion, ())
    values = [_dig(one.measured, *path) if path else None for one in good]
    known = [-math.inf if value is None or math.isnan(value) else value for value in values]
    return max(zip(known, (one.round for one in good), strict=True))[1]


CRITERIA = {
    "signal_accuracy": ("signal", "accuracy"),
    "implicit_accuracy": ("implicit", "accuracy"),
    "onpolicyness": ("onpolicyness", "mean"),
}
"""Where the held-out figure of each criterion but "last" stands in a policy's measures."""


# --- the guards


def _length(guard: LengthGuard, of: Compared) -> Iterator[_Check]:
    total, step = _ratio(of.now, of.start), _ratio(of.now, of.before)
    if total:
        yield _check("answers are {} times as long as the start's", total, low=guard.min_ratio, high=guard.max_ratio)
    if step:
        words = "answers are {} times as long as those of the policy that the round began from"
        yield _check(words, step, high=guard.max_ratio_per_round)
    cut, first = (_dig(one.measured, "length", "original", "capped_share") for one in (of.now, of.start))
    if cut is not None and first is not None:
        n = _dig(of.now.measured, "n")
        words = "the share of answers cut off at the token limit changed by {}"
        yield _check(words, _rise(cut * n, n, first), high=guard.max_cut_rise)


def _onpolicyness(guard: OnpolicynessGuard, of: Compared) -> Iterator[_Check]:
    for role, sign in (("positive_response", "y+"), ("negative_response", "y-")):
        now, first = (_chances(one, role) for one in (of.now, of.start))
        if now and any(first):
            words = f"on-policyness of {sign} is {{}} times the start's"
            yield _check(words, _relative(now, first), low=guard.min_ratio)


def _steering_margin(guard: SteeringMarginGuard, of: Compared) -> Iterator[_Check]:
    now, first = (_values(one, "steering_margin", "values") for one in (of.now, of.start))
    if now and first and bootstrap(first)[0] > 0:
        yield _check("the steering margin is {} times the start's", _relative(now, first), low=guard.min_ratio)


def _signal_accuracy(guard: SignalAccuracyGuard, of: Compared) -> Iterator[_Check]:
    now, first = (_dig(one.measured, "signal") for one in (of.now, of.start))
    if now and first:
        floor = max(first["accuracy"] - guard.max_drop, min(guard.min_accuracy, first["accuracy"]))
        words = f"y+ is better in {{}} of the pairs, the start's in {first['accuracy']:.2f} (by {now['by']})"
        yield _check(words, (now["accuracy"], now["interval"]), low=floor)


def _kept(guard: KeptGuard, of: Compared) -> Iterator[_Check]:
    if of.now.kept and of.now.round == 1:
        yield _Check(False, "what the filters kept, {} of {} rows, is what later rounds go by".format(*of.now.kept))
    elif of.now.kept and of.first_kept:
        (kept, total), (first, of_first) = of.now.kept, of.first_kept
        words = f"the filters kept {{}} times the share of rows of the first round ({kept} of {total})"
        yield _check(words, _scaled(kept / total, wilson(kept, total), first / of_first), low=guard.min_ratio)


def _repetition(guard: RepetitionGuard, of: Compared) -> Iterator[_Check]:
    looping, first = (_dig(one.measured, "distinct", "looping") for one in (of.now, of.start))
    if looping is not None and first is not None:
        n = _dig(of.now.measured, "n")
        words = f"the share of answers that loop changed by {{}} ({looping} of {n} loop)"
        yield _check(words, _rise(looping, n, first / _dig(of.start.measured, "n")), high=guard.max_rise)


def _divergence(guard: DivergenceGuard, of: Compared) -> Iterator[_Check]:
    figures = _dig(of.now.measured, "divergence")
    if figures and figures["n"] >= FEWEST:
        words = "the start's plain answers became less likely by {} nats per token"
        yield _check(words, (figures["mean"], figures["interval"]), high=guard.max_nats)


def _not_finite(guard: Any, of: Compared) -> Iterator[_Check]:
    path = _first_bad(of.now.measured)
    if path:
        yield _Check(True, f"the held-out figure {'.'.join(path)} is not finite")
    elif of.now.measured:
        yield _Check(False, "the loss, the weights and the held-out figures are finite")


GUARDS: dict[str, Callable[[Any, Compared], Iterator[_Check]]] = {
    "length": _length,
    "onpolicyness": _onpolicyness,
    "steering_margin": _steering_margin,
    "signal_accuracy": _signal_accuracy,
    "kept": _kept,
    "repetition": _repetition,
    "divergence": _divergence,
    "not_finite": _not_finite,
}
"""Each takes its settings; it gives nothing where it can't tell."""


# --- figures and their intervals

_Figure = tuple[float, Interval]
_ROUNDING = 1e-9  # 16 times 0.05 over 16 is less than 0.05


def _check(words: str, found: _Figure, *, low: float | None = None, high: float | None = None) -> _Check:
    """Fire where the whole interval lies below ``low`` or above ``high``; ``{}`` in the words stands for the figure."""
    value, (least, most) = found
    fired = (low is not None and most < low - _ROUNDING) or (high is not None and least > high + _ROUNDING)
    limits = [f"{side} {limit:.3g}" for side, limit in (("below", low), ("above", high)) if limit is not None]
    told = words.replace("{}", f"{value:.2f}", 1)
    return _Check(fired, f"{told} (95 % interval {least:.2f} to {most:.2f}; fires {' or '.join(limits)})")


def _ratio(now: RoundFigures, other: RoundFigures) -> _Figure | None:
    """Return the ratio of mean answer lengths over the same queries, which are resampled together."""
    lengths = [np.array(_values(one, "length", "original", "values"), dtype=float) for one in (now, other)]
    after, before = lengths
    if not len(after) or len(after) != len(before) or not before.any():
        return None

    def ratio(picks: np.ndarray) -> float:
        total = before[picks].sum()
        return float(after[picks].sum() / total) if total else math.nan

    interval = bootstrap_statistic(ratio, len(after))
    return (ratio(np.arange(len(after))), interval) if interval else None


def _relative(now: Sequence[float], first: Sequence[float]) -> _Figure:
    """Return a mean and its interval as multiples of the start's mean, which is taken as it is."""
    return _scaled(sum(now) / len(now), bootstrap(now), sum(first) / len(first))


def _scaled(value: float, interval: Interval, unit: float) -> _Figure:
    return value / unit, (interval[0] / unit, interval[1] / unit)


def _rise(count: float, n: int, before: float) -> _Figure:
    """Return by how much a share lies above another one, which is taken as it is."""
    low, high = wilson(count, n)
    return count / n - before, (low - before, high - before)


def _chances(one: RoundFigures, role: str) -> list[float]:
    return [math.exp(value) for value in _values(one, "mean_logps", role, "prompt", "values")]


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
    if isinstance(value, float):
        return () if math.isfinite(value) else path
    if isinstance(value, dict):
        items: Any = ((str(name), item) for name, item in value.items())
    else:
        items = enumerate(value) if isinstance(value, list | tuple) else ()
    return next((bad for name, item in items if (bad := _first_bad(item, (*path, str(name))))), ())
