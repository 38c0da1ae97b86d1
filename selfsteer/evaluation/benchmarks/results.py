"""Result files: what a model reached in a suite as JSON, and the score of every item as Parquet beside it."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfsteer.evaluation.benchmarks.answers import AnswerStore, StoredAnswer
from selfsteer.evaluation.benchmarks.data import FoundFile
from selfsteer.evaluation.benchmarks.model_benchmark import BenchmarkScores, ItemScore, Metric, ModelAnswer, Question
from selfsteer.evaluation.benchmarks.read_results import SCHEMA_VERSION
from selfsteer.evaluation.benchmarks.table import BenchmarkFacts
from selfsteer.files import atomic_path, write_json
from selfsteer.principles import steer
from selfsteer.records import Message
from selfsteer.significance import smallest_difference

NOT_REPORTED = "the benchmark has no score for it"
_PACKAGES = ("selfsteer", "torch", "transformers", "lm-eval", "math-verify", "if-verifiable", "scikit-learn")
"""Whose versions decide answers or scores."""
_Z = 1.96
"""Standard errors on each side of a 95 % interval."""


@dataclass
class AskedAnswers:
    """Asks the store for a benchmark, and keeps count of what the benchmark asked.

    Attributes:
        system_prompt: Is added to every question's system message, or is it where there is none.
        answers: What is kept of each answer, in the order in which they were asked for.
        scored: Prompts whose replies have log-probs, of how many.
    """

    store: AnswerStore
    system_prompt: str = ""
    answers: list[StoredAnswer] = field(default_factory=list)
    scored: tuple[int, int] = (0, 0)

    def answer(self, questions: Sequence[Question]) -> list[ModelAnswer]:
        """Ask as :meth:`AnswerStore.answer`."""
        found = self.store.answer([replace(one, messages=self._prompted(one.messages)) for one in questions])
        self.answers += [self.store.stored(one.key) for one in found]
        return found

    def label_logprobs(self, asked: Sequence[tuple[Sequence[Message], Sequence[str]]]) -> list[list[float] | str]:
        """Ask as :meth:`AnswerStore.label_logprobs`."""
        found = self.store.label_logprobs([(self._prompted(prompt), labels) for prompt, labels in asked])
        known = sum(not isinstance(one, str) for one in found)
        self.scored = self.scored[0] + known, self.scored[1] + len(found)
        return found

    def _prompted(self, messages: Sequence[Message]) -> Sequence[Message]:
        # The store turns it into a part of the user turn where the template has no system role.
        return steer(messages, self.system_prompt, "native") if self.system_prompt else messages

    @property
    def answered(self) -> int:
        """Questions with an answer, and prompts with scores."""
        return sum(not one.error for one in self.answers) + self.scored[0]

    def figures(self) -> dict[str, Any]:
        """Return lengths in characters, the share that the token limit cut off, tokens, thoughts and seconds."""
        given = [one for one in self.answers if not one.error]
        lengths = [len(one.text) for one in given]
        cut = sum(one.finish == "length" for one in given)
        counts = {"in": [one.prompt_tokens for one in given], "out": [one.tokens for one in given]}
        known = {name: [count for count in own if count is not None] for name, own in counts.items()}
        return {
            "answered": self.answered,
            "length": {
                "mean": fmean(lengths) if given else None,
                "median": median(lengths) if given else None,
                "cut_off": cut / len(given) if given else None,
            },
            "thinking": sum(bool(one.thinking) for one in given),
            "tokens": {name: sum(own) if own else None for name, own in known.items()},
            "seconds": round(sum(one.seconds for one in self.answers), 3),
        }


def benchmark_result(
    facts: BenchmarkFacts,
    scores: BenchmarkScores,
    asked: AskedAnswers,
    files: Sequence[FoundFile],
    *,
    sample: Mapping[str, int] | None,
    judge: tuple[str, str] | None,
) -> dict[str, Any]:
    """Return what a result file says of a benchmark.

    Items without a score are counted by reason; what a benchmark leaves out altogether counts as not scored too.

    Args:
        sample: Size and seed of the sample, None for the whole benchmark.
        judge: Name and key of the judge.
    """
    official = [one for one in scores.items if one.metric == next(iter(scores.metrics), facts.official)]
    questions = facts.n if sample is None else sample["limit"]
    expected = max(scores.expected, questions * facts.items_each)
    scored = sum(one.score is not None for one in official)
    invalid = Counter(one.why or "no reason given" for one in official if one.score is None)
    if missing := expected - len(official):
        invalid[NOT_REPORTED] += max(missing, 0)
    unknown = [one.version.path for one in files if one.state != "verified"]
    unverified = [f"The data are not verified: the content of {', '.join(unknown)} is not known."] * bool(unknown)
    return {
        "title": facts.title,
        "unit": facts.unit,
        "chance": facts.chance,
        "protocol": facts.protocol,
        "versions": dict(scores.versions),
        "data": {one.name: one.sha256 for one in files},
        "unverified": bool(unknown),
        "judge": None if judge is None else {"name": judge[0], "key": judge[1], "calibration": None},
        "sampling": asdict(facts.sampling),
        "expected": expected,
        "scored": scored,
        "invalid": dict(+invalid),
        "incomplete": scored < expected,
        "sample": None if sample is None else dict(sample),
        "metrics": {name: _metric(metric) for name, metric in scores.metrics.items()},
        **asked.figures(),
        "flags": dict(Counter(flag for one in official for flag in one.flags)),
        "notes": [*scores.notes, *unverified],
        "details": dict(scores.details),
    }


def suite_result(
    model: Mapping[str, Any], suite: str, seed: int, benchmarks: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the content of a result file; ``benchmarks`` are of :func:`benchmark_result`, by name."""
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": suite,
        "model": dict(model),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "host": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "seeds": {"sample": seed, "answers": seed},
        "benchmarks": dict(benchmarks),
    }


