"""What `selfsteer export` does and prints."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from selfsteer.config import Recipe, load_recipe
from selfsteer.errors import ConfigError, InputError, did_you_mean
from selfsteer.export import (
    Exported,
    Licence,
    Order,
    check_repository,
    export_file,
    export_folder,
    push,
    read_source,
)
from selfsteer.export.dataset import check_output, is_file
from selfsteer.export.redaction import public_settings
from selfsteer.files import remove
from selfsteer.records import Contrast, read_rows
from selfsteer.runs.ledger import Ledger
from selfsteer.stages.reader import Rounds, again, check_files, in_force, rounds_in_force
from selfsteer.views import View

_SHARDS = ("*.parquet", "train-*.json*")
"""Files of contrasts, and of an export of the authors' JSON."""


class Source(NamedTuple):
    """Rows to export.

    Attributes:
        rows: Are read while they are taken.
        where: Names them in messages.
        recipe: Of the run they come from, None for a file.
        queries: How many queries the run has, by what became of them.
        notes: What the reader should know, one sentence each.
    """

    rows: Iterator[Contrast]
    where: str
    recipe: Recipe | None = None
    queries: dict[str, int] | None = None
    notes: tuple[str, ...] = ()


def export(
    source: Path,
    format: str,
    output: Path | None,
    *,
    round: int | None,
    view: str,
    columns: str | None,
    dropped: bool,
    finished: bool,
    harmful: bool,
    licence: str | None,
    repository: str | None,
    public: bool,
    overwrite: bool,
    out: Console,
    errors: Console,
) -> Exported:
    """Export the rows of a run directory or a file, and say what went where and what was left out.

    Raises:
        ConfigError: An option is wrong, or does not go with another one.
        InputError: There is no such run or round, or the output is there already.
        DataError: A file can't be read, or no row is left.
        WorkFailed: The upload did not succeed; what was built is kept.
    """
    order = Order(format, _view(view), _columns(columns), dropped, finished, harmful)
    _check_options(output, repository, public=public, licence=licence)
    if output is not None:
        check_output(order, output, overwrite=overwrite)
    found = open_source(source, round)
    for note in found.notes:
        errors.print(note, markup=False, soft_wrap=True)
    if output is not None and is_file(output):
        exported = export_file(found.rows, order, output, where=found.where, overwrite=overwrite)
        _show(exported, output, out)
        return exported
    with _built_in(output, repository) as folder:
        exported = _folder(found, order, folder, licence, overwrite=overwrite)
        address = push(folder, repository, public=public) if repository else ""
    _show(exported, " and ".join(filter(None, [str(output or ""), address])), out)
    return exported


@contextmanager
def _built_in(output: Path | None, repository: str | None) -> Iterator[Path]:
    """Yield the folder to build in: ``output``, or a temporary one, which stays where its upload does not succeed."""
    if output is not None:
        yield output
        return
    parent = Path(tempfile.mkdtemp(prefix="selfsteer-export-"))
    folder = parent / str(repository).rpartition("/")[2]
    try:
        yield folder
    except BaseException:
        if not folder.exists():
            remove(parent)
        raise
    remove(parent)


def open_source(source: Path, round: int | None = None) -> Source:
    """Return the active rows of a run directory, of a folder of files as exports have them, or of a file.

    Of a run these are all rounds that no guard gave up, or one of them. A folder's files lie in it, or in its folder
    ``data`` as an export puts them.

    Raises:
        InputError: There is no such file, run or round, or its rows are not there.
        DataError: It is no file that can be read.
    """
    if (source / "recipe.yaml").is_file():
        return _run(source, round)
    if round is not None:
        what = "only a run directory has rounds, and this is none"
        raise ConfigError(what, where=f"--round {round}, {source}", do="leave --round out")
    if (source.parent.parent / "recipe.yaml").is_file() and source.is_dir():
        what = "results of several settings may lie here, and only the run directory tells which is in force"
        raise InputError(what, where=str(source), do=f"name the run directory, {source.parent.parent}, or one file")
    shards = next(
        filter(None, (sorted(place.glob(kind)) for place in (source / "data", source) for kind in _SHARDS)), []
    )
    if source.is_dir() and shards:
        return Source((row for shard in shards for row in read_source(shard)), str(source))
    if not source.is_file():
        what = (
            "this is no run directory: it has no recipe.yaml" if source.is_dir() else "there is no such file or folder"
        )
        raise InputError(what, where=str(source), do="name a run directory, or a file of rows")
    return Source(read_source(source), str(source))


