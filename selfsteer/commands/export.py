"""What `selfsteer export` does and prints."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from selfsteer.errors import ConfigError, did_you_mean
from selfsteer.export import (
    Exported,
    ExportOptions,
    Licence,
    RunFacts,
    check_repository,
    export_file,
    export_folder,
    push,
)
from selfsteer.export.dataset import check_output, is_file
from selfsteer.export.redaction import public_settings
from selfsteer.files import remove
from selfsteer.views import View
from selfsteer.workflows.row_source import Source, open_source


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
    order = ExportOptions(format, _view(view), _columns(columns), dropped, finished, harmful)
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


def _folder(found: Source, order: ExportOptions, folder: Path, licence: str | None, *, overwrite: bool) -> Exported:
    recipe = found.recipe
    return export_folder(
        found.rows,
        order,
        folder,
        where=found.where,
        licence=Licence.of(licence, recipe.queries.source if recipe else None),
        run=RunFacts(public_settings(recipe), found.queries) if recipe else None,
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
    order, selection = exported.options, exported.selection
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
