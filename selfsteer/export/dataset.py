"""An export: the selected rows in one file, or in the folder of a data set with its card."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from selfsteer.errors import ConfigError, InputError
from selfsteer.export.card import CARD, Licence, RunFacts, is_own_card, write_card, write_notice
from selfsteer.export.llama_factory import INFO, dataset_entry, read_entries
from selfsteer.export.options import Exported, ExportOptions
from selfsteer.export.writers import WRITERS, write_shards
from selfsteer.files import atomic_path, remove, write_json
from selfsteer.records import Contrast
from selfsteer.runs.store import make_way, output_folder, restore_output

_OTHER_DATA = (".csv", ".tsv", ".txt", ".arrow", ".gz", ".zip", ".zst", ".yaml", ".pkl")


def is_file(output: Path) -> bool:
    """Return whether an output is a file, by its suffix; a folder is anything else.

    Raises:
        ConfigError: It is of a file type that can't be written.
    """
    suffix = output.suffix.lower()
    if suffix in _OTHER_DATA:
        do = f"use one of {', '.join(WRITERS)}, or a folder"
        raise ConfigError(f"can't write {suffix} files", where=f"--output {output}", do=do)
    return suffix in WRITERS and not output.is_dir()


def check_output(options: ExportOptions, output: Path, *, overwrite: bool = False) -> None:
    """Raise :class:`ConfigError` or :class:`InputError` where an export could not be written, before any work.

    What an export to it that was killed has left is put in order first (:func:`restore_output`).
    """
    single = is_file(output)
    restore_output(output if single else output.resolve())
    if single:
        if output.suffix not in options.form.suffixes:
            what = f"the format {options.format} can't be a {output.suffix} file"
            do = f"use {' or '.join(options.form.suffixes)}, or a folder"
            raise ConfigError(what, where=f"--output {output}", do=do)
        if output.exists() and not overwrite:
            raise InputError("the file already exists", where=str(output), do="name another file, or add --overwrite")
        info = output.parent / INFO
        if options.format == "llama-factory" and output.stem in read_entries(info) and not overwrite:
            what, do = f"an entry {output.stem!r} already exists", "name another output, or add --overwrite"
            raise InputError(what, where=str(info), do=do)
        notice = notice_of(output)
        if options.harmful and notice.exists() and not is_own_card(notice):
            what = "the page that warns of harmful targets would go here, and another file is in its place"
            raise InputError(what, where=str(notice), do="name another output, or move that file")
    elif output.exists() and not output.is_dir():
        raise InputError("a file of that name exists", where=str(output), do="name another folder")
    elif output.exists() and any(output.iterdir()):
        if not is_own_card(output / CARD):
            what = "the folder is not empty and is not an earlier export, so it is not replaced"
            raise InputError(what, where=str(output), do="name a new folder")
        if not overwrite:
            do = "name a new folder, or add --overwrite"
            raise InputError("the folder already holds an export", where=str(output), do=do)


def notice_of(output: Path) -> Path:
    """Return the path of the page beside a single file that warns of harmful targets."""
    return output.with_name(f"{output.name}.README.md")


def export_file(
    contrasts: Iterable[Contrast], options: ExportOptions, output: Path, *, where: str, overwrite: bool = False
) -> Exported:
    """Write rows to one file, atomically; for LLaMA-Factory also its entry in the ``dataset_info.json`` beside it.

    If targets are, or may be, harmful (``options.harmful``), a page beside it warns of them (:func:`notice_of`).
    ``where`` names the rows' source in messages.

    Args:
        output: A file with a suffix that the format supports.

    Raises:
        ConfigError: The format does not support that file type.
        InputError: The file already exists.
        DataError: No row is left.
        StorageError: It can't be written.
    """
    check_output(options, output, overwrite=overwrite)
    exported = Exported(options)
    with output_folder(output) as part:
        with atomic_path(output, inside=part) as temporary:
            # By the output's suffix: the temporary name has another one.
            WRITERS[output.suffix](temporary, exported.through(contrasts), options.schema)
            exported.selection.check(where)
            notice, figures = notice_of(output), exported.figures
            if options.harmful and (figures.harmful or figures.unknown):
                write_notice(notice, exported, inside=part)  # before the file itself appears
                exported.notice = notice
            elif is_own_card(notice):  # of an earlier export
                remove(notice)
        if options.format == "llama-factory":
            info = output.parent / INFO  # other entries are kept
            write_json(info, read_entries(info) | {output.stem: dataset_entry(output.name)}, inside=part)
    exported.paths = [output]
    return exported


def export_folder(
    contrasts: Iterable[Contrast],
    options: ExportOptions,
    folder: Path,
    *,
    where: str,
    licence: Licence,
    run: RunFacts | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a data set folder, whole or not at all: data/train-*, a card, and what LLaMA-Factory needs.

    Args:
        run: Facts on the run for the card; None for the rows of a file.

    Raises:
        InputError: The folder holds anything but an earlier export.
        DataError: No row is left.
        StorageError: It can't be written.
    """
    folder = folder.resolve()  # the name is the data set's, and "." has none
    check_output(options, folder, overwrite=overwrite)
    exported = Exported(options)
    with output_folder(folder) as part, atomic_path(folder, inside=part) as temporary:
        temporary.mkdir()
        rows = exported.through(contrasts)
        shards = write_shards(temporary / "data", options.form.suffixes[0], rows, options.schema)
        exported.selection.check(where)
        if options.format == "llama-factory":
            data = f"data/{shards[0].name}" if len(shards) == 1 else "data"
            write_json(temporary / INFO, {folder.name: dataset_entry(data)})
        write_card(temporary / CARD, exported, folder.name, licence, run)
        make_way(folder, part)
    exported.paths = [folder / "data" / shard.name for shard in shards]
    return exported
