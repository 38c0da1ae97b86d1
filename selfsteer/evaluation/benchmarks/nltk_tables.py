"""NLTK's English sentence tables for the checkers of IFEval and IFBench, from a package: nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfsteer.files import fill_folder
from selfsteer.models import cache_folder


@contextmanager
def nltk_offline() -> Iterator[None]:
    """Let NLTK find its sentence tables, and keep modules that are imported inside from downloading others.

    The checkers' modules call ``nltk.download`` on import. Where the machine is offline they say that they downloaded
    the tables all the same, and fail when the first answer is scored.
    """
    folder = str(cache_folder() / "nltk_data")
    fill_folder(Path(folder, "tokenizers", "punkt_tab", "english"), _write_tables)
    known = os.environ.get("NLTK_DATA", "").split(os.pathsep)
    os.environ["NLTK_DATA"] = os.pathsep.join(dict.fromkeys([*filter(None, known), folder]))
    import nltk

    if folder not in nltk.data.path:  # NLTK was imported before the variable was set
        nltk.data.path.append(folder)
    download = nltk.download
    nltk.download = lambda *_, **__: False
    try:
        yield
    finally:
        nltk.download = download


def _write_tables(folder: Path) -> None:
    """Write the four files of NLTK's form; nltk's own ``save_punkt_params`` takes no folder outside its data."""
    from punkt.data import english

    files = {
        "abbrev_types.txt": sorted(english.ABBREV_TYPES),
        "collocations.tab": sorted("\t".join(pair) for pair in english.COLLOCATIONS),
        "ortho_context.tab": [f"{word}\t{flags}" for word, flags in english.ORTHO_CONTEXT.items()],
        "sent_starters.txt": sorted(english.SENT_STARTERS),
    }
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines), encoding="utf-8", newline="")
