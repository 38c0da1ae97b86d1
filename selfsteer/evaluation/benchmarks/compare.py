"""Compares the results of several models, item by item: differences to the first one with intervals and p-values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from selfsteer.errors import DataError
from selfsteer.evaluation.benchmarks.read_results import ModelResult, Scored, StoredBenchmark, StoredMetric
from selfsteer.evaluation.benchmarks.table import model_benchmarks
from selfsteer.significance import difference, holm, mcnemar, resampled_means, smallest_difference

_SMALLEST_STRATUM = 20
"""Clusters. A stratum of n resamples itself with (n - 1) / n of its variance, which small ones would lose."""
_SAME = 0.01
"""By how much a figure may differ from the mean of its items' scores, in its own unit: files may hold it rounded."""


@dataclass(frozen=True)
class Change:
    """The difference between a model and the first one by one metric, on the items that both have a score for.

    Attributes:
        n, clusters: Common items, and how many of them are independent.
        value: Difference, in the metric's unit; None where no item is common.
        low, high, error, p: As of :class:`selfsteer.significance.Difference`; None where items can't be paired.
        mcnemar: Exact p-value for independent scores of 0 and 1, None for others.
        holm: p-value adjusted for the number of benchmarks, of ``mcnemar`` where there is one, else of ``p``; only for
            official metrics.
        smallest: The smallest true difference that so many items show with 80 % power.
        only_first, only_this: Items that only one of the two has a score for.
        why: Why there is no interval, "" where there is one.
    """

    n: int
    clusters: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    p: float | None = None
    mcnemar: float | None = None
    holm: float | None = None
    smallest: float | None = None
    only_first: list[str] = field(default_factory=list)
    only_this: list[str] = field(default_factory=list)
    why: str = ""


@dataclass(frozen=True)
class Figure:
    """A model's figure by one metric; ``change`` is None for the first model, and where that has no such figure."""

    value: float
    low: float | None
    high: float | None
    error: float | None
    change: Change | None = None


@dataclass(frozen=True)
class Standing:
    """How much of a benchmark a model has done.

    Attributes:
        length: Mean characters an answer, None where the file does not say.
        cut_off: Answers that the token limit cut off, as a share.
    """

    expected: int
    scored: int
    incomplete: bool
    invalid: Mapping[str, int]
    length: float | None
    cut_off: float | None


@dataclass(frozen=True)
class ComparedBenchmark:
    """A benchmark and what each model reached in it, None for a model that was not evaluated on it.

    Attributes:
        judge: Who judged all of them, "" where a program did.
        metrics: By name, the official one first: one entry a model.
    """

    name: str
    title: str
    unit: str
    chance: float | None
    judge: str
    models: list[Standing | None]
    metrics: Mapping[str, list[Figure | None]]


@dataclass(frozen=True)
class Comparison:
    """All models' figures; the first one is what the others are compared with."""

    models: list[str]
    sources: list[str]
    benchmarks: list[ComparedBenchmark]


def compare(results: Sequence[ModelResult]) -> Comparison:
    """Return the figures of models, and each one's differences to the first.

    Raises:
        DataError: Two models were evaluated with different data, protocols or judges.
    """
    names = list(dict.fromkeys(name for one in results for name in one.benchmarks))
    if problems := [problem for name in names for problem in _differences(name, results)]:
        do = "evaluate them again in the same way, or name other benchmarks with --suite"
        raise DataError(f"the results can't be compared: {'; '.join(problems)}", where=results[0].source, do=do)
    benchmarks = [_compared(name, results) for name in names]
    adjusted = [_adjusted(benchmarks, place) for place in range(len(results))]
    benchmarks = [_with_holm(one, [values.get(one.name) for values in adjusted]) for one in benchmarks]
    return Comparison([one.label for one in results], [one.source for one in results], benchmarks)


