"""`selfsteer evaluate judge`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfsteer.commands.console import out, progress_bar, say
from selfsteer.commands.options import EndpointArguments, LoadingArguments, MaxTokens, judge_settings_of
from selfsteer.errors import WorkFailed

if TYPE_CHECKING:
    from selfsteer.workflows.evaluate_judge import JudgeReport


@dataclass(frozen=True)
class EvaluateJudgeArguments:
    """The options of `selfsteer evaluate judge`."""

    judge: Annotated[
        str,
        typer.Argument(help="A chat model, endpoint:MODEL, reward:MODEL, implicit:POLICY@REFERENCE or program:NAME."),
    ]
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of data files.", show_default="the downloaded ones; what is missing is downloaded"),
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Take this many rows of each set, evenly spread.")] = None
    mode: Annotated[str, typer.Option(help="How a language model gives labels: logprobs or text.")] = "logprobs"
    max_tokens: MaxTokens = None
    per_token: Annotated[
        bool | None,
        typer.Option("--per-token/--summed", help="implicit: compare means per token, or sums."),
    ] = None
    loading: LoadingArguments = field(default_factory=LoadingArguments)
    endpoint: EndpointArguments = field(default_factory=EndpointArguments)
    answers: Annotated[
        Path | None, typer.Option(help="Folder that keeps the answers.", show_default="the cache folder")
    ] = None
    unverified_data: Annotated[
        bool, typer.Option("--unverified-data", help="Accept data files of unknown content.")
    ] = False
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None


def evaluate_judge(arguments: EvaluateJudgeArguments) -> None:
    """Compare a judge with recorded GPT-4 preferences, with people, and with published win rates.

    Raises:
        ConfigError: A setting is wrong.
        DataError: A data file is missing or of unknown content.
        ModelError, FetchError: The judge can't be used, or not be fetched.
        WorkFailed: The judge gave no preference at all; figures are printed and written all the same.
    """
    from selfsteer.files import write_json
    from selfsteer.models import cache_folder
    from selfsteer.runs.store import output_folder
    from selfsteer.workflows.evaluate_judge import evaluate_judge as workflow

    settings = judge_settings_of(arguments).model_copy(update={"name": arguments.judge})
    with progress_bar() as bar:
        task = bar.add_task(arguments.judge, total=None)
        report = workflow(
            settings,
            arguments.data_dir,
            limit=arguments.limit,
            answers=arguments.answers or cache_folder() / "judgements",
            unverified=arguments.unverified_data,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _show(report)
    if arguments.json_file:
        with output_folder(arguments.json_file, "--json") as part:
            write_json(arguments.json_file, report.as_json(), inside=part)
    if report.calibration.both is None:
        reasons = ", ".join(f"{why} ({n})" for why, n in report.calibration.invalid.items())
        raise WorkFailed(f"{report.calibration.judge} gave no preference: {reasons}", do="use another --mode or judge")


def _show(report: JudgeReport) -> None:
    from selfsteer.commands.tables import plain_table
    from selfsteer.confidence_intervals import share_text, value_text

    found = report.calibration
    say(found.line())
    names = ("order", "n", "sign", "AUC", "Spearman", "length slope")
    table = plain_table(*names, right=names[1:2])
    for order, one in (("official", found.official), ("both", found.both)):
        if one is not None:
            slope, rank = (_number(value, digits) for value, digits in ((one.length_slope, 1), (one.spearman, 2)))
            sign, area = share_text(one.accuracy, one.interval), value_text(one.auc, one.auc_interval)
            table.add_row(order, f"{one.n} of {found.expected}", sign, area, rank, slope)
    out.print(table)
    first, slope = _share(found.first_place), _number(found.recorded_slope, 1)
    say(
        f"Against the recorded preferences of GPT-4 turbo, with 95 % intervals. First place: {first} of the decided "
        "presentations. Length slope: percentage points of the model's share for one standard deviation of the "
        f"difference in length; that of GPT-4 is {slope}."
    )
    for why, n in found.invalid.items():
        say(f"no preference in {n} of {found.expected}: {why}")
    if report.people:
        table = plain_table("human labels", "n", "official order", "both orders", "first place", right=["n"])
        for row in report.people:
            shares = [share_text(row[order]["accuracy"], row[order]["interval"]) for order in ("official", "both")]
            table.add_row(row["subset"], str(row["n"]), *shares, _share(row["first_place"]))
        out.print(table)
    if report.models:
        out.print(_models_table(report.models))
    for note in report.notes:
        say(note)


def _models_table(models: list[dict[str, Any]]) -> Any:
    from rich.table import Column

    from selfsteer.commands.tables import plain_table

    heads = ("n", "published\nwin rate, LC", "official order\nwin rate, LC", "both orders\nwin rate, LC")
    table = plain_table(Column("model", overflow="fold"), *(Column(name, no_wrap=True) for name in heads))
    for row in models:
        own = row["judge"]
        published = f"{row['published']['win_rate']:.1f}, {row['published']['length_controlled']:.1f}"
        cells = [
            ", ".join(_number(own[name]["value"] if name in own else None, 1) for name in both)
            for both in (
                ("win_rate", "length_controlled"),
                ("win_rate_both_orders", "length_controlled_both_orders"),
            )
        ]
        table.add_row(row["model"], str(row["n"]), published, *cells)
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
