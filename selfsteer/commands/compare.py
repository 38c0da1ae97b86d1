"""`selfsteer compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from selfsteer.commands.console import say
from selfsteer.errors import ConfigError


@dataclass(frozen=True)
class CompareArguments:
    """The options of `selfsteer compare`."""

    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS",
            help="JSON files of `evaluate model`, or folders that hold them; the others are compared with the first "
            "model.",
        ),
    ]
    suite: Annotated[
        str | None,
        typer.Option(help="Suites and benchmarks to compare, separated by commas.", show_default="all that are there"),
    ] = None
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw them into this PNG file.", show_default="comparison.png beside the first result"),
    ] = None


def compare(arguments: CompareArguments) -> None:
    """Compare models item by item: each metric, its paired difference to the first model, and what n can show.

    Raises:
        ConfigError: There is only one model, or an option is wrong.
        DataError: A file is no result or damaged, or the results differ in data, protocol or judge.
    """
    from selfsteer.commands.compare_tables import show_comparison
    from selfsteer.files import atomic_path, write_json
    from selfsteer.report.figures.benchmarks import write_picture
    from selfsteer.runs.store import output_folder
    from selfsteer.workflows.compare import compare_results, comparison_json

    first = arguments.sources[0]
    picture = arguments.picture or (first if first.is_dir() else first.parent) / "comparison.png"
    if picture.suffix.lower() != ".png":
        raise ConfigError(f"{picture.name} is no name of a PNG file", where="--picture", do="end it with .png")
    comparison = compare_results(arguments.sources, arguments.suite)
    show_comparison(comparison)
    found = comparison_json(comparison)
    if arguments.json_file:
        with output_folder(arguments.json_file, "--json") as part:
            write_json(arguments.json_file, found, inside=part)
    with output_folder(picture, "--picture") as part, atomic_path(picture, inside=part) as temporary:
        write_picture(found, temporary)
    say(f"picture: {picture}")
