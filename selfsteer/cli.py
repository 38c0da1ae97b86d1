"""The command line. Subcommands stand in the order of the story; help needs no torch."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.table import Column, Table

from selfsteer.errors import SelfsteerError, SelfsteerWarning
from selfsteer.version import __version__

app = typer.Typer(
    help="Align a chat model with no human labels, by Self-Steering Optimization (arXiv 2410.17131).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models_app = typer.Typer(help="The model catalogue.", no_args_is_help=True)
principles_app = typer.Typer(help="Principle sets.", no_args_is_help=True)
evaluate_app = typer.Typer(help="Measure what a run made.", no_args_is_help=True)
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(models_app, name="models")
app.add_typer(principles_app, name="principles")

_Judges = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        help="A chat model, reward:MODEL, implicit:POLICY@REFERENCE, endpoint:MODEL or program:NAME; "
        "several may be given.",
    ),
]
_Mode = Annotated[str, typer.Option(help="How a language model answers: logprobs or text.")]
_MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Mode text: tokens of a reply, thoughts included (default: 16, and 2,048 more where the model may think).",
    ),
]
_Template = Annotated[str | None, typer.Option(help="A Jinja file of your own for the question.")]
_PerToken = Annotated[
    bool | None,
    typer.Option(
        "--per-token/--summed",
        help="implicit: compares means per token, or sums. Default: as the loss that trained the policy, else sums.",
    ),
]
_Limit = Annotated[int | None, typer.Option(help="A random sample of so many pairs of each file.")]
_Seed = Annotated[int, typer.Option(help="Chooses the sample.")]
_Split = Annotated[
    str | None, typer.Option(help="Of hub data sets, and folders of one: this split.", show_default="train")
]
_Device = Annotated[str, typer.Option(help="Where a model on this machine computes: auto, cpu, cuda, cuda:1, mps.")]
_Precision = Annotated[str, typer.Option(help="What it computes in: auto, bfloat16 or float32.")]
_Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
_TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that a model brings.")]
_TemplateKwargs = Annotated[
    list[str] | None,
    typer.Option(
        "--chat-template-kwargs",
        metavar="NAME=VALUE",
        help="A variable for the chat templates of the models, e.g. enable_thinking=false; several may be given.",
    ),
]
_BaseUrl = Annotated[str | None, typer.Option(help="Where the endpoint is.", show_default="what OPENAI_BASE_URL holds")]
_ApiKeyEnv = Annotated[str, typer.Option(help="The environment variable that holds the endpoint's key.")]
_Answers = Annotated[Path | None, typer.Option(help="Where answers are kept.", show_default="the cache folder")]
_Json = Annotated[Path | None, typer.Option("--json", help="Write figures and verdicts here.")]

out = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def _version(asked: bool) -> None:
    if asked:
        out.print(f"selfsteer {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings, e.g. train.beta=0.1 model=./my-model.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where everything goes [default: runs/NAME].")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which stages are done, to do or redone, and why; do nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Do the whole story of a recipe, from queries to the report. The same command again goes on or does nothing."""
    _do_recipe("run", recipe, overrides or [], run_dir, quiet, dry_run)