def write_result(path: Path, result: Mapping[str, Any], items: Mapping[str, Sequence[ItemScore]]) -> None:
    """Write a result to ``path`` (.json) and the item scores beside it (.parquet); the JSON comes last."""
    rows = [{"benchmark": name} | asdict(item) | {"flags": list(item.flags)} for name in items for item in items[name]]
    with atomic_path(path.with_suffix(".parquet")) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), temporary, write_page_checksum=True)
    write_json(path, result)


_TEXTS = ("benchmark", "item", "cluster", "subset", "metric", "why", "finish", "answer")
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXTS),
        ("score", pa.float64()),
        ("weight", pa.float64()),
        ("length", pa.int64()),
        ("flags", pa.list_(pa.string())),
    ]
)


def smallest_shown(metric: Mapping[str, Any]) -> float | None:
    """Return the smallest difference to another model with as large an error that so many items show, unpaired.

    Two-sided at 5 % with a power of 80 %. Answers to the same items show smaller ones: `selfsteer compare` pairs them.
    """
    error = metric["error"]
    if error == 0 and metric["low"] is not None:  # all right or all wrong: few such items show no small difference
        error = (metric["high"] - metric["low"]) / (2 * _Z)
    return None if error is None else smallest_difference(math.sqrt(2) * error)


def incomplete_names(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the titles of benchmarks that lack scores, each with its counts."""
    return [
        f"{one['title']} ({one['scored']:,} of {one['expected']:,} scored: "
        f"{', '.join(f'{why} {n:,}' for why, n in one['invalid'].items())})"
        for result in results
        for one in result["benchmarks"].values()
        if one["incomplete"]
    ]


def _metric(metric: Metric) -> dict[str, Any]:
    low, high = metric.interval or (None, None)
    return {"value": metric.value, "low": low, "high": high, "error": metric.error, "method": metric.method}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
