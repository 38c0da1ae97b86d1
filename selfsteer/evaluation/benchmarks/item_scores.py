"""Item scores and percentages of benchmarks that a program scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from selfsteer.confidence_intervals import wilson
from selfsteer.evaluation.benchmarks.judged import clustered_mean
from selfsteer.evaluation.benchmarks.model_benchmark import ItemScore, Metric, ModelAnswer

NO_ANSWER = ModelAnswer(key="", text="", finish="absent")
"""In place of an answer where the model is not asked for one, only for log-probs."""


def item_scores(
    item: str, subset: str, metric: str, values: Sequence[float | None], why: str, answer: ModelAnswer
) -> Iterator[ItemScore]:
    """Yield an item's scores by a metric: one, or one for each of its instructions, which are a cluster.

    Args:
        values: 0 or 1 each, None where it could not be scored.
        why: Why not.
    """
    for place, value in enumerate(values):
        yield ItemScore(
            item=item if len(values) == 1 else f"{item}:{place}",
            cluster=item,
            subset=subset,
            metric=metric,
            score=value,
            why="" if value is not None else why,
            length=len(answer.text),
            finish=answer.finish,
            answer=answer.key,
        )


def percentage(items: Sequence[ItemScore], metric: str) -> Metric | None:
    """Return the percentage of a metric's scored items that are right, None where none is scored.

    The interval is Wilson's and the error that of a mean of independent items, unless there are several items in a
    cluster: then both are of clusters.
    """
    scored = [(one.cluster, one.score) for one in items if one.metric == metric and one.score is not None]
    n = len(scored)
    if n == 0:
        return None
    clusters = [cluster for cluster, _ in scored]
    if len(set(clusters)) < n:
        return clustered_mean([100 * score for _, score in scored], [1.0] * n, clusters)
    right = sum(score for _, score in scored)
    low, high = wilson(right, n)
    error = 100 * math.sqrt(right / n * (1 - right / n) / (n - 1)) if n > 1 else None
    return Metric(100 * right / n, (100 * low, 100 * high), error, "Wilson")


def subset_percentages(items: Sequence[ItemScore], metric: str) -> dict[str, dict[str, float]]:
    """Return percentage and number of scored items by subset."""
    found: dict[str, list[float]] = {}
    for one in items:
        if one.metric == metric and one.score is not None:
            found.setdefault(one.subset, []).append(one.score)
    return {name: {"percent": 100 * sum(scores) / len(scores), "n": len(scores)} for name, scores in found.items()}
