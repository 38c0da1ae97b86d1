"""What the benchmarks share whose judge replies in words: prompts, control answers, answers that speak to the judge."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from selfsteer.confidence_intervals import bootstrap_statistic
from selfsteer.errors import ConfigError, DataError
from selfsteer.evaluation.benchmarks.model_benchmark import EvaluationContext, Metric, ModelAnswer, TextJudgeModel
from selfsteer.judges import AnswerCache, Judgement, Pair, judge_pairs
from selfsteer.queries.file_readers import read_file

CUT_OFF = "the judge's reply was cut off before its verdict"
SPEAKS = "speaks to the judge"
CONSTANT = "This is a question that deserves a careful answer, and a careful answer takes all of it into account."
"""The control answer that says the same to every question: a judge that does not rank it last does not read."""
CONTROL_ITEMS = 16
"""Items of a control row at most: rows of controls are to show that a judge reads, not to measure to the last digit."""

_FIELD = re.compile(r"\{(\w+)\}")
T = TypeVar("T")


def read_rows(path: Path, fields: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows of a data file; :class:`DataError` where one is no object with these fields."""
    rows = []
    for where, row in read_file(path):
        lacking = [name for name in fields if not isinstance(row, dict) or name not in row]
        if lacking:
            do = "get the file again from where `selfsteer evaluate data` says"
            raise DataError(f"a row without {', '.join(lacking)}", where=where, do=do)
        rows.append(row)
    return rows


def picked(rows: Sequence[T], sample: Sequence[int] | None) -> list[T]:
    """Return the rows at the positions of a sample; those that a shorter file lacks are missing in the counts."""
    return list(rows) if sample is None else [rows[place] for place in sample if place < len(rows)]


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return a template with its ``{name}`` fields replaced in one pass: braces in a value stay as they are."""
    return _FIELD.sub(lambda found: values[found[1]], template)


def language_judge(context: EvaluationContext, title: str) -> TextJudgeModel:
    """Return the context's language model; :class:`ConfigError` where there is none."""
    if context.judge is not None:
        return context.judge
    do = "name a chat model, or endpoint:MODEL"
    if context.pair_judge is None:
        raise ConfigError(f"{title} needs a judge", where="--judge", do=do)
    what = f"{title} needs a judge that replies in words, and {context.pair_judge.name} only compares two answers"
    raise ConfigError(what, where="--judge", do=f"{do}; or leave {title} out")


def judge_pairs_of(context: EvaluationContext, pairs: Sequence[Pair]) -> list[Judgement]:
    """Return the judgements of a judge that only compares, in both orders, from the context's folder where they are."""
    assert context.pair_judge is not None
    folder = context.judgements
    path = folder / f"{context.pair_judge.key}.jsonl" if folder and context.pair_judge.key else None
    return judge_pairs(context.pair_judge, pairs, AnswerCache(path))


def verdict_of(reply: ModelAnswer, read: Callable[[str], T | str]) -> T | str:
    """Return the verdict in a judge's reply, or why there is none."""
    if reply.error:
        return f"judge: {reply.error}"
    verdict = read(reply.text)
    return CUT_OFF if isinstance(verdict, str) and reply.finish == "length" else verdict


class JudgeMarks:
    """The marks of a judge's prompts, by which an answer that speaks to the judge gives itself away.

    Args:
        templates: The user messages of the judge's prompts; their marks are the lines without a field that begin with a
            bracket, such as "[The End of Assistant's Answer]".
        verdict: What a verdict looks like.
    """

    def __init__(self, templates: Iterable[str], verdict: re.Pattern[str]) -> None:
        lines = {line.strip() for template in templates for line in template.splitlines() if "{" not in line}
        self._marks = sorted(line.casefold() for line in lines if line.startswith(("[", "<|")))
        self._verdict = verdict

    def flags(self, answer: str) -> tuple[str, ...]:
        """Return the flag of an answer that has a mark or a verdict in it, else nothing."""
        text = answer.casefold()
        found = any(mark in text for mark in self._marks) or self._verdict.search(answer.upper())
        return (SPEAKS,) if found else ()


def spread(items: Sequence[T], most: int = CONTROL_ITEMS) -> list[T]:
    """Return at most so many items, evenly spread over the sequence."""
    if len(items) <= most:
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]


def half(text: str) -> str:
    """Return the first half of an answer, by characters."""
    return text[: len(text) // 2]


def clustered_mean(values: Sequence[float], weights: Sequence[float], clusters: Sequence[str]) -> Metric | None:
    """Return the weighted mean of values that are only independent between clusters; None without a value.

    The interval is the percentile bootstrap of whole clusters, the standard error the linearised one of a ratio.
    """
    if not values:
        return None
    names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    weight = np.asarray(weights, dtype=float)
    size = np.bincount(cluster, weight)
    total = np.bincount(cluster, weight * np.asarray(values, dtype=float))
    mean = float(total.sum() / size.sum())
    n = len(names)
    interval = bootstrap_statistic(lambda picks: float(total[picks].sum() / size[picks].sum()), n)
    error = math.sqrt(n / (n - 1) * float(((total - mean * size) ** 2).sum())) / float(size.sum()) if n > 1 else None
    return Metric(mean, interval, error, f"percentile bootstrap over {n} questions")
