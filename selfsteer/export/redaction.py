"""Removes from exports what should not leave the machine: its folders, addresses of servers, keys."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from selfsteer.config import Recipe
from selfsteer.records import Contrast
from selfsteer.sanitize import names_secret

LEFT_OUT = "(left out)"

# Leading folders of a path that is absolute, of a home folder or relative with dots; a hub name (org/name) stays.
_FOLDERS = re.compile(r"(?<![\w.\-/\\])(?:~\w*|[A-Za-z]:|\.{1,2})?[\\/]+(?=\S)(?:[^\\/:\n]+[\\/]+)*")
_ADDRESSES = ("base_url",)
_FILES = re.compile(r"\.(jsonl|json|parquet|csv|tsv|txt)(\.gz)?$", re.IGNORECASE)


def public_text(text: str) -> str:
    """Return a short text without the folders of a path in it; a web address loses its user and its query."""
    if "://" in text:
        return re.sub(r"://[^/@\s]+@", "://", text).partition("?")[0]
    return _FOLDERS.sub("", text.rstrip("/\\") if len(text) > 1 else text)


def public_row(row: Contrast) -> Contrast:
    """Return a row without folders of this machine in its provenance. Prompts and responses are unchanged."""
    provenance = {key: public_text(value) for key, value in row.provenance.items()}
    return row if provenance == row.provenance else dataclasses.replace(row, provenance=provenance)


def public_settings(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's settings for a card: file names without folders, no addresses of servers, no keys."""
    values: dict[str, Any] = _public(recipe.model_dump(mode="json"), "")
    for name in ("source", "heldout"):  # of a file the name alone; a built-in set, a hub data set and a number stay
        source = values["queries"][name]
        if isinstance(source, str) and _FILES.search(source):
            values["queries"][name] = re.split(r"[\\/]", source)[-1]
    return values


def _public(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _public(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_public(item, key) for item in value]
    if not isinstance(value, str):
        return value
    return LEFT_OUT if key in _ADDRESSES or names_secret(key) else public_text(value)  # by the key's name
