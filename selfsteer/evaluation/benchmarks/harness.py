"""lm-eval's tasks with a model of ours behind them: the only importer of lm_eval.

A benchmark names tasks of lm-eval and gives its data as hub-shaped folders; prompts, examples, filters and checkers are
those of the installed lm-eval. What its run changes in the process (seeds, loggers, progress bars, signal handlers) is
set back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import signal
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets
import yaml

from selfsteer.backends import Sampling
from selfsteer.errors import ConfigError
from selfsteer.evaluation.benchmarks.hub_folder import Splits, hub_folder
from selfsteer.evaluation.benchmarks.item_scores import NO_ANSWER, item_scores, percentage, subset_percentages
from selfsteer.evaluation.benchmarks.judged import picked
from selfsteer.evaluation.benchmarks.model_benchmark import BenchmarkScores, EvaluationContext, ModelAnswer, Question
from selfsteer.evaluation.benchmarks.nltk_tables import nltk_offline
from selfsteer.evaluation.benchmarks.table import model_benchmarks
from selfsteer.files import fingerprint
from selfsteer.models import cache_folder

CHECKER_SEED = 16
"""Seeds the checkers that draw at random: IFEval's compares with a random letter where a prompt (1122, 1129) asks for
"#" or "!" as a letter, and langdetect samples. It is the same in every run, so that runs can be compared; this is the
smallest with which all published verdicts on the answers of two models come out."""
INSTALL = "pip install 'selfsteer[bench]'"

try:
    import langdetect
    import lm_eval.api.task
    import lm_eval.utils
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager
except ImportError as missing:
    raise ConfigError(f"this benchmark needs lm-eval: {missing}", where="--suite", do=INSTALL) from missing

_TASKS = Path(lm_eval.__file__).parent / "tasks"


@dataclass(frozen=True)
class HarnessTask:
    """A task of lm-eval.

    Attributes:
        name: Its name there.
        path: Its YAML file under lm-eval's tasks.
        settings: What is set otherwise than there.
    """

    name: str
    path: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """An item of a benchmark: its id, the task that asks it, its position among that task's rows, its category."""

    id: str
    task: str
    row: int
    subset: str = ""


@dataclass(frozen=True)
class HarnessData:
    """A benchmark's data files, read.

    Attributes:
        tasks: What asks the items.
        splits: The rows of the tasks' data sets.
        items: In the order of the file.
        notes: What a reader of the figures must know.
    """

    tasks: Sequence[HarnessTask]
    splits: Splits
    items: Sequence[Item]
    notes: Sequence[str] = ()


Samples = Mapping[str, Mapping[str, Any]]
"""What lm-eval logs of a row, by filter."""


def logged(metric: str, filter_name: str = "none") -> Callable[[Samples], Sequence[float]]:
    """Return a reader of a metric that lm-eval computes: one value a row, or one for each of its instructions."""

    def read(samples: Samples) -> Sequence[float]:
        value = samples[filter_name][metric]
        return [float(one) for one in value] if isinstance(value, list) else [float(value)]

    return read


