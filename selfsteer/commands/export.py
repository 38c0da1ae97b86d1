"""`selfsteer export`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfsteer.commands.console import errors, say
from selfsteer.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from selfsteer.export import Exported, ExportOptions


@dataclass(frozen=True)
class ExportArguments:
    """The options of `selfsteer export`."""

    source: Annotated[
        Path, typer.Argument(help="A run directory, a Parquet file of contrasts, or the JSON of the paper's authors.")
    ]
    format: Annotated[str, typer.Option(help="trl, trl-unpaired, llama-factory, authors or contrast.")]
    output: Annotated[
        Path | None, typer.Option(help="A .jsonl, .json or .parquet file, or a folder for a data set with its card.")
    ] = None
    round: Annotated[int | None, typer.Option(help="One round of a run.", show_default="all")] = None
    view: Annotated[str, typer.Option(help="base, positive, negative or negative_strict.")] = "base"
    columns: Annotated[str | None, typer.Option(help="For trl and trl-unpaired: full (the default) or minimal.")] = None
    dropped: Annotated[bool, typer.Option("--all", help="Include the rows that quality control dropped.")] = False
    finished: Annotated[bool, typer.Option("--finished", help="Leave out rows with a response that was cut off.")] = (
        False
    )
    harmful: Annotated[
        bool, typer.Option("--allow-harmful", help="In negative_strict: include y- that are, or may be, harmful.")
    ] = False
    licence: Annotated[
        str | None,
        typer.Option("--license", help="Licence of the queries by its name on the Hub, e.g. cc-by-4.0; for the card."),
    ] = None
    repository: Annotated[
        str | None, typer.Option("--push-to-hub", help="Upload the folder as the private data set ORG/NAME.")
    ] = None
    public: Annotated[bool, typer.Option("--public", help="Make the uploaded data set public.")] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False


def export(arguments: ExportArguments) -> Exported:
    """Write preference pairs for other trainers, as files or a data set with its card; read the authors' pairs.

    Raises:
        ConfigError: An option is wrong, or does not go with another one.
        InputError: There is no such run or round, or the output exists.
        DataError: A file can't be read, or no row is left.
        WorkFailed: The upload did not succeed; what was built is kept.
    """
    from selfsteer.export import Licence, RunFacts, export_file, export_folder, push
    from selfsteer.export.dataset import check_output, is_file
    from selfsteer.export.redaction import public_settings
    from selfsteer.workflows.row_source import open_source

    output, repository, overwrite = arguments.output, arguments.repository, arguments.overwrite
    options = _options(arguments)
    _check_target(arguments)
    if output is not None:
        check_output(options, output, overwrite=overwrite)
    found = open_source(arguments.source, arguments.round)
    for note in found.notes:
        say(note, errors)
    if output is not None and is_file(output):
        exported = export_file(found.rows, options, output, where=found.where, overwrite=overwrite)
        _show(exported, str(output))
        return exported
    with _built_in(output, repository) as folder:
        recipe = found.recipe
        exported = export_folder(
            found.rows, options, folder, where=found.where,
            licence=Licence.of(arguments.licence, recipe.queries.source if recipe else None),
            run=RunFacts(public_settings(recipe), found.queries) if recipe else None, overwrite=arguments.overwrite,
        )  # fmt: skip
        address = push(folder, repository, public=arguments.public) if repository else ""
    _show(exported, " and ".join(filter(None, [str(output or ""), address])))
    return exported


def _options(arguments: ExportArguments) -> ExportOptions:
    from selfsteer.export import ExportOptions
    from selfsteer.views import View

    views, choices = {str(view): view for view in View}, {"full": True, "minimal": False}
    view, columns = arguments.view.replace("-", "_"), arguments.columns
    if view not in views:
        raise ConfigError(f"unknown view {arguments.view!r}", where="--view", do=did_you_mean(arguments.view, views))
    if columns is not None and columns not in choices:
        raise ConfigError(f"unknown columns {columns!r}", where="--columns", do=did_you_mean(columns, choices))
    full = None if columns is None else choices[columns]
    return ExportOptions(arguments.format, views[view], full, arguments.dropped, arguments.finished, arguments.harmful)


def _check_target(arguments: ExportArguments) -> None:
    from selfsteer.export import check_repository
    from selfsteer.export.dataset import is_file

    output = arguments.output
    if arguments.repository:
        check_repository(arguments.repository)
    elif arguments.public:
        raise ConfigError("--public is about an upload", where="--public", do="add --push-to-hub ORG/NAME")
    if output is None and not arguments.repository:
        raise ConfigError("no output is named for the rows", do="name a file or a folder with --output")
    if output is not None and is_file(output):
        if arguments.repository:
            what = "a data set on the Hub is a folder with a card"
            raise ConfigError(what, where=f"--output {output}", do="name a folder, or leave --output out")
        if arguments.licence:
            what = "a single file has no card that could name a licence"
            raise ConfigError(what, where="--license", do="name a folder as --output, or leave --license out")


@contextmanager
def _built_in(output: Path | None, repository: str | None) -> Iterator[Path]:
    """Yield the folder to build in: ``output``, or a temporary one, which stays where its upload does not succeed."""
    from selfsteer.files import remove

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


def _show(exported: Exported, target: str) -> None:
    options, selection = exported.options, exported.selection
    pairs = f" from {selection.taken:,} pairs" if exported.rows != selection.taken else ""
    kind = f"{options.format}, view {options.view}" if options.form.one_view else options.format
    say(f"{exported.rows:,} rows{pairs} of {selection.read:,} ({kind}) are in {target}")
    if selection.left_out:
        say(f"left out: {selection.describe()}")
    if exported.notice:
        say(
            f"y- that are, or may be, harmful are chosen responses in it: {exported.notice} says so; keep them together"
        )
    if selection.cut and not options.form.finishes:
        say(
            f"pairs with a response that was cut off: {selection.cut:,}; this format has no column for it, and most "
            "trainers will teach an end there (--finished leaves them out; see docs/exports.md)"
        )
