"""A finished run without a model, for tests that only read it (or copy it before they change it)."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from selfsteer import cli
from selfsteer.loop import run

from .helpers import scripted_recipe, without_reports, write_queries


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    return write_queries(tmp_path_factory.mktemp("queries"))


@pytest.fixture(scope="module")
def scripted_run(tmp_path_factory, queries):
    run_dir = tmp_path_factory.mktemp("runs") / "scripted"
    with without_reports():
        run(scripted_recipe(queries), run_dir)
    return run_dir


@pytest.fixture
def hub(monkeypatch) -> Callable[..., None]:
    """Put a data set on the hub that this process sees: ``hub("org/name", filtered=ROWS)``; all others are missing."""
    import datasets

    there: dict[tuple[str, str | None, str], datasets.Dataset] = {}

    def load_dataset(name: str, config: str | None, split: str) -> datasets.Dataset:
        if (name, config, split) not in there:
            raise ValueError(f'Unknown split "{split}" of {name}, {config}')
        return there[name, config, split]

    def put(name: str, **splits: list[dict[str, Any]]) -> None:
        path, _, config = name.partition(":")
        for split, rows in splits.items():
            there[path, config or None, split] = datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return put


@pytest.fixture
def command_line(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; returns exit code, output and errors."""

    # Where COLUMNS was set when the module was imported, as in a worker of xdist, the console keeps that width.
    for console in (cli.out, cli.errors):
        monkeypatch.setattr(console, "_width", None)

    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selfsteer", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call
