"""`selfsteer evaluate model`: models on suites of benchmarks, answers kept, results written."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError, MissingParts
from selfsteer.evaluation.benchmarks.answers import AnswerStore
from selfsteer.evaluation.benchmarks.data import FoundFile, data_problems, find_data
from selfsteer.evaluation.benchmarks.evaluated_model import EvaluatedModel
from selfsteer.evaluation.benchmarks.judge_model import open_benchmark_judge
from selfsteer.evaluation.benchmarks.model_benchmark import EvaluationContext, ItemScore, ModelBenchmark, TextJudgeModel
from selfsteer.evaluation.benchmarks.results import AskedAnswers, benchmark_result, suite_result, write_result
from selfsteer.evaluation.benchmarks.table import BenchmarkFacts, benchmarks_of_suite
from selfsteer.judges import Judge
from selfsteer.workflows.evaluate_judge import calibration_beside

Progress = Callable[[str, int, int], None]
"""Is called with what is done (model and benchmark), and how much of how much."""


@dataclass(frozen=True)
class SuiteOptions:
    """What models are evaluated on.

    Attributes:
        suite: Names of suites and benchmarks, separated by commas.
        data_dir: Folder of data files; None looks among the downloaded ones alone, and downloads.
        judge: The judge of the benchmarks that need one; None if none is given.
        limit, seed: Size and seed of a random sample of each benchmark's questions; None takes all.
        out: Folder of answers, judgements and results.
        unverified: Data of unknown content are accepted, and marked.
    """

    suite: str
    data_dir: Path | None = None
    judge: JudgeSettings | None = None
    limit: int | None = None
    seed: int = 0
    out: Path = Path("evaluation")
    unverified: bool = False


@dataclass(frozen=True)
class ReadyBenchmark:
    """A benchmark that can be run: imported, with its data files checked."""

    facts: BenchmarkFacts
    benchmark: ModelBenchmark
    files: Sequence[FoundFile]

    def sample(self, limit: int | None, seed: int) -> list[int] | None:
        """Return the positions of a random sample in order, None for all questions."""
        rows = min(self.facts.n, self.files[0].n or self.facts.n)
        return None if limit is None or limit >= rows else sorted(random.Random(seed).sample(range(rows), limit))


@dataclass(frozen=True)
class ReadySuite:
    """Benchmarks that can be run, and their judge: a language model, or one that only compares pairs, or none."""

    options: SuiteOptions
    benchmarks: Sequence[ReadyBenchmark]
    judge: TextJudgeModel | None = None
    pair_judge: Judge | None = None


def prepare_suite(options: SuiteOptions, progress: Progress = lambda what, done, total: None) -> ReadySuite:
    """Return a suite after all that can be checked before a model is asked; missing data are downloaded.

    Raises:
        ConfigError: An unknown name.
        MissingParts: Data, a judge or an extra is missing; all that is missing is in one message.
        DataError, FetchError, ModelError: A data file can't be read or fetched; the judge can't be used.
    """
    if options.limit is not None and options.limit < 1:
        raise ConfigError("a sample has at least one question", where="--limit", do="give a positive number")
    wanted = benchmarks_of_suite(options.suite)
    settings = options.judge or JudgeSettings()
    judge, pair_judge = open_benchmark_judge(
        settings, options.out / "judgements", lambda done, total: progress(f"judge {settings.name}", done, total)
    )
    ready, problems = list[ReadyBenchmark](), list[str]()
    for facts in wanted:
        found = find_data(facts, options.data_dir, download=True)
        own = [*data_problems(facts, found, unverified=options.unverified), *_judge_problems(facts, judge, pair_judge)]
        try:
            benchmark = facts.load()
        except (ImportError, ConfigError) as error:
            reason = error.what if isinstance(error, ConfigError) else str(error)
            own.append(f"{facts.title}: {reason}; pip install 'selfsteer[{facts.extra or 'bench'}]'")
        problems += own
        if not own:
            ready.append(ReadyBenchmark(facts, benchmark, found))
    if problems:
        names = [facts.name for facts in wanted if facts.name not in {one.facts.name for one in ready}]
        what = f"{len(names)} of {len(wanted)} benchmarks can't be run:" + "".join(f"\n  - {one}" for one in problems)
        others = ",".join(one.facts.name for one in ready)
        do = "see `selfsteer evaluate data DIR`"
        do += f"; or run the others alone: --suite {others}" if others else ""
        raise MissingParts(what, where="--suite, --data-dir, --judge", do=do)
    return ReadySuite(options, ready, judge, pair_judge)


def _judge_problems(facts: BenchmarkFacts, judge: TextJudgeModel | None, pair_judge: Judge | None) -> Iterator[str]:
    if facts.judge and judge is None and pair_judge is None:
        yield f"{facts.title}: it needs a judge; name one with --judge"
    elif facts.judge == "language" and judge is None:
        yield f"{facts.title}: its judge has to reply in words; name a chat model or endpoint:MODEL with --judge"


def evaluate_model(
    model: EvaluatedModel, suite: ReadySuite, progress: Progress = lambda what, done, total: None
) -> tuple[dict[str, Any], Path]:
    """Evaluate a model on a suite, write the result and return it with its path.

    Answers and judgements are kept as they come: the same command after an interruption repeats one batch at most.
    """
    options, title = suite.options, [""]
    store = AnswerStore(
        model, options.out / "answers", seed=options.seed, progress=lambda done, total: progress(title[0], done, total)
    )
    results: dict[str, dict[str, Any]] = {}
    items: dict[str, Sequence[ItemScore]] = {}
    for one in suite.benchmarks:
        title[0] = f"{model.name}, {one.facts.title}"
        progress(title[0], 0, 0)
        results[one.facts.name], items[one.facts.name] = _evaluated(one, model, store, suite)
    if judged := [one.facts.name for one in suite.benchmarks if one.facts.judge]:
        title[0] = f"calibration of {options.judge.name}" if options.judge else ""
        calibration = calibration_beside(suite.judge, suite.pair_judge, options.data_dir, options.out / "judgements")
        for name in judged:
            results[name]["judge"]["calibration"] = calibration
    result = suite_result(model.about, options.suite, options.seed, results)
    path = result_path(options, model.name)
    write_result(path, result, items)
    return result, path


def _evaluated(
    one: ReadyBenchmark, model: EvaluatedModel, store: AnswerStore, suite: ReadySuite
) -> tuple[dict[str, Any], Sequence[ItemScore]]:
    options, asked = suite.options, AskedAnswers(store, model.system_prompt)
    sample = one.sample(options.limit, options.seed)
    context = EvaluationContext(
        files={found.name: found.path for found in one.files if found.path},
        sample=sample,
        seed=options.seed,
        answer=asked.answer,
        label_logprobs=asked.label_logprobs if model.has_scores else None,
        judge=suite.judge,
        pair_judge=suite.pair_judge,
        judgements=options.out / "judgements",
    )
    scores = one.benchmark.evaluate(context)
    judge = suite.judge or suite.pair_judge
    taken = None if sample is None else {"limit": len(sample), "seed": options.seed}
    used = (judge.name, judge.key) if judge is not None and one.facts.judge else None
    return benchmark_result(one.facts, scores, asked, one.files, sample=taken, judge=used), scores.items


def result_path(options: SuiteOptions, model: str) -> Path:
    """Return where the result of a model is written; that of a sample has a name of its own."""
    suite = "+".join(name.strip() for name in options.suite.split(",") if name.strip())
    sample = "" if options.limit is None else f"-limit{options.limit}-seed{options.seed}"
    return options.out / "results" / f"{model}-{suite}{sample}.json"