def _differences(name: str, results: Sequence[ModelResult]) -> Iterator[str]:
    """Yield in what the results of a benchmark differ that must be the same."""
    having = [(one.label, one.benchmarks[name]) for one in results if name in one.benchmarks]
    first, base = having[0]
    facts = model_benchmarks().get(name)
    optional = {file for file, versions in facts.files.items() if versions[0].optional} if facts else set()
    for label, other in having[1:]:
        both = f"of {first} and {label}"
        if base.protocol != other.protocol:
            yield f"{name}: the protocols {both} differ ({base.protocol!r}, {other.protocol!r})"
        for part in sorted(base.versions.keys() | other.versions.keys()):
            one, two = base.versions.get(part, "none"), other.versions.get(part, "none")
            if one != two:
                yield f"{name}: the versions of the {part} {both} differ ({one}, {two})"
        if base.sampling != other.sampling:
            yield f"{name}: the answers {both} were drawn differently ({base.sampling}, {other.sampling})"
        for file in sorted((base.data.keys() | other.data.keys()) - optional):
            one, two = base.data.get(file, "none"), other.data.get(file, "none")
            if one != two:
                yield f"{name}: the data files {file!r} {both} differ (sha256 {one[:12]}, {two[:12]})"
        if base.judge != other.judge:
            judges = ", ".join(_judge_name(one) for one in (base, other))
            yield f"{name}: the judges {both} differ ({judges})"


def _judge_name(one: StoredBenchmark) -> str:
    return f"{one.judge.name}, key {one.judge.key[:12]}" if one.judge else "none"


def _compared(name: str, results: Sequence[ModelResult]) -> ComparedBenchmark:
    facts = model_benchmarks().get(name)
    own = [one.benchmarks.get(name) for one in results]
    metrics = list(dict.fromkeys(metric for one in own if one for metric in one.metrics))
    known = next(one for one in own if one)
    return ComparedBenchmark(
        name,
        facts.title if facts else name,
        facts.unit if facts else "",
        facts.chance if facts else None,
        known.judge.name if known.judge else "",
        [_standing(one) if one else None for one in own],
        {metric: list(_figures(name, metric, results)) for metric in metrics},
    )


def _standing(one: StoredBenchmark) -> Standing:
    length, cut_off = one.length.get("mean"), one.length.get("cut_off")
    return Standing(one.expected, one.scored, one.incomplete, one.invalid, length, cut_off)


def _figures(name: str, metric: str, results: Sequence[ModelResult]) -> Iterator[Figure | None]:
    first = results[0]
    base = first.benchmarks[name].metrics.get(metric) if name in first.benchmarks else None
    for one in results:
        stored = one.benchmarks[name].metrics.get(metric) if name in one.benchmarks else None
        if stored is None:
            yield None
            continue
        change = _change(name, metric, first, one) if base and one is not first else None
        yield Figure(stored.value, stored.low, stored.high, stored.error, change)


def _change(name: str, metric: str, first: ModelResult, this: ModelResult) -> Change:
    base, own = first.benchmarks[name], this.benchmarks[name]
    fitted = base.resampled(metric), own.resampled(metric)
    # A fitted metric has no scores of its own: the items are those that it was fitted to.
    items = [_items(one, name, metric, fitted=bool(values)) for one, values in zip((first, this), fitted, strict=True)]
    common = [item for item in items[0] if item in items[1]]
    change = Change(
        len(common),
        len({items[0][item].cluster for item in common}),
        only_first=[item for item in items[0] if item not in items[1]],
        only_this=[item for item in items[1] if item not in items[0]],
    )
    values = base.metrics[metric], own.metrics[metric]
    if all(fitted):
        return _of_fits(change, values, fitted, list(items[0]) == list(items[1]))
    return _of_items(change, values, items, common, judged=own.judge is not None)


def _items(result: ModelResult, name: str, metric: str, *, fitted: bool) -> Mapping[str, Scored]:
    own = result.items.get(name, {})
    return own.get(metric) or (next(iter(own.values()), {}) if fitted else {})


def _of_fits(
    change: Change,
    values: tuple[StoredMetric, StoredMetric],
    fitted: tuple[list[float], list[float]],
    same: bool,
) -> Change:
    """Add the difference of a fitted metric, whose resamples are paired where they were drawn from the same items."""
    value = values[1].value - values[0].value
    if not same or len(fitted[0]) != len(fitted[1]):
        return replace(change, value=value, why="fitted to other items, so the fits can't be paired")
    found = difference(value, np.array(fitted[1]) - np.array(fitted[0]))
    if found is None:
        return replace(change, value=value, why="no fit on resamples of the items")
    return _with_interval(replace(change, value=value), found.interval, found.error, found.p)