def _run(run_dir: Path, number: int | None) -> Source:
    recipe = load_recipe(run_dir / "recipe.yaml")
    ledger = Ledger(run_dir)
    rounds = rounds_in_force(recipe, ledger)
    wanted = rounds.rows if number is None else {n: entry for n, entry in rounds.rows.items() if n == number}
    if not wanted:
        what = f"round {number} has no rows" if rounds.rows else rounds.lack
        known = f"rounds with rows: {rounds}" if rounds.rows else again(run_dir, "to go on")
        raise InputError(what, where=str(run_dir), do=known)
    for entry in wanted.values():
        check_files(ledger, entry)
    notes = _left_out(rounds, recipe.rounds) if number is None else ()
    files = [run_dir / name for entry in wanted.values() for name in entry.files]
    queries = in_force(ledger.entries()).get(("queries", 1, False))
    counts = _query_counts(queries.info) if queries else None
    return Source(read_rows(files, Contrast), str(run_dir), recipe, counts, notes)


def _left_out(rounds: Rounds, count: int) -> tuple[str, ...]:
    why = {n: "was given up by a guard" if n in rounds.given_up else "has no rows yet" for n in range(1, count + 1)}
    return tuple(f"round {n} {reason} and is left out" for n, reason in why.items() if n not in rounds.rows)


def _query_counts(info: dict[str, Any]) -> dict[str, int]:
    names = {"read": "queries read", "train": "queries aligned on", "heldout": "queries held out, in no row"}
    return {label: info[name] for name, label in names.items() if isinstance(info.get(name), int)}


def _folder(found: Source, order: Order, folder: Path, licence: str | None, *, overwrite: bool) -> Exported:
    recipe = found.recipe
    return export_folder(
        found.rows,
        order,
        folder,
        where=found.where,
        licence=Licence.of(licence, recipe.queries.source if recipe else None),
        settings=public_settings(recipe) if recipe else None,
        queries=found.queries,
        overwrite=overwrite,
    )


def _check_options(output: Path | None, repository: str | None, *, public: bool, licence: str | None) -> None:
    if repository:
        check_repository(repository)
    elif public:
        raise ConfigError("--public is about an upload", where="--public", do="add --push-to-hub ORG/NAME")
    if output is None and not repository:
        raise ConfigError("nothing says where the rows should go", do="name a file or a folder with --output")
    if output is not None and is_file(output):
        if repository:
            what = "a data set on the Hub is a folder with a card"
            raise ConfigError(what, where=f"--output {output}", do="name a folder, or leave --output out")
        if licence:
            what = "a single file has no card that could name a licence"
            raise ConfigError(what, where="--license", do="name a folder as --output, or leave --license out")


def _view(name: str) -> View:
    views = {str(view): view for view in View}
    if name.replace("-", "_") not in views:
        raise ConfigError(f"unknown view {name!r}", where="--view", do=did_you_mean(name, views))
    return views[name.replace("-", "_")]


def _columns(name: str | None) -> bool | None:
    known = {None: None, "full": True, "minimal": False}
    if name not in known:
        names = ("full", "minimal")
        raise ConfigError(f"unknown columns {name!r}", where="--columns", do=did_you_mean(str(name), names))
    return known[name]


def _show(exported: Exported, target: Path | str, out: Console) -> None:
    order, selection = exported.order, exported.selection
    pairs = f" from {selection.taken:,} pairs" if exported.rows != selection.taken else ""
    kind = f"{order.format}, view {order.view}" if order.form.one_view else order.format
    lines = [f"{exported.rows:,} rows{pairs} of {selection.read:,} ({kind}) are in {target}"]
    if selection.left_out:
        lines.append(f"left out: {selection.describe()}")
    if exported.notice:
        lines.append(
            f"y- that are, or may be, harmful are chosen responses in it: {exported.notice} says so; keep them together"
        )
    if selection.cut and not order.form.finishes:
        lines.append(
            f"pairs with a response that was cut off: {selection.cut:,}; this format can't tell a trainer so, and most "
            "will teach an end there (--finished leaves them out; see docs/exports.md)"
        )
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)