@dataclass(frozen=True)
class HarnessBenchmark:
    """A benchmark whose prompts and checkers are lm-eval's.

    Attributes:
        name: In the table.
        read: Reads the data files by name; the second argument says whether the model has log-probs.
        metrics: Readers of the metrics by name, the official one first.
    """

    name: str
    read: Callable[[Mapping[str, Path], bool], HarnessData]
    metrics: Mapping[str, Callable[[Samples], Sequence[float]]]

    def evaluate(self, context: EvaluationContext) -> BenchmarkScores:
        """Return the scores of the model behind the context, by lm-eval's prompts and checkers.

        Raises:
            DataError: A data file lacks a field.
        """
        data = self.read(context.files, context.label_logprobs is not None)
        items = picked(data.items, context.sample)
        rows: dict[str, list[int]] = defaultdict(list)
        for item in sorted(items, key=lambda item: item.row):  # lm-eval counts a sample in the order of its rows
            rows[item.task].append(item.row)
        used = [task for task in data.tasks if task.name in rows]  # an empty sample would be all rows
        lm = Chats(context, model_benchmarks()[self.name].sampling)
        with _set_back(), nltk_offline():
            tasks = _load(used, hub_folder(self.name, data.splits), context.seed)
            found = evaluate(lm, {"tasks": tasks}, samples=rows, bootstrap_iters=0, **_AS_CHAT)
        logs: dict[tuple[str, int], dict[str, Any]] = defaultdict(dict)
        for task, samples in found["samples"].items():
            for sample in samples:
                logs[task, sample["doc_id"]][sample["filter"]] = sample
        answers = {(task, rows[task][place]): answer for (task, place), answer in lm.answers.items()}
        scores = [
            one
            for metric, read in self.metrics.items()
            for item in items
            for values in [read(logs[item.task, item.row])]
            for answer in [answers[item.task, item.row]]
            for one in item_scores(
                item.id, item.subset, metric, [None] * len(values) if answer.error else values, answer.error, answer
            )
        ]
        official = next(iter(self.metrics))
        details: dict[str, Any] = {
            "prompts": fingerprint([next(iter(logs[item.task, item.row].values()))["prompt_hash"] for item in items])
        }
        if len({item.subset for item in items}) > 1:
            details["subsets"] = subset_percentages(scores, official)
        metrics = {name: percentage(scores, name) for name in self.metrics}
        return BenchmarkScores(
            items=scores,
            metrics={name: metric for name, metric in metrics.items() if metric is not None},
            expected=len(items),
            versions=_versions(data.tasks, tasks),
            notes=data.notes,
            details=details,
        )


_AS_CHAT: Mapping[str, Any] = {"apply_chat_template": True, "fewshot_as_multiturn": True}


class Chats(LM):
    """A model of ours as lm-eval's: conversations arrive as they are, as JSON, and go to the context as messages.

    Attributes:
        answers: By task and number of the row in the sample.
    """

    def __init__(self, context: EvaluationContext, sampling: Sampling) -> None:
        super().__init__()
        self.answers: dict[tuple[str, int], ModelAnswer] = {}
        self._context, self._sampling = context, sampling

    @property
    def tokenizer_name(self) -> str:
        """Name in lm-eval's cache of requests, which is off."""
        return "selfsteer"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the messages as JSON: lm-eval passes prompts on as texts."""
        return json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Return the model's answers, "" where there is none."""
        questions = []
        for request in requests:
            prompt, settings = request.args
            questions.append(Question(json.loads(prompt), replace(self._sampling, stop=tuple(settings["until"]))))
        answers = self._context.answer(questions)
        self.answers |= {(one.task_name, one.doc_id): answer for one, answer in zip(requests, answers, strict=True)}
        return [answer.text for answer in answers]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Return the log-prob of each continuation, in nats. Whether it is the likeliest text is not computed."""
        by_row: dict[tuple[str, int], list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            by_row[request.task_name, request.doc_id].append(place)
        asked = []
        for places in by_row.values():
            asked.append((json.loads(requests[places[0]].args[0]), [requests[place].args[1] for place in places]))
        assert self._context.label_logprobs is not None  # else the benchmark takes tasks that generate
        logps = [0.0] * len(requests)
        for (row, places), own in zip(by_row.items(), self._context.label_logprobs(asked), strict=True):
            self.answers[row] = replace(NO_ANSWER, error=own) if isinstance(own, str) else NO_ANSWER
            for place, logp in [] if isinstance(own, str) else zip(places, own, strict=True):
                logps[place] = logp
        return [(logp, False) for logp in logps]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Raise NotImplementedError: no task of the benchmarks asks for the log-prob of a whole text."""
        raise NotImplementedError("selfsteer's benchmarks have no task with rolling log-probs (perplexity)")


def check_math() -> None:
    """Import what lm-eval's math tasks need, so that a wrong version is known before a model is asked.

    Raises:
        ConfigError: sympy's parser and the installed antlr4-python3-runtime don't go together, or one is missing.
    """
    try:
        import_module("lm_eval.tasks.minerva_math.utils")
    except (ImportError, AssertionError) as error:
        what = f"lm-eval's math tasks can't be imported: {error or 'antlr4-python3-runtime is not of version 4.11'}"
        raise ConfigError(what, where="--suite", do=INSTALL) from error


