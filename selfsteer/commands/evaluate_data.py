"""`selfsteer evaluate data`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from selfsteer.commands.console import out, say
from selfsteer.errors import DataError


def evaluate_data(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Folder of data files.", show_default="the downloaded ones"),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table to this file.")] = None,
) -> None:
    """Show which benchmarks' data are there, by their content, and where to get those that are missing.

    Raises:
        DataError: There is no such folder, or a file can't be read.
    """
    from selfsteer.commands.tables import plain_table
    from selfsteer.evaluation.benchmarks.data import data_report
    from selfsteer.evaluation.benchmarks.table import model_benchmarks
    from selfsteer.files import write_json
    from selfsteer.runs.store import output_folder

    if folder and not folder.is_dir():
        raise DataError("there is no such folder", where=str(folder), do="give the folder that holds the data files")
    files = data_report(folder)
    table = plain_table("benchmark", "file", "version", "rows", "sha256", "state", right=["rows"])
    titles = model_benchmarks()
    for one in files:
        version = commit[1][:8] if (commit := re.search(r"@([0-9a-f]{40}):", one["version"])) else "-"
        rows = f"{one['n']:,}" + f" of {one['expected']:,}" * (one["n"] != one["expected"] != 0)
        cells = (titles[one["benchmark"]].title, one["file"], version, rows, one["sha256"][:12] or "-", one["state"])
        table.add_row(*cells)
    out.print(table)
    for one in files:
        if one["state"] == "missing":
            how = "`evaluate model` downloads it from" if one["fetchable"] else "get it from"
            say(f"missing: {one['path']} ({titles[one['benchmark']].title}): {how} {one['version']}")
    if json_file:
        with output_folder(json_file, "--json") as part:
            write_json(json_file, {"files": files}, inside=part)
