"""`selfsteer evaluate model`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from selfsteer.commands.console import progress_bar, say
from selfsteer.commands.options import EndpointArguments, LoadingArguments, count_option
from selfsteer.errors import ConfigError, WorkFailed, did_you_mean

_BACKENDS = ("transformers", "vllm", "endpoint")


@dataclass(frozen=True)
class SuiteArguments:
    """What models are evaluated on."""

    suite: Annotated[
        str, typer.Option(help="v1, v2, modern, or names of benchmarks separated by commas; see docs/evaluation.md.")
    ] = "modern"
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of data files.", show_default="the downloaded ones; what is missing is downloaded"),
    ] = None
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take a random sample of this many questions of each benchmark.")
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of the sample, and of what a protocol draws at random.")] = 0
    unverified_data: Annotated[
        bool, typer.Option("--unverified-data", help="Accept data files of unknown content; the result says so.")
    ] = False
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Show figures of benchmarks that lack scores, with their counts.")
    ] = False


@dataclass(frozen=True)
class JudgeArguments:
    """The judge of the benchmarks that need one."""

    judge: Annotated[
        str | None,
        typer.Option(help="A chat model or endpoint:MODEL; where two answers are compared, any of `selfsteer judge`."),
    ] = None
    judge_mode: Annotated[str, typer.Option(help="How it gives labels: logprobs or text.")] = "logprobs"
    judge_max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a reply, thoughts included.", show_default="what the benchmark says"),
    ] = None
    judge_base_url: Annotated[
        str | None, typer.Option(help="URL of the judge's endpoint.", show_default="what OPENAI_BASE_URL holds")
    ] = None
    judge_api_key_env: Annotated[str, typer.Option(help="Environment variable that holds the judge's key.")] = (
        "OPENAI_API_KEY"
    )


@dataclass(frozen=True)
class ModelArguments:
    """How the models are reached."""

    backend: Annotated[str, typer.Option(help="transformers, vllm or endpoint.")] = "transformers"
    no_chat_template: Annotated[
        bool, typer.Option("--no-chat-template", help="For base models: give them the texts without a chat template.")
    ] = False
    batch_size: Annotated[
        int | None, count_option(help="Questions asked together.", show_default="vllm 512, endpoint 128, else 16")
    ] = None
    system_prompt: Annotated[
        str, typer.Option(help="Ask every question with this system message.", show_default="none")
    ] = ""
    loading: LoadingArguments = field(default_factory=LoadingArguments)
    endpoint: EndpointArguments = field(default_factory=EndpointArguments)


@dataclass(frozen=True)
class EvaluateModelArguments:
    """The options of `selfsteer evaluate model`."""

    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Catalogue names, hub names, folders (adapters too), run directories; names on the endpoint.",
        ),
    ]
    suite: SuiteArguments = field(default_factory=SuiteArguments)
    judging: JudgeArguments = field(default_factory=JudgeArguments)
    opening: ModelArguments = field(default_factory=ModelArguments)
    out: Annotated[Path, typer.Option(help="Folder of answers, judgements and results.")] = Path("evaluation")
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all results to this file too.")] = None


def evaluate_model(arguments: EvaluateModelArguments) -> None:
    """Evaluate chat models on suites of benchmarks, with intervals; the same command resumes and asks nothing twice.

    Raises:
        ConfigError: A setting is wrong; or data, a judge or an extra is missing.
        DataError, ModelError, FetchError: Data or a model can't be used, or not be fetched.
        WorkFailed: A benchmark lacks scores; its result is written all the same.
    """
    from selfsteer.commands.evaluate_model_tables import show_result
    from selfsteer.evaluation.benchmarks.evaluated_model import EvaluatedModel
    from selfsteer.evaluation.benchmarks.results import incomplete_names
    from selfsteer.files import write_json
    from selfsteer.runs.store import output_folder
    from selfsteer.workflows import evaluate_model as workflow

    options, given = _model_options(arguments.opening), arguments.suite
    judge = benchmark_judge(arguments.judging, arguments.opening.loading)
    suite_options = workflow.SuiteOptions(
        given.suite, given.data_dir, judge, given.limit, given.seed, arguments.out, given.unverified_data
    )
    results = []
    with _bar() as progress:
        models = [EvaluatedModel(name, options) for name in dict.fromkeys(arguments.models)]
        if doubled := {one.name for one in models if [other.name for other in models].count(one.name) > 1}:
            do = "evaluate them one after the other, with another --out"
            raise ConfigError(f"two models would be called {', '.join(sorted(doubled))}", where="MODEL...", do=do)
        suite = workflow.prepare_suite(suite_options, progress)
        while models:  # so that each is freed before the next one is loaded
            model = models.pop(0)
            results.append(workflow.evaluate_model(model, suite, progress))
            model.free()
    for result, path in results:
        show_result(result, keep=given.allow_incomplete)
        say(f"written  {path}")
    if arguments.json_file:
        with output_folder(arguments.json_file, "--json") as part:
            write_json(arguments.json_file, {"results": [result for result, _ in results]}, inside=part)
    lacking = incomplete_names(result for result, _ in results)
    if lacking and not given.allow_incomplete:
        do = "run the same command again, which asks for what is missing; or add --allow-incomplete"
        raise WorkFailed(f"incomplete: {'; '.join(lacking)}", where=str(arguments.out), do=do)


def _model_options(given: ModelArguments) -> Any:
    from selfsteer.evaluation.benchmarks.evaluated_model import ModelOptions

    if given.backend not in _BACKENDS:
        raise ConfigError(
            f"unknown backend {given.backend!r}", where="--backend", do=did_you_mean(given.backend, _BACKENDS)
        )
    if given.no_chat_template and given.backend == "endpoint":
        what = "a server of chats writes the prompts by its own template"
        raise ConfigError(what, where="--no-chat-template", do="leave it out, or use another backend")
    return ModelOptions(
        given.backend, _settings(given.loading), given.endpoint.base_url, given.endpoint.api_key_env,
        not given.no_chat_template, given.batch_size, given.system_prompt,
    )  # fmt: skip


def _settings(given: LoadingArguments, **more: Any) -> Any:
    from selfsteer.config import judge_settings, template_kwargs

    known = {
        "device": given.device,
        "precision": given.precision,
        "revision": given.revision,
        "trust_remote_code": given.trust_remote_code,
        "chat_template_kwargs": template_kwargs(given.chat_template_kwargs),
    }
    return judge_settings(known | more)


def benchmark_judge(given: JudgeArguments, loading: LoadingArguments) -> Any:
    """Return the settings of the judge that benchmarks ask, None if none is given; raises ConfigError."""
    from selfsteer.config import JudgeSettings

    if given.judge is None:
        if given != JudgeArguments():
            raise ConfigError("options of a judge, and no judge", where="--judge-...", do="name it with --judge")
        return None
    from selfsteer.judges.registry import settings_of

    # Device and precision are the models' too; revision and variables of templates are theirs alone.
    own = LoadingArguments(loading.device, loading.precision, trust_remote_code=loading.trust_remote_code)
    whole = _settings(own, mode=given.judge_mode, base_url=given.judge_base_url, api_key_env=given.judge_api_key_env)
    named = JudgeSettings(name=given.judge, **{key: getattr(whole, key) for key in settings_of(given.judge)})
    # Set afterwards: a judge of pairs has a limit in mode text alone, benchmarks ask for replies in both modes.
    return named.model_copy(update={"max_tokens": given.judge_max_tokens} if given.judge_max_tokens else {})


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    with progress_bar() as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)