@app.command()
def augment(
    seeds: Annotated[
        str, typer.Argument(help="The queries to grow from: a file, a folder, a hub data set, builtin:NAME.")
    ],
    output: Annotated[Path, typer.Option("--output", help="The .jsonl file that gets the new queries.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings, e.g. generation.backend=vllm augment.per_request=4 queries.near_duplicates=0.8."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many new queries.")] = 100,
    method: Annotated[str, typer.Option(help="self-instruct or evolve.")] = "self-instruct",
    model: Annotated[str, typer.Option("--model", help="The chat model that writes them.")] = "smollm2-135m",
    run_dir: Annotated[
        Path | None, typer.Option(help="Where answers and dropped queries go [default: OUTPUT.run].")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that was not written here.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Grow a seed set of queries with a chat model. Killed anywhere, the same command goes on."""
    from selfsteer.commands import augment as augment_command

    settings = [f"queries.source={seeds}", f"augment.method={method}", f"model.name={model}", *(overrides or [])]
    with _interruptible():
        augment_command.augment(settings, output, run_dir, count=count, overwrite=overwrite, quiet=quiet, out=out)


@app.command()
def generate(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings, e.g. queries=my.jsonl generation.backend=vllm.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where everything goes [default: runs/NAME].")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which stages are done, to do or redone, and why; do nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Make the preference data of a recipe, and nothing else. Killed anywhere, the same command goes on."""
    _do_recipe("generate", recipe, overrides or [], run_dir, quiet, dry_run)


@app.command()
def sweep(
    source: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings of every variant, e.g. queries.limit=8 model=./my-model.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where everything goes [default: runs/NAME].")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say of each variant which stages are done, to do or shared; do nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Run variants of one recipe; what they have in common is computed once. Ends with one table of all."""
    from selfsteer.commands import sweep as sweep_command

    with _interruptible():
        sweep_command.do_sweep(source, overrides or [], run_dir, only_plan=dry_run, quiet=quiet, out=out, errors=errors)


@app.command()
def estimate(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings, e.g. model=./my-model train.lora.r=16.")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="Devices that share the training, for memory.")] = 1,
    queries: Annotated[int | None, typer.Option(min=1, help="How many queries [default: they are counted].")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine with the recipe's model first, 1 to 3 minutes.")
    ] = False,
) -> None:
    """What will a recipe cost? Parameters, arithmetic, memory, time and disk, from the model's configuration."""
    from selfsteer.commands import estimate as estimate_command
    from selfsteer.config import load_recipe

    with _interruptible():
        estimate_command.estimate(
            load_recipe(recipe, overrides or []), devices=devices, queries=queries, calibrate=calibrate, out=out,
            errors=errors,
        )  # fmt: skip


@app.command("filter")
def filter_rows(
    source: Annotated[Path, typer.Argument(help="A run directory, a Parquet file of contrasts or a folder of them.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings of quality, e.g. quality.filters='[identical, leak]'.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="For a file or a folder: a new .parquet file, or a new folder.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be kept and dropped.")] = False,
) -> None:
    """Do quality control anew, with other settings, on rows that are there. Nothing is generated again."""
    from selfsteer.commands import filter as filter_command

    with _interruptible():
        filter_command.filter_rows(source, overrides or [], output, dry_run=dry_run, out=out)


@app.command()
def reward(
    recipe: Annotated[str, typer.Argument(help="A reward recipe, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings, e.g. sets.annotated.source=FILE options.learning_rate=1e-5.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where everything goes [default: runs/NAME].")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which stages are done, to do or redone, and why; do nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Train reward models on preference pairs, self-made or annotated, and compare them. The same command goes on."""
    from selfsteer.commands import reward as reward_command

    folder = [] if run_dir is None else ["--run-dir", str(run_dir)]
    command = shlex.join(["selfsteer", "reward", recipe, *(overrides or []), *folder])
    with _interruptible():
        reward_command.train_rewards(
            recipe, overrides or [], run_dir, only_plan=dry_run, quiet=quiet, command=command, out=out
        )


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="A reward model: a folder or a hub name.")],
    file: Annotated[
        Path,
        typer.Argument(help="A file or folder of conversations, prompts with responses, or pairs (docs/data.md)."),
    ],
    output: Annotated[Path, typer.Option("--output", help="The .jsonl file that gets the rows with their rewards.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Conversations in one forward pass.")] = 8,
    device: _Device = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or auto (float32).")] = "auto",
    revision: _Revision = None,
    trust_remote_code: _TrustRemoteCode = False,
    chat_template_kwargs: _TemplateKwargs = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
) -> None:
    """Score responses with a reward model, one reward each. A row that can't be scored is named and stays."""
    from selfsteer.config import template_kwargs
    from selfsteer.reward.recipe import Hardware
    from selfsteer.workflows import score as score_command

    hardware = Hardware(device, precision, revision, trust_remote_code, template_kwargs(chat_template_kwargs or []))
    with _interruptible():
        score_command.score_file(
            model, file, output, hardware=hardware, batch_size=batch_size, overwrite=overwrite, out=out, errors=errors
        )


@evaluate_app.command("signal")
def evaluate_signal(
    run_dir: Annotated[Path, typer.Argument(help="A run directory; the run may be going on.")],
    judge: Annotated[
        str | None,
        typer.Option(
            help="A chat model, reward:MODEL, implicit:POLICY@REFERENCE, endpoint:MODEL or program:NAME "
            "(default: the recipe's)."
        ),
    ] = None,
    mode: Annotated[str | None, typer.Option(help="How a language model answers: logprobs or text.")] = None,
    max_tokens: _MaxTokens = None,
    by: Annotated[str | None, typer.Option(help="What it judges by: overall or aspects.")] = None,
    limit: Annotated[int | None, typer.Option(help="A random sample of so many rows a round.")] = None,
    split: Annotated[
        str, typer.Option(help="train: what each round made; heldout: what each policy answers.")
    ] = "train",
) -> None:
    """Is a run's data right? Accuracy by program and judge, on-policyness, and what free scores are worth."""
    from selfsteer.commands import evaluate_signal as signal_command

    overrides = {"name": judge, "mode": mode, "max_tokens": max_tokens, "by": by}
    with _interruptible():
        signal_command.signal(run_dir, overrides, split=split, limit=limit, out=out, errors=errors)


@evaluate_app.command("reward")
def evaluate_reward(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SETS",
            help="Files of labelled preference pairs, folders of such files, or hub data sets (org/name).",
        ),
    ],
    names: _Judges = None,
    mode: _Mode = "logprobs",
    max_tokens: _MaxTokens = None,
    template: _Template = None,
    per_token: _PerToken = None,
    limit: _Limit = None,
    seed: _Seed = 0,
    split: _Split = None,
    device: _Device = "auto",
    precision: _Precision = "auto",
    revision: _Revision = None,
    trust_remote_code: _TrustRemoteCode = False,
    chat_template_kwargs: _TemplateKwargs = None,
    base_url: _BaseUrl = None,
    api_key_env: _ApiKeyEnv = "OPENAI_API_KEY",
    answers: _Answers = None,
    json_file: _Json = None,
) -> None:
    """How often do reward models, implicit rewards and judges rank labelled pairs right? Beside "longer is better"."""
    from selfsteer.commands import evaluate_reward as reward_evaluation_command
    from selfsteer.config import template_kwargs

    settings = {
        "mode": mode, "max_tokens": max_tokens, "template": template, "per_token": per_token, "device": device,
        "precision": precision, "revision": revision, "trust_remote_code": trust_remote_code, "base_url": base_url,
        "api_key_env": api_key_env, "chat_template_kwargs": template_kwargs(chat_template_kwargs or []),
    }  # fmt: skip
    with _interruptible():
        reward_evaluation_command.evaluate(
            sources, names or [], settings, limit=limit, seed=seed, split=split, answers=answers, json_file=json_file,
            out=out, errors=errors,
        )  # fmt: skip


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Write a run's report.html again from what the run directory holds."""
    from selfsteer.report import write_report

    out.print(str(write_report(run_dir)), soft_wrap=True)


@app.command()
def judge(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Files or folders of preference pairs, labelled or not; hub data sets (org/name); or run directories."
        ),
    ],
    names: _Judges = None,
    mode: _Mode = "logprobs",
    max_tokens: _MaxTokens = None,
    by: Annotated[str, typer.Option(help="What a run's pairs are judged by: overall or aspects.")] = "overall",
    template: _Template = None,
    per_token: _PerToken = None,
    human: Annotated[
        str | None, typer.Option(help="Judge yourself, under this name; stop when you like, and go on another time.")
    ] = None,
    page: Annotated[bool, typer.Option("--page", help="With --human: on a local web page.")] = False,
    limit: _Limit = None,
    seed: _Seed = 0,
    split: _Split = None,
    device: _Device = "auto",
    precision: _Precision = "auto",
    revision: _Revision = None,
    trust_remote_code: _TrustRemoteCode = False,
    chat_template_kwargs: _TemplateKwargs = None,
    base_url: _BaseUrl = None,
    api_key_env: _ApiKeyEnv = "OPENAI_API_KEY",
    answers: _Answers = None,
    json_file: _Json = None,
) -> None:
    """Put pairs before judges, in both orders, and compare them with the labels and with each other."""
    from selfsteer.commands import judge as judging_command
    from selfsteer.config import template_kwargs

    settings = {
        "mode": mode, "max_tokens": max_tokens, "by": by, "template": template, "per_token": per_token,
        "device": device, "precision": precision, "revision": revision, "trust_remote_code": trust_remote_code,
        "base_url": base_url, "api_key_env": api_key_env,
        "chat_template_kwargs": template_kwargs(chat_template_kwargs or []),
    }  # fmt: skip
    with _interruptible():
        judging_command.judge(
            sources, names or [], settings, human=human, page=page, limit=limit, seed=seed, split=split,
            answers=answers, json_file=json_file, out=out, errors=errors,
        )  # fmt: skip


@app.command()
def export(
    source: Annotated[
        Path, typer.Argument(help="A run directory, a Parquet file of contrasts, or the JSON of the paper's authors.")
    ],
    format: Annotated[str, typer.Option(help="trl, trl-unpaired, llama-factory, authors or contrast.")],
    output: Annotated[
        Path | None, typer.Option(help="A .jsonl, .json or .parquet file, or a folder for a data set with its card.")
    ] = None,
    round: Annotated[int | None, typer.Option(help="Of a run: one round [default: all].")] = None,
    view: Annotated[str, typer.Option(help="base, positive, negative or negative_strict.")] = "base",
    columns: Annotated[
        str | None, typer.Option(help="For trl and trl-unpaired: full (the default) or minimal.")
    ] = None,
    dropped: Annotated[bool, typer.Option("--all", help="Take the rows that quality control dropped, too.")] = False,
    finished: Annotated[
        bool, typer.Option("--finished", help="Leave out rows with a response that was cut off.")
    ] = False,
    harmful: Annotated[
        bool,
        typer.Option("--allow-harmful", help="In negative_strict: take y- that are, or may be, harmful, too."),
    ] = False,
    licence: Annotated[
        str | None, typer.Option("--license", help="Of the queries, as the Hub names it, e.g. cc-by-4.0; for the card.")
    ] = None,
    repository: Annotated[
        str | None, typer.Option("--push-to-hub", help="Upload the folder as the data set ORG/NAME, private.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everyone see what is uploaded.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write preference pairs for other trainers, as files or a data set with its card; read the authors' pairs."""
    from selfsteer.commands import export as export_command

    with _interruptible():
        export_command.export(
            source, format, output, round=round, view=view, columns=columns, dropped=dropped, finished=finished,
            harmful=harmful, licence=licence, repository=repository, public=public, overwrite=overwrite, out=out,
            errors=errors,
        )  # fmt: skip


@models_app.command("list")
def models_list() -> None:
    """Show the models that selfsteer can fetch by name."""
    from selfsteer.models import list_models

    table = Table("name", "parameters", "architecture", "licence", "download", "fetched to")
    for row in list_models():
        size = f"{row.download_bytes / 1e6:,.0f} MB"
        table.add_row(
            row.name, row.parameters, row.architecture, row.licence, size, str(row.folder) if row.fetched else "-"
        )
    out.print(table)


@models_app.command("fetch")
def models_fetch(name: Annotated[str, typer.Argument(help="A name from `selfsteer models list`.")]) -> None:
    """Download a model, check its sha256 and convert it once. The same command again goes on or does nothing."""
    from rich.progress import Progress

    from selfsteer.models import fetch

    with _interruptible(), Progress(console=errors, transient=True) as bar:
        task = bar.add_task("fetching", total=1.0)
        folder = fetch(name, progress=lambda phrase, share: bar.update(task, description=phrase, completed=share))
    out.print(str(folder), soft_wrap=True)


@principles_app.command("list")
def principles_list() -> None:
    """Show the shipped principle sets."""
    from selfsteer.principles import list_sets, load_set

    table = Table("name", Column("hash", no_wrap=True), Column("aspects", no_wrap=True), "direction", "for")
    for name in list_sets():
        found = load_set(name)
        aspects = "\n".join(aspect.name for aspect in found.aspects)
        version = f"{name}\nv{found.version}"
        table.add_row(version, found.fingerprint, aspects, found.direction or "-", found.description)
    out.print(table)


@principles_app.command("show")
def principles_show(name: Annotated[str, typer.Argument(help="A shipped set or the path of a YAML file.")]) -> None:
    """Show a set's aspects with their principle pairs."""
    from selfsteer.principles import load_set

    found = load_set(name)
    table = Table("aspect", "positive", "negative", show_lines=True)
    table.title = f"{found.name} v{found.version} {found.fingerprint}"
    for aspect in found.aspects:
        label = aspect.name + ("\n(extra)" if aspect.extra else "")
        label += "\n(y- flagged as harmful)" if aspect.harmful_negative else ""
        table.add_row(
            label, f"{aspect.positive}\n{aspect.positive_principle}", f"{aspect.negative}\n{aspect.negative_principle}"
        )
    out.print(table)


@principles_app.command("check")
def principles_check(
    name: Annotated[str, typer.Argument(help="A shipped set or the path of a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings, e.g. queries=my.jsonl generation.max_new_tokens=128.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="The chat model to steer.")] = "smollm2-135m",
    judge: Annotated[str | None, typer.Option("--judge", help="Who says which answer is better.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="About how many pairs to make.")] = 32,
    examples: Annotated[int, typer.Option(min=0, help="How many aspects to show a pair of.")] = 3,
    run_dir: Annotated[Path | None, typer.Option(help="Where everything goes [default: the cache folder].")] = None,
) -> None:
    """Can this model be steered by this set at all? Steers along each aspect alone and looks."""
    from selfsteer.commands import principles_check as probe_command

    settings = [*(overrides or []), *([f"judge.name={judge}"] if judge else [])]
    with _interruptible():
        probe_command.check(name, model, settings, pairs=pairs, folder=run_dir, out=out, examples=examples)


@principles_app.command("invent")
def principles_invent(
    output: Annotated[Path, typer.Option(help="The YAML file to write, for you to review.")],
    queries: Annotated[str, typer.Option(help="A file of queries, a folder, a hub data set or builtin:NAME.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings, e.g. seed=1 generation.backend=vllm queries.field=text.")
    ] = None,
    model: Annotated[str, typer.Option(help="The chat model that proposes, and that is tried.")] = "smollm2-135m",
    given: Annotated[str, typer.Option("--set", help="The set that is there: its aspects are not new.")] = "quality",
    extend: Annotated[bool, typer.Option("--extend", help="Write the given set and the new aspects.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    sample: Annotated[int, typer.Option(min=1, help="Queries to draw.")] = 24,
    per_prompt: Annotated[int, typer.Option(min=1, help="Queries that one prompt shows.")] = 4,
    aspects: Annotated[int, typer.Option(min=1, help="Aspects that one prompt asks for.")] = 2,
    similarity: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="From here on two aspects are the same one.")
    ] = 0.5,
    support: Annotated[int, typer.Option(min=1, help="Answers that have to propose an aspect.")] = 1,
    most: Annotated[int, typer.Option(min=1, help="New aspects to keep at most.")] = 8,
    each: Annotated[int, typer.Option(min=0, help="Queries to try each of them on; 0 tries none.")] = 4,
    tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that an answer may take for each aspect, besides those for thoughts.")
    ] = 200,
    judge: Annotated[str | None, typer.Option(help="Who says which answer is better in the trials.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where everything else goes [default: the cache folder].")
    ] = None,
) -> None:
    """Let a model propose aspects that a set lacks, from a sample of queries; try them; write them for review."""
    from selfsteer.commands import principles_invent as invent_command
    from selfsteer.experimental.principles_invent import InventOptions

    order = InventOptions(sample, per_prompt, aspects, similarity, support, most, each, tokens)
    with _interruptible():
        invent_command.principles_invent(
            overrides or [], order, model=model, queries=queries, given=given, judge=judge, output=output,
            extend=extend, overwrite=overwrite, folder=run_dir, out=out,
        )  # fmt: skip


def main() -> None:
    """Run the command line; every failure is one message and the right exit code (DESIGN 4.5)."""
    # torch reads this at its first allocation. Tensors in huge pages cost far fewer page faults on CPU, which on some
    # virtual machines take longer than the arithmetic (docs/decisions.md has the figures).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    warnings.showwarning = _show_warning
    try:
        app()
    except SelfsteerError as error:
        errors.print("[bold red]error:[/] ", end="")
        errors.print(str(error), markup=False, soft_wrap=True)
        sys.exit(error.exit_code)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print our own warnings as a sentence; other libraries' keep the place they come from."""
    place = "" if issubclass(category, SelfsteerWarning) else f" ({category.__name__}, {filename}:{lineno})"
    errors.print("[bold yellow]warning:[/] ", end="")
    errors.print(f"{message}{place}", markup=False, soft_wrap=True)


def _do_recipe(
    action: str, recipe: str, overrides: list[str], run_dir: Path | None, quiet: bool, dry_run: bool
) -> None:
    """Run a recipe, or generate its data, and show what came of it; or show what it would do."""
    from selfsteer import loop
    from selfsteer.commands.run_summary import show, show_data
    from selfsteer.config import load_recipe
    from selfsteer.loop.guards import stopped
    from selfsteer.runs.progress import Display

    settings = load_recipe(recipe, overrides)
    folder = run_dir or Path("runs") / settings.name
    if dry_run:
        from selfsteer.commands.dry_run import dry_run as show_plan

        with _interruptible():
            show_plan(settings, folder, measure=action == "run", out=out, errors=errors)
        return
    command = shlex.join(["selfsteer", action, recipe, *overrides, "--run-dir", str(folder)])
    do, tell = (loop.run, show) if action == "run" else (loop.generate, show_data)
    with _interruptible():
        summary = do(settings, folder, display=Display(quiet=quiet), command=command)
    if not quiet:
        tell(summary, folder, out)
    error = stopped(summary, folder)
    if error:
        raise error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C into exit code 130; left to itself, typer says "Aborted!" and exits with 1."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        errors.print("interrupted: what is finished is kept; the same command goes on from here")
        raise typer.Exit(130) from interrupt


if __name__ == "__main__":
    main()
