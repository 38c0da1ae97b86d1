"""One message for what is wrong in a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from selfsteer.config.recipe import Recipe
from selfsteer.config.yaml_lines import COMMAND_LINE, Key, Lines
from selfsteer.errors import ConfigError, did_you_mean, shortened


def explain(errors: Sequence[ErrorDetails], file: Path, lines: Lines, kind: type[BaseModel] = Recipe) -> ConfigError:
    """Turn the first of pydantic's errors into one message; a union's errors, one a member, are a single one."""
    # A misspelt key comes after the one that it leaves missing.
    error = min(errors, key=lambda found: (not _other_command(found), found["type"] == "missing"))
    path = _blamed(error, lines)
    same = [other for other in errors if _blamed(other, lines) == path]
    where = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), str(file))
    more = f" ({len(errors) - len(same)} more)" if len(errors) > len(same) else ""
    key = shortened(".".join(path) or "recipe", 300)
    if error["type"] == "extra_forbidden":
        do = _other_command(error) or did_you_mean(path[-1], _keys_at(kind, path[:-1]))
        return ConfigError(f"unknown key {key!r}{more}", where=where, do=do)
    message = shortened("; or: ".join(dict.fromkeys(other["msg"] for other in same)), 300)
    ours = error["type"] in ("conflict", "unknown_name", "secret")
    given = "" if ours else f", got {shortened(repr(error['input']), 200)}"
    do = error.get("ctx", {}).get("do", "correct that value")
    return ConfigError(f"wrong value for {key!r}: {message}{given}{more}", where=where, do=do)


_COMMAND_OF = {"sets": "reward", "recipe": "sweep", "queries": "run"}
"""By a key that only its files have, the command that a file is for."""


def _other_command(error: ErrorDetails) -> str:
    """Return what to do with a file that is another command's, going by an unknown key; "" where it is none."""
    loc = error["loc"]
    command = _COMMAND_OF.get(str(loc[0])) if error["type"] == "extra_forbidden" and len(loc) == 1 else None
    return f"that is a key of `selfsteer {command}`: give the file to that command" if command else ""


def _blamed(error: ErrorDetails, lines: Lines) -> Key:
    """Return the key an error is about; of keys in conflict, one from the command line, else one from the file."""
    path = tuple(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return path
    # Pydantic names the member of a union it tried ("str", "constrained-int") in an error's location.
    branches = ("constrained-", "list[", "dict[", "literal[")
    path = tuple(part for part in path if part not in ("str", "int", "float") and not part.startswith(branches))
    keys = [(*path, *key.split(".")) for key in error.get("ctx", {}).get("keys", ())]
    given = [key for key in keys if key in lines]
    overridden = [key for key in given if lines[key].startswith(COMMAND_LINE)]
    return [*overridden, *given, *keys, path][0]


def _keys_at(section: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    named = False
    for part in path:
        if part.isdigit() or named:  # a place in a list, or a name in a mapping, whose kind the step before has found
            named = False
            continue
        annotation = section.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        section = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
        named = getattr(annotation, "__origin__", None) is dict
    return list(section.model_fields)
