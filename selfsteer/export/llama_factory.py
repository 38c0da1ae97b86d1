"""The ``dataset_info.json`` that describes data files to LLaMA-Factory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfsteer.errors import DataError
from selfsteer.files import open_regular, parse_json

INFO = "dataset_info.json"


def dataset_entry(file_name: str) -> dict[str, Any]:
    """Return the sharegpt preference entry of a data file, or of a folder with data files only, relative to it."""
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


def read_entries(info: Path) -> dict[str, Any]:
    """Return the entries of a ``dataset_info.json``, none where there is no file."""
    if not info.exists():
        return {}
    try:
        with open_regular(info) as stream:
            entries = parse_json(stream.read())
    except (OSError, ValueError):
        entries = None
    if not isinstance(entries, dict):
        what = "this dataset_info.json does not hold a JSON object, so no entry can be added to it"
        raise DataError(what, where=str(info), do="fix or remove it, or choose another folder for the output")
    return entries