def _load(used: Sequence[HarnessTask], folder: Path, seed: int) -> dict[str, Any]:
    """Return lm-eval's tasks over the data in ``folder``.

    Each task gets a file that includes lm-eval's own and names the folder: overriding a nested group where it is named
    would hand the group's task list down to its tasks. Groups are not needed, averages are made here.
    """
    here = {"dataset_path": str(folder), "dataset_kwargs": {"cache_dir": str(cache_folder() / "benchmarks" / "arrow")}}
    with tempfile.TemporaryDirectory() as generated:
        for task in used:
            include = {"include": str(_TASKS / task.path), "task": task.name}
            text = yaml.safe_dump(include | here | dict(task.settings))
            Path(generated, f"{task.name}.yaml").write_text(text, encoding="utf-8")
        manager = TaskManager(include_path=generated, include_defaults=False)
        tasks: dict[str, Any] = manager.load([task.name for task in used])["tasks"]
    for task in tasks.values():
        task.set_fewshot_seed(seed)
        if (process := task.config.process_docs) is not None:
            task.set_config("process_docs", _once(process, seed))
        if callable(check := task.config.process_results):
            task.set_config("process_results", partial(_check_seeded, check))
    return tasks


def _once(process: Callable[[Any], Any], seed: int) -> Callable[[Any], Any]:
    """Return a task's preparation of its rows, done once.

    lm-eval does it again whenever it goes through the rows. GPQA's shuffles the choices by the global generator, so
    that questions and right answers would differ.
    """

    @cache
    def prepared() -> Any:
        random.seed(seed)
        return process(rows[0])

    rows: list[Any] = []

    def prepare(dataset: Any) -> Any:
        rows.append(dataset)
        return prepared()

    return prepare


def _check_seeded(check: Callable[..., Any], row: Mapping[str, Any], results: Any) -> Any:
    """Check an answer with the global generator seeded by the row, so that a verdict depends on no other row."""
    random.seed(f"{CHECKER_SEED} {row.get('key', '')}")
    return check(row, results)


def _versions(tasks: Sequence[HarnessTask], loaded: Mapping[str, Any]) -> dict[str, str]:
    """Return lm-eval's version, its versions of the tasks, and a hash of their files and of our settings."""
    folders = sorted({str(Path(task.path).parent) for task in tasks})
    digest = hashlib.sha256(json.dumps([[task.name, task.settings] for task in tasks], sort_keys=True).encode())
    for folder in folders:
        for path in sorted((_TASKS / folder).iterdir()):
            if path.is_file():
                digest.update(path.read_bytes())
    names = f"{len(tasks)} tasks of {folders[0]}" if len(tasks) > 1 else tasks[0].name
    own = ", ".join(sorted({str(task.VERSION) for task in loaded.values()}))
    return {"lm_eval": lm_eval.__version__, "task": f"{names}, version {own}", "definition": digest.hexdigest()[:16]}


@contextmanager
def _set_back() -> Iterator[None]:
    """Seed langdetect, silence lm-eval and its libraries, and set all of it back."""
    state, logger, bar = random.getstate(), logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    compiled = lm_eval.utils.env.from_string
    level, bars, caching = logger.level, datasets.are_progress_bars_disabled(), datasets.is_caching_enabled()
    detector, on_alarm = langdetect.DetectorFactory.seed, signal.getsignal(signal.SIGALRM)
    langdetect.DetectorFactory.seed = CHECKER_SEED
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = partial(bar, disable=True)
    lm_eval.utils.env.from_string = cache(compiled)  # it compiles each template again for each example of each question
    datasets.disable_progress_bars()
    datasets.disable_caching()  # rows that were shuffled by another seed would be found again
    try:
        yield
    finally:
        random.setstate(state)
        langdetect.DetectorFactory.seed = detector
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
        lm_eval.utils.env.from_string = compiled
        if not bars:
            datasets.enable_progress_bars()
        if caching:
            datasets.enable_caching()
        signal.signal(signal.SIGALRM, on_alarm)  # the math checkers leave theirs
