"""A page that compares several runs: their figures in charts and a table, from their summaries."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from selfsteer.errors import ConfigError
from selfsteer.files import write_atomic
from selfsteer.report.read_run import clean, load_run
from selfsteer.report.sweep import figures_of, runs_page, scale_notes, sweep_table
from selfsteer.runs.store import output_folder
from selfsteer.version import __version__


def write_runs_report(run_dirs: Sequence[Path], target: Path, command: str) -> Path:
    """Write a page that compares the runs of several directories to ``target`` and return that.

    Raises:
        ConfigError: A run is named twice.
        InputError: A directory has no summary, or one of another schema version.
        StorageError: A summary is damaged, or the page can't be written.
    """
    places = [place.resolve() for place in run_dirs]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise ConfigError("this run is named twice", where=str(twice), do="name each run once")
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        names = list(map(str, run_dirs))
    shown = list(map(clean, names))
    runs = [
        {"name": name, "outcome": "done", **figures_of(load_run(place).summary)}
        for name, place in zip(shown, places, strict=True)
    ]
    reports = {
        name: quote(os.path.relpath(place / "report.html", target.resolve().parent))
        for name, place in zip(shown, places, strict=True)
        if (place / "report.html").exists()
    }
    table = sweep_table({"runs": runs, "means": []})
    table = dataclasses.replace(table, caption="The runs", head=["Run", *table.head[1:]])
    page = runs_page(
        runs, kind="report", name=f"{len(runs)} runs compared", recipe="", table=table, notes=scale_notes(runs),
        reports=reports, command=clean(command), version=__version__,
    )  # fmt: skip
    with output_folder(target, "--output") as part:
        write_atomic(target, page, inside=part)
    return target
