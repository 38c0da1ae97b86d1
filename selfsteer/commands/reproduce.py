"""`selfsteer reproduce`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column
from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.evaluate_model import JudgeArguments, benchmark_judge
from selfsteer.commands.options import LoadingArguments, Quiet, count_option
from selfsteer.commands.tables import plain_table
from selfsteer.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from selfsteer.workflows.reproduce_plan import TablePlan

_SCALES = ("full", "small", "tiny")


@dataclass(frozen=True)
class DataArguments:
    """What the runs and the benchmarks of a table take from elsewhere."""

    models: Annotated[
        list[str],
        typer.Option(
            "--model", metavar="NAME=MODEL", help="The model that stands for one of the table; can be repeated."
        ),
    ] = field(default_factory=list)
    preferences: Annotated[
        str | None, typer.Option(help="Annotated pairs in place of the table's.", show_default="what the table names")
    ] = None
    labelled: Annotated[
        list[str],
        typer.Option(
            help="Labelled pairs to score reward models on in place of RewardBench; can be repeated.",
            show_default="what the table names",
        ),
    ] = field(default_factory=list)
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the benchmarks' data.", show_default="the downloaded ones; what is missing is downloaded"
        ),
    ] = None
    suite: Annotated[
        str | None,
        typer.Option(help="Benchmarks in place of the table's, separated by commas.", show_default="the table's"),
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Size of a random sample of each benchmark.", show_default="what the scale says"),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of that sample.")] = 0
    judging: JudgeArguments = field(default_factory=JudgeArguments)


@dataclass(frozen=True)
class PlanningArguments:
    """What is shown of a plan."""

    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs of the table, and what is done of them; run none.")
    ] = False
    gpu: Annotated[
        str | None, typer.Option(help="With --dry-run: estimate for such GPUs, whatever this machine has.")
    ] = None
    count: Annotated[int | None, count_option(help="GPUs of that kind.", show_default="1")] = None
    queries: Annotated[int | None, count_option(help="Number of queries for that estimate.", show_default="60,000")] = (
        None
    )
    response_tokens: Annotated[
        int | None, count_option(help="Mean tokens of a response for that estimate.", show_default="400")
    ] = None
    kept: Annotated[
        float | None,
        typer.Option(
            min=1e-6, max=1, help="Share of rows that filters keep for that estimate.", show_default="v1 0.05, v2 0.95"
        ),
    ] = None


@dataclass(frozen=True)
class ReproduceArguments:
    """The options of `selfsteer reproduce`."""

    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="A table of the paper, or `list`; -lora after it trains adapters.")
    ]
    overrides: Annotated[
        list[str], typer.Argument(help="Settings of every run, e.g. queries=FILE generation.engines=4.")
    ] = field(default_factory=list)
    scale: Annotated[str, typer.Option(help="full: as published; small, tiny: the same runs on a small model.")] = (
        "full"
    )
    data: DataArguments = field(default_factory=DataArguments)
    planning: PlanningArguments = field(default_factory=PlanningArguments)
    run_dir: Annotated[
        Path | None, typer.Option(help="Directory for all files.", show_default="runs/paper/TABLE-SCALE")
    ] = None
    quiet: Quiet = False


def reproduce(arguments: ReproduceArguments) -> None:
    """Do the runs and benchmarks of a table of the paper, and show it beside the published figures; resumes.

    Raises:
        ConfigError: No table has that name, a setting is wrong, or no row can be run.
    """
    from selfsteer.config.paper import load_paper
    from selfsteer.runs.progress import Display
    from selfsteer.workflows.reproduce import ReproduceOptions
    from selfsteer.workflows.reproduce import reproduce as run_table
    from selfsteer.workflows.reproduce_plan import plan_table
    from selfsteer.workflows.reproduce_results import notes_of, table_rows

    if arguments.table == "list":
        _show_list()
        return
    if arguments.scale not in _SCALES:
        do = did_you_mean(arguments.scale, _SCALES)
        raise ConfigError(f"no scale is named {arguments.scale!r}", where="--scale", do=do)
    given, planning = arguments.data, arguments.planning
    if planning.gpu and not planning.dry_run:
        raise ConfigError("--gpu plans for other machines", where="--gpu", do="add --dry-run")
    if not planning.gpu and planning != PlanningArguments(planning.dry_run):
        what = "--count, --queries, --response-tokens and --kept are about an estimate for other GPUs"
        raise ConfigError(what, where="reproduce", do="add --dry-run --gpu, e.g. --gpu h100")
    paper = load_paper(arguments.table, arguments.scale)  # type: ignore[arg-type]
    if given.preferences is not None and not paper.table.takes_annotated_pairs:
        what = "no run of this table is trained on annotated pairs"
        raise ConfigError(what, where="--preferences", do="leave it out")
    if given.labelled and paper.table.reward is None:
        raise ConfigError("this table trains no reward models", where="--labelled", do="leave it out")
    models = dict(_named(one, paper.table.models) for one in given.models)
    folder = arguments.run_dir or Path("runs") / "paper" / f"{paper.name}-{arguments.scale}"
    sizes = planning.gpu is not None
    plan = plan_table(paper, arguments.overrides, models, preferences=given.preferences, sizes=sizes)
    if planning.dry_run:
        _show_plan(plan, folder, planning)
        return
    options = ReproduceOptions(
        folder, benchmark_judge(given.judging, LoadingArguments()), given.data_dir, given.limit, given.seed,
        [name.strip() for name in given.suite.split(",")] if given.suite else None, given.preferences, given.labelled,
        shlex.join(_command(arguments, folder)),
    )  # fmt: skip
    record = run_table(plan, options, lambda: Display(quiet=arguments.quiet))
    if arguments.quiet:
        return
    head, rows = table_rows(record)
    say(record["title"])
    out.print(plain_table(*(Column(Text(name), overflow="fold") for name in head), rows=rows))
    for note in notes_of(record):
        say(note)
    say(f"\n{folder / 'table.md'}, {folder / 'table.json'}")
    if record["comparison"]:
        say(f"paired differences to the first row: {folder / 'comparison.png'}")


def _named(given: str, known: Any) -> tuple[str, str]:
    name, separator, model = given.partition("=")
    if not separator or not model:
        raise ConfigError(f"can't read {given!r}", where="--model", do="write NAME=MODEL")
    if name not in known:
        raise ConfigError(f"the table has no model {name!r}", where="--model", do=did_you_mean(name, known))
    return name, model


def _command(given: ReproduceArguments, folder: Path) -> Iterator[str]:
    """Yield the command that does this table again, without what is about judges' keys."""
    data, judging = given.data, given.data.judging
    yield from ("selfsteer", "reproduce", given.table, *given.overrides, "--scale", given.scale)
    for one in data.models:
        yield from ("--model", one)
    for one in data.labelled:
        yield from ("--labelled", one)
    options = {
        "--preferences": data.preferences, "--data-dir": data.data_dir, "--suite": data.suite, "--limit": data.limit,
        "--seed": data.seed or None, "--judge": judging.judge, "--judge-base-url": judging.judge_base_url,
        "--judge-max-tokens": judging.judge_max_tokens, "--run-dir": folder,
    }  # fmt: skip
    for name, value in options.items():
        if value is not None:
            yield from (name, str(value))


def _show_list() -> None:
    from selfsteer.config.paper import LORA, load_paper, shipped_tables

    table = plain_table("table", "", "models", "runs", right=("models", "runs"))
    for name in shipped_tables():
        one = load_paper(name).table
        table.add_row(Text(name), Text(one.title), str(len(one.models)), str(len(one.runs)))
    out.print(table)
    say(f"each also with {LORA} after its name (adapters, one GPU of 80 GB), and with --scale small or tiny")


def _show_plan(plan: TablePlan, folder: Path, planning: PlanningArguments) -> None:
    from selfsteer.commands.reproduce_plan import show_costs, show_states

    say(f"{plan.paper.table.title} ({plan.paper.scale.about})")
    if planning.gpu:
        show_costs(plan, planning)
    else:
        show_states(plan, folder / "runs")
    for row in plan.rows:
        if row.why:
            say(f"not run: {row.model}, {row.label}: {row.why}")
