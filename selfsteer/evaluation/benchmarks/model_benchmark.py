"""What a benchmark of chat models is: questions that a model answers, a score an item, metrics over the items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from selfsteer.backends import Sampling
from selfsteer.confidence_intervals import Interval
from selfsteer.judges.base import Judge
from selfsteer.records import Finish, Message


@dataclass(frozen=True)
class Question:
    """One request to the model under test.

    Attributes:
        messages: The conversation to answer.
        sampling: How the answer is drawn; stop strings included.
        choice: Tells several answers to one prompt apart.
    """

    messages: Sequence[Message]
    sampling: Sampling
    choice: int = 0


@dataclass(frozen=True)
class ModelAnswer:
    """The model's answer to a question.

    Attributes:
        key: Its key in the answer store; item scores refer to it.
        text: The answer without its thinking part, cut at the first stop string; "" where there is none.
        finish: "length" where it was cut off by the token limit.
        tokens: Generated tokens, thinking included; None where the backend does not say.
        thinking: The thinking part that was taken off.
        error: Why there is no answer, "" where there is one.
    """

    key: str
    text: str
    finish: Finish = "stop"
    tokens: int | None = None
    thinking: str = ""
    error: str = ""


@dataclass(frozen=True)
class ItemScore:
    """The score of one item by one metric.

    Attributes:
        item: The item's id in its data.
        cluster: What is resampled as a whole, e.g. the question of an MT-Bench turn.
        subset: The category or subject, "" without one.
        metric: The metric's name.
        score: None where the item could not be scored; such items are counted, never left out silently.
        why: Why not, in a few words that can be counted; "" for a scored one.
        length: Characters of the answer.
        finish: "length" where the answer was cut off.
        answer: The key of the answer in the store, "" where there is none.
        flags: What is worth knowing of it, e.g. "speaks to the judge".
        weight: How much the item counts in the metric's mean. Arena-Hard's questions differ in it: a verdict of "much
            better" counts as three games.
    """

    item: str
    cluster: str
    subset: str
    metric: str
    score: float | None
    why: str = ""
    length: int = 0
    finish: Finish = "stop"
    answer: str = ""
    flags: tuple[str, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Metric:
    """A figure over all items of a benchmark, with its 95 % interval.

    Attributes:
        value: The figure, in the benchmark's own unit (a share in percent, a rating of 1 to 10).
        interval: None where there is none.
        error: The standard error, None where there is none.
        method: How interval and error were computed, e.g. "percentile bootstrap over 80 questions".
    """

    value: float
    interval: Interval | None = None
    error: float | None = None
    method: str = ""


@dataclass(frozen=True)
class BenchmarkScores:
    """What a benchmark found on one model.

    Attributes:
        items: One entry an item and metric.
        metrics: By name; the first is the benchmark's official one.
        expected: Items that should have a score by the official metric.
        versions: Versions of what decides the score: task, prompt template, checker.
        notes: What a reader of the figures must know, one sentence each.
        details: Further figures by name: per category, the judge's calibration, control rows. ``resampled`` holds, for
            each metric that is fitted to the items and is no mean of their scores, its values on resamples of the items
            in their order (:func:`selfsteer.confidence_intervals.resampled_statistic`), rounded to 4 decimals:
            `selfsteer compare` takes the interval of a difference between two models from them.
    """

    items: Sequence[ItemScore]
    metrics: Mapping[str, Metric]
    expected: int
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    details: Mapping[str, object] = field(default_factory=dict)


class TextJudgeModel(Protocol):
    """A language model that judged benchmarks ask; answers are cached by content.

    Attributes:
        name: For tables.
        key: Identifies everything its answers depend on: weights, chat template, precision, engine.
    """

    name: str
    key: str

    def replies(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[ModelAnswer]:
        """Return one reply a prompt, in order."""
        ...

    def label_probabilities(
        self, prompts: Sequence[Sequence[Message]], labels: Sequence[str]
    ) -> list[tuple[float | None, ...] | str]:
        """Return each label's probability as the first token of the reply, None for a label that the server does not
        list; a string is the reason why there is none."""
        ...


@dataclass(frozen=True)
class EvaluationContext:
    """What a benchmark gets to evaluate one model.

    Attributes:
        files: The benchmark's data files by their name in the table, checked.
        sample: Positions of the items to take, in order; None takes all.
        seed: Seeds what a protocol draws at random.
        answer: Asks the model under test; one answer a question, in order, from the store where it is known.
        label_logprobs: Scores fixed replies under the model under test: for each (messages, replies) the log-prob of
            each reply in nats, or why there are none; None where the backend has no scores.
        judge: The language model that judges, None where none is named or the judge only compares pairs.
        pair_judge: A judge that only compares pairs (a reward model, a program), None where it is a language model.
        judgements: The folder of judges' answers, for the cache of ``pair_judge``; None keeps them in memory.
    """

    files: Mapping[str, Path]
    sample: Sequence[int] | None
    seed: int
    answer: Callable[[Sequence[Question]], list[ModelAnswer]]
    label_logprobs: Callable[[Sequence[tuple[Sequence[Message], Sequence[str]]]], list[list[float] | str]] | None
    judge: TextJudgeModel | None = None
    pair_judge: Judge | None = None
    judgements: Path | None = None


class ModelBenchmark(Protocol):
    """A benchmark of chat models: its file in this folder, and a line of the table."""

    def evaluate(self, context: EvaluationContext) -> BenchmarkScores:
        """Return the scores of the model behind ``context.answer``."""
        ...
