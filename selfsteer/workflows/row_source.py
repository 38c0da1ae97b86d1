"""Stored rows of a run directory, a folder or a file, as `export` and `filter` read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from selfsteer.config import Recipe, load_recipe
from selfsteer.errors import ConfigError, InputError
from selfsteer.export import read_source
from selfsteer.records import Contrast, read_rows
from selfsteer.runs.active import active_records, active_rounds, check_files, rerun_command
from selfsteer.runs.ledger import Ledger


class Source(NamedTuple):
    """Stored rows, read lazily, with their name in messages and notes for the user.

    ``queries`` are the numbers of the run's queries: read, aligned on, held out.
    """

    rows: Iterator[Contrast]
    where: str
    recipe: Recipe | None = None
    queries: dict[str, int] | None = None
    notes: tuple[str, ...] = ()


def open_source(source: Path, round: int | None = None) -> Source:
    """Return the active rows of a run directory, of a folder of files, or of a file.

    For a run these are all rounds that no guard rejected, or one of them. A folder has its files directly in it, or in
    its folder ``data``, as an export has them.

    Raises:
        ConfigError: ``round`` is given for something other than a run directory.
        InputError: There is no such file, run or round, or its rows are missing.
        DataError: The file can't be read.
    """
    if (source / "recipe.yaml").is_file():
        return _run(source, round)
    if round is not None:
        what = "only a run directory has rounds, and this is not one"
        raise ConfigError(what, where=f"--round {round}, {source}", do="leave --round out")
    if (source.parent.parent / "recipe.yaml").is_file() and source.is_dir():
        what = "this folder may hold results of several settings, and only the run directory says which are active"
        raise InputError(what, where=str(source), do=f"name the run directory, {source.parent.parent}, or one file")
    shards = next(
        filter(None, (sorted(place.glob(kind)) for place in (source / "data", source) for kind in _SHARDS)), []
    )
    if source.is_dir() and shards:
        return Source((row for shard in shards for row in read_source(shard)), str(source))
    if source.is_dir() or not source.exists():
        what = "not a run directory: it has no recipe.yaml" if source.is_dir() else "no such file or folder"
        raise InputError(what, where=str(source), do="name a run directory, or a file of rows")
    return Source(read_source(source), str(source))


def _run(run_dir: Path, number: int | None) -> Source:
    recipe = load_recipe(run_dir / "recipe.yaml")
    ledger = Ledger(run_dir)
    rounds = active_rounds(recipe, ledger)
    wanted = rounds.rows if number is None else {n: entry for n, entry in rounds.rows.items() if n == number}
    if not wanted:
        what = f"round {number} has no rows" if rounds.rows else rounds.lack
        known = f"rounds with rows: {rounds}" if rounds.rows else rerun_command(run_dir, "to continue")
        raise InputError(what, where=str(run_dir), do=known)
    for entry in wanted.values():
        check_files(ledger, entry)
    why = {n: "was rejected by a guard" if n in rounds.given_up else "has no rows yet"
           for n in range(1, recipe.rounds + 1) if number is None and n not in rounds.rows}  # fmt: skip
    notes = tuple(f"round {n} {reason} and is left out" for n, reason in why.items())
    files = [run_dir / name for entry in wanted.values() for name in entry.files]
    queries = active_records(ledger.entries()).get(("queries", 1, False))
    info = queries.info if queries else {}
    counts = {label: info[name] for name, label in _COUNTS.items() if isinstance(info.get(name), int)}
    return Source(read_rows(files, Contrast), str(run_dir), recipe, counts if queries else None, notes)


_COUNTS = {"read": "queries read", "train": "queries aligned on", "heldout": "queries held out, in no row"}
_SHARDS = ("*.parquet", "train-*.json*")
"""Files of contrasts, and of an export of the authors' JSON."""