def _of_items(
    change: Change,
    values: tuple[StoredMetric, StoredMetric],
    items: Sequence[Mapping[str, Scored]],
    common: Sequence[str],
    *,
    judged: bool,
) -> Change:
    """Add the difference of a metric that is the mean of its items' scores, in percent or as they are."""
    if not common:
        why = "no item has a score of both" if items[0] and items[1] else "the files hold no scores of single items"
        value = None if items[0] and items[1] else values[1].value - values[0].value
        return replace(change, value=value, why=why)
    rows = [[one[item] for item in common] for one in items]
    scores = np.array([[row.score for row in own] for own in rows])
    weights = np.array([[row.weight for row in own] for own in rows])
    scale = _scale(values, items)
    if scale is None:
        return replace(change, value=values[1].value - values[0].value, why="it is no mean of the items' scores")
    clusters, strata = [row.cluster for row in rows[0]], [row.subset for row in rows[0]]
    means = scale * resampled_means(scores, clusters, weights=weights, strata=_strata(clusters, strata, judged))
    with np.errstate(invalid="ignore"):
        both = scale * (scores * weights).sum(axis=1) / weights.sum(axis=1)
    value = float(both[1] - both[0])
    found = difference(value, means[1] - means[0])
    if found is None:
        return replace(change, value=value, why="too few items")
    exact = None
    if change.clusters == len(common) and set(np.unique(scores)) <= {0.0, 1.0} and (weights == 1).all():
        exact = mcnemar(scores[0], scores[1])
    return _with_interval(replace(change, value=value, mcnemar=exact), found.interval, found.error, found.p)


def _scale(values: Sequence[StoredMetric], items: Sequence[Mapping[str, Scored]]) -> float | None:
    """Return what a mean of scores is multiplied by, 1 or 100 (percent), None where no such mean gives the figures."""
    means = []
    for own in items:
        weight = sum(row.weight for row in own.values())
        means.append(sum(row.weight * row.score for row in own.values()) / weight if weight else np.nan)
    for scale in (1.0, 100.0):
        if all(abs(scale * mean - one.value) < _SAME for mean, one in zip(means, values, strict=True)):
            return scale
    return None


def _strata(clusters: Sequence[str], subsets: Sequence[str], judged: bool) -> Sequence[str] | None:
    """Return the subsets as strata where they are the fixed parts of an exam, such as MMLU's subjects."""
    sizes = Counter(subset for _, subset in set(zip(clusters, subsets, strict=True)))
    return None if judged or min(sizes.values()) < _SMALLEST_STRATUM else subsets


def _with_interval(change: Change, interval: tuple[float, float], error: float, p: float) -> Change:
    smallest = smallest_difference(error) if error else None  # equal answers show nothing of what others would
    return replace(change, low=interval[0], high=interval[1], error=error, p=p, smallest=smallest)


def _adjusted(benchmarks: Sequence[ComparedBenchmark], place: int) -> dict[str, float]:
    """Return Holm's p-values of one model's official metrics, by benchmark."""
    p_values = {}
    for one in benchmarks:
        figure = next(iter(one.metrics.values()))[place] if one.metrics else None
        p = _own_p(figure.change) if figure and figure.change else None
        if p is not None:
            p_values[one.name] = p
    return holm(p_values)


def _own_p(change: Change) -> float | None:
    return change.p if change.mcnemar is None else change.mcnemar


def _with_holm(one: ComparedBenchmark, adjusted: Sequence[float | None]) -> ComparedBenchmark:
    if not one.metrics:
        return one
    official, figures = next(iter(one.metrics.items()))
    changed = [
        replace(figure, change=replace(figure.change, holm=p)) if figure and figure.change else figure
        for figure, p in zip(figures, adjusted, strict=True)
    ]
    return replace(one, metrics={**one.metrics, official: changed})
