"""Which files of a folder hold rows: plain files, what `datasets` saved, or a data set repository as the Hub has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfsteer.errors import DataError, did_you_mean
from selfsteer.files import parse_json
from selfsteer.queries.file_readers import READERS, format_of

_SAVED, _SAVED_SPLITS, CARD = "state.json", "dataset_dict.json", "README.md"


def has_splits(folder: Path) -> bool:
    """Return whether a folder has splits: a saved ``DatasetDict``, or a data set's repository with its card or data/.

    Selfsteer's own exports are such repositories.
    """
    if not folder.is_dir() or (folder / _SAVED).is_file():
        return False
    if (folder / _SAVED_SPLITS).is_file():
        return True
    card = folder / CARD
    if card.is_file():
        with card.open("rb") as file:
            if file.read(4) in (b"---\n", b"---\r"):  # the card of a data set begins with YAML, no other page does
                return True
    nested = (item for item in folder.glob("*/*") if not item.parent.name.startswith("."))
    return not _plain(folder) and any(map(_holds_rows, nested))


def data_files(folder: Path, split: str | None = None, key: str = "dataset_split") -> list[Path]:
    """Return the files of a folder that hold rows, in the order in which they are read.

    It is a folder of files, of ``Dataset.save_to_disk``, or a repository of a data set. Where it has splits, ``split``
    None takes all of them; ``key`` is the setting that names one, for messages. :class:`DataError`: no file, no such
    split, or the folder's own description of them can't be read.
    """
    if not has_splits(folder):
        files = _saved(folder) if (folder / _SAVED).is_file() else _plain(folder)
        if not files:
            raise DataError("no data file in that folder", where=str(folder), do=f"put one there: {', '.join(READERS)}")
        return files
    if (folder / _SAVED_SPLITS).is_file():
        splits = {name: _saved(folder / name) for name in _described(folder / _SAVED_SPLITS, "splits")}
    else:
        splits = _repository(folder)
    if split is not None and split not in splits:
        do = f"{key}: {did_you_mean(split, splits)}"
        raise DataError(f"no split {split!r} in that folder", where=str(folder), do=do)
    return [file for name, files in splits.items() if split in (None, name) for file in files]


def _plain(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if item.is_file() and _holds_rows(item))


def _holds_rows(path: Path) -> bool:
    return bool(format_of(path)) and not path.name.startswith(".")


def _saved(folder: Path) -> list[Path]:
    return [folder / one["filename"] for one in _described(folder / _SAVED, "_data_files")]


def _described(file: Path, name: str) -> list[Any]:
    """Return a list of a file that `datasets` wrote beside the data."""
    try:
        found: list[Any] = parse_json(file.read_bytes())[name]
    except (OSError, ValueError, LookupError) as error:
        what = f"can't read which files belong to that data set: {type(error).__name__}: {error}"
        raise DataError(what, where=str(file), do="save it again, or name its .arrow files") from error
    return found


def _repository(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each split as `datasets` finds them, from the card or from names; nothing is loaded."""
    import datasets

    try:
        found = datasets.load_dataset_builder(str(folder)).config.data_files or {}
    except (OSError, ValueError, LookupError, datasets.exceptions.DatasetsError) as error:
        what = f"can't find out which files belong to that data set: {' '.join(str(error).split())}"
        raise DataError(what, where=str(folder), do="name one of its files, or a folder of such files") from error
    return {str(name): [Path(file) for file in files] for name, files in found.items()}
