"""Toy benchmarks for tests of the command: scored by a program, by a judge, by log-probs of labels."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from pathlib import Path
from statistics import fmean
from typing import Any

from selfsteer.backends import Sampling
from selfsteer.confidence_intervals import bootstrap
from selfsteer.evaluation.benchmarks import table
from selfsteer.evaluation.benchmarks.data import read_rows
from selfsteer.evaluation.benchmarks.model_benchmark import BenchmarkScores, ItemScore, Metric, ModelAnswer, Question

N = 12
ROWS = [{"id": f"q{place}", "q": "say " + "so " * place + f"{place}"} for place in range(N)]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS)
SAMPLING = {"max_new_tokens": 8, "temperature": 0.0, "top_p": 1.0}


class Toy:
    """Scores each answer; ``kind`` is "program", "judge" or "labels"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def evaluate(self, context) -> BenchmarkScores:
        rows = read_rows(context.files["questions"])
        rows = rows if context.sample is None else [rows[place] for place in context.sample]
        prompts = [[{"role": "user", "content": row["q"]}] for row in rows]
        if self.kind == "labels":
            found = context.label_logprobs([(prompt, ["A", "B"]) for prompt in prompts])
            answers = [ModelAnswer("", "", "absent") for _ in rows]
            scores: list[Any] = [float(first > second) for first, second in found]
        else:
            answers = context.answer([Question(prompt, Sampling(**SAMPLING)) for prompt in prompts])
            scores = self._scores(context, answers)
        items = [
            ItemScore(
                row["id"], row["id"], "", "points", score if isinstance(score, float) else None,
                "" if isinstance(score, float) else score, len(answer.text), answer.finish, answer.key,
            )
            for row, answer, score in zip(rows, answers, scores, strict=True)
        ]  # fmt: skip
        values = [item.score for item in items if item.score is not None]
        metric = Metric(100 * fmean(values), tuple(100 * end for end in bootstrap(values)), 1.0, "bootstrap")
        kill("scoring")
        return BenchmarkScores(items, {"points": metric}, len(rows), {"toy": "1"}, ["Toys measure nothing."])

    def _scores(self, context, answers) -> list[Any]:
        if self.kind == "program":
            return [answer.error or float(len(answer.text) % 2) for answer in answers]
        asked = [[{"role": "user", "content": f"Rate: {answer.text}"}] for answer in answers]
        replies = context.judge.replies(asked, Sampling(8, 0.0, 1.0))
        return [self.rating(reply) for reply in replies]

    @staticmethod
    def rating(reply: ModelAnswer) -> Any:
        found = re.search(r"\[\[(\d)\]\]", reply.text)
        return int(found[1]) / 10 if found else reply.error or "no rating in the reply"


PROGRAM, JUDGED, LABELS = Toy("program"), Toy("judge"), Toy("labels")


def toy_table() -> dict[str, Any]:
    """Return a table of the three toys."""
    files = {
        "questions": [
            {"path": "toy.jsonl", "sha256": hashlib.sha256(TEXT.encode()).hexdigest(), "n": N, "from": "here"}
        ]
    }
    facts = {
        "title": "Toy", "protocol": "toy 1", "n": N, "official": "points", "licence": "MIT", "sampling": SAMPLING,
        "files": files,
    }  # fmt: skip
    module = "tests.evaluation.benchmarks.toy"
    benchmarks = {
        "toy": facts | {"implementation": f"{module}:PROGRAM", "chance": 50.0},
        "toy_judged": facts | {"title": "Judged toy", "implementation": f"{module}:JUDGED", "judge": "language"},
        "toy_labels": facts | {"title": "Toy of labels", "implementation": f"{module}:LABELS"},
        "toy_broken": facts | {"title": "Broken toy", "implementation": "no_such_module:TOY", "extra": "bench"},
    }
    return {"suites": {"toys": ["toy", "toy_judged", "toy_labels"]}, "benchmarks": benchmarks}


def install() -> None:
    """Put the toys in the place of the benchmarks."""
    table._table = toy_table  # type: ignore[assignment]
    table.model_benchmarks.cache_clear()


def write_data(folder: Path, rows: int = N) -> Path:
    """Write the toys' data file, or its first rows."""
    folder.mkdir(exist_ok=True)
    (folder / "toy.jsonl").write_text("".join(TEXT.splitlines(keepends=True)[:rows]))
    return folder


_left: dict[str, int] = {}


def kill(place: str) -> None:
    """End this process where it has come to a place as often as was said."""
    if place in _left:
        _left[place] -= 1
        if _left[place] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def command_until(arguments: list[str], folder: Path, started: Any, place: str, times: int) -> None:
    """Run a command that ends itself where it generates, judges or scores for that many times."""
    from selfsteer.backends.transformers import TransformersBackend
    from selfsteer.evaluation.benchmarks.judge_model import JudgeModel
    from tests.killable_command import command

    install()
    Toy.rating = staticmethod(lambda reply: len(reply.text) % 10 / 10)  # a random model gives no other
    if place:
        _left[place] = times
    generate, reply = TransformersBackend.generate, JudgeModel._written

    def generating(self, prompts, *args, **kwargs):
        kill("generation")
        return generate(self, prompts, *args, **kwargs)

    def judging(self, *args, **kwargs):
        kill("judging")
        return reply(self, *args, **kwargs)

    TransformersBackend.generate = generating  # type: ignore[method-assign]
    JudgeModel._written = judging  # type: ignore[method-assign]
    command(arguments, folder, started)
