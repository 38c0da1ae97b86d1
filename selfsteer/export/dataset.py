"""An export: the rows that are taken, in one file or in the folder of a data set with its card."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfsteer.errors import ConfigError, InputError
from selfsteer.export.card import CARD, Card, Licence, is_own_card, write_card, write_notice
from selfsteer.export.llama_factory import INFO, check_entry, dataset_entry, write_entry
from selfsteer.export.options import Exported, ExportOptions
from selfsteer.export.writers import WRITERS, write_shards
from selfsteer.files import atomic_path, remove
from selfsteer.records import Contrast

_OTHER_DATA = (".csv", ".tsv", ".txt", ".arrow", ".gz", ".zip", ".zst", ".yaml", ".pkl")


def is_file(output: Path) -> bool:
    """Return whether an output is a file, by its suffix; a folder is anything else.

    Raises:
        ConfigError: It looks like a kind of file that can't be written.
    """
    suffix = output.suffix.lower()
    if suffix in _OTHER_DATA:
        raise ConfigError(
            f"can't write {suffix} files",
            where=f"--output {output}",
            do=f"use one of {', '.join(WRITERS)}, or a folder",
        )
    return suffix in WRITERS and not output.is_dir()


def check_output(order: ExportOptions, output: Path, *, overwrite: bool = False) -> None:
    """Raise :class:`ConfigError` or :class:`InputError` where an export could not be written, before any work."""
    if is_file(output):
        if output.suffix not in order.form.suffixes:
            what = f"the format {order.format} can't be a {output.suffix} file"
            do = f"use {' or '.join(order.form.suffixes)}, or a folder"
            raise ConfigError(what, where=f"--output {output}", do=do)
        if output.exists() and not overwrite:
            raise InputError("the file is there already", where=str(output), do="name another, or say --overwrite")
        if order.format == "llama-factory":
            check_entry(output.parent / INFO, output.stem, overwrite=overwrite)
        notice = notice_of(output)
        if order.harmful and notice.exists() and not is_own_card(notice):
            what = "the page that warns of harmful targets would go here, and something else is there already"
            raise InputError(what, where=str(notice), do="name the output otherwise, or move that file")
    elif output.exists():
        _check_folder(output, overwrite)


def _check_folder(folder: Path, overwrite: bool) -> None:
    if not folder.is_dir():
        raise InputError("a file stands there", where=str(folder), do="name another folder")
    if not any(folder.iterdir()):
        return
    if not is_own_card(folder / CARD):
        what = "the folder is not empty, and it is no earlier export: it is left alone"
        raise InputError(what, where=str(folder), do="name a new folder")
    if not overwrite:
        raise InputError("there is an export already", where=str(folder), do="name a new folder, or say --overwrite")


def notice_of(output: Path) -> Path:
    """Return where a single file's page stands that warns of harmful targets."""
    return output.with_name(f"{output.name}.README.md")


def export_file(
    contrasts: Iterable[Contrast], order: ExportOptions, output: Path, *, where: str, overwrite: bool = False
) -> Exported:
    """Write rows to one file, atomically; LLaMA-Factory's gets its entry in the ``dataset_info.json`` beside it.

    Where responses to learn are, or may be, harmful (``order.harmful``), a page beside it says so (:func:`notice_of`).

    Args:
        contrasts: Are taken one by one.
        order: What is exported of them.
        output: A file whose suffix the format may have.
        where: The rows' source, for messages.
        overwrite: Replace an earlier file.

    Raises:
        ConfigError: The format can't be that kind of file.
        InputError: The file is there already.
        DataError: No row is left.
        StorageError: It can't be written.
    """
    check_output(order, output, overwrite=overwrite)
    exported = Exported.begin(order)
    with atomic_path(output) as temporary:
        # The writers go by the suffix, which the temporary name hides.
        WRITERS[output.suffix](temporary, exported.through(contrasts), order.schema)
        exported.selection.check(where)
        exported.notice = _warned(exported, notice_of(output))  # before the file itself appears
    if order.format == "llama-factory":
        write_entry(output.parent / INFO, output.stem, dataset_entry(output.name))
    exported.paths = [output]
    return exported


def export_folder(
    contrasts: Iterable[Contrast],
    order: ExportOptions,
    folder: Path,
    *,
    where: str,
    licence: Licence,
    settings: dict[str, Any] | None = None,
    queries: dict[str, int] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a data set folder, whole or not at all: data/train-*, a card, and what LLaMA-Factory needs.

    Args:
        contrasts: Are taken one by one.
        order: What is exported of them.
        folder: Is made; an earlier export there is replaced with ``overwrite``.
        where: The rows' source, for messages.
        licence: Of the queries.
        settings: Of the run, without secrets (:func:`selfsteer.export.redaction.public_settings`); None for a file.
        queries: How many queries were read, aligned on and held out; None for a file.
        overwrite: Replace an earlier export.

    Raises:
        InputError: The folder holds something else.
        DataError: No row is left.
        StorageError: It can't be written.
    """
    folder = folder.resolve()  # the name is the data set's, and "." has none
    check_output(order, folder, overwrite=overwrite)
    exported = Exported.begin(order)
    with _making_way(folder) as make_way, atomic_path(folder) as temporary:
        temporary.mkdir()
        rows = exported.through(contrasts)
        shards = write_shards(temporary / "data", order.form.suffixes[0], rows, order.schema)
        exported.selection.check(where)
        if order.format == "llama-factory":
            data = f"data/{shards[0].name}" if len(shards) == 1 else "data"
            write_entry(temporary / INFO, folder.name, dataset_entry(data))
        card = Card(exported, folder.name, licence, settings, queries)
        write_card(temporary / CARD, card)
        make_way()
    exported.paths = [folder / "data" / shard.name for shard in shards]
    return exported


def _warned(exported: Exported, notice: Path) -> Path | None:
    """Write the page where targets are, or may be, harmful, and return it; else remove that of an earlier export."""
    figures = exported.figures
    if exported.order.harmful and (figures.harmful or figures.unknown):
        write_notice(notice, exported)
        return notice
    if is_own_card(notice):
        remove(notice)
    return None


@contextmanager
def _making_way(folder: Path) -> Iterator[Callable[[], None]]:
    """Yield what moves an earlier export, or an empty folder, aside; it comes back where the new one does not come."""
    aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.old"

    def make_way() -> None:
        if folder.exists():
            folder.rename(aside)

    try:
        yield make_way
    except BaseException:
        if aside.exists():
            aside.rename(folder)
        raise
    remove(aside)
