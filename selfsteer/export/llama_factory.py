"""The ``dataset_info.json`` that describes data files to LLaMA-Factory; other entries in it are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfsteer.errors import DataError, InputError
from selfsteer.files import write_json

INFO = "dataset_info.json"


def dataset_entry(file_name: str) -> dict[str, Any]:
    """Return the entry of an export in the sharegpt preference format.

    Args:
        file_name: A data file, or a folder with data files only, relative to the file of the entry.
    """
    # All tags: with ``tags`` given, LLaMA-Factory sets a missing one to None.
    return {
        "file_name": file_name,
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "system": "system", "chosen": "chosen", "rejected": "rejected"},
        "tags": {
            "role_tag": "from",
            "content_tag": "value",
            "user_tag": "human",
            "assistant_tag": "gpt",
            "observation_tag": "observation",
            "function_tag": "function_call",
            "system_tag": "system",
        },
    }


def check_entry(info: Path, name: str, *, overwrite: bool) -> None:
    """Raise :class:`InputError` if an entry of that name exists, or the file holds something else."""
    if name in _read(info) and not overwrite:
        what = f"an entry {name!r} already exists"
        raise InputError(what, where=str(info), do="name another output, or add --overwrite")


def write_entry(info: Path, name: str, entry: dict[str, Any]) -> None:
    """Add an entry, or replace the one of that name."""
    write_json(info, _read(info) | {name: entry})


def _read(info: Path) -> dict[str, Any]:
    if not info.exists():
        return {}
    try:
        entries = json.loads(info.read_bytes())
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        what = "this dataset_info.json holds no JSON object, so no entry can be added to it"
        raise DataError(what, where=str(info), do="fix or remove it, or choose another folder for the output")
    return entries
