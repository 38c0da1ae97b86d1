"""One message for what is wrong in a recipe: every fault, with its line and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from selfsteer.config.keys import advice, sections_of
from selfsteer.config.recipe import Recipe
from selfsteer.config.yaml_lines import COMMAND_LINE, SHORTHAND, Key, Lines
from selfsteer.errors import ConfigError, SeveralFaults, shortened

_LISTED = 10


def explain(errors: Sequence[ErrorDetails], file: Path, lines: Lines, kind: type[BaseModel] = Recipe) -> ConfigError:
    """Turn pydantic's errors into one message; a union's errors, one a member, are a single fault."""
    # A misspelt key comes before the one that it leaves missing.
    found = sorted(errors, key=lambda error: (not _other_command(error), error["type"] == "missing"))
    by_key: dict[Key, list[ErrorDetails]] = {}
    for error in found:
        path = _blamed(error, lines)
        place = next((n for n, part in enumerate(path) if part.isdigit()), len(path))
        by_key.setdefault(path[:place], []).append(error)  # the items of a list are one fault
    faults = [_fault(same, file, lines, kind) for same in by_key.values()]
    if len(faults) == 1 or _other_command(found[0]):
        return faults[0]
    listed = [shortened(f"\n  {one.where}: {one.what}{_in_short(one.do)}", 500) for one in faults[:_LISTED]]
    more = f"\n  and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
    return SeveralFaults(f"{len(faults)} settings are wrong{''.join(listed)}{more}", do="correct them in one go")


def _fault(same: Sequence[ErrorDetails], file: Path, lines: Lines, kind: type[BaseModel]) -> ConfigError:
    path = _blamed(same[0], lines)
    same = [error for error in same if _blamed(error, lines) == path]
    where = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), str(file))
    error, key = same[0], shortened(".".join(path) or "recipe", 300)
    if error["type"] == "extra_forbidden":
        do = _other_command(error) or advice(".".join(path), list(_section_at(kind, path[:-1]).model_fields), kind)
        return ConfigError(f"unknown key {key!r}", where=where, do=do)
    message = shortened("; or: ".join(dict.fromkeys(in_words(other) for other in same)), 300)
    ours = error["type"] in ("conflict", "unknown_name", "secret", "missing")
    given = "" if ours else f", got {shortened(repr(error['input']), 200)}"
    do = error.get("ctx", {}).get("do") or _example(path, key, [one["type"] for one in same], error["input"], kind)
    return ConfigError(f"wrong value for {key!r}: {message}{given}", where=where, do=do)


def _in_short(do: str) -> str:
    """Return an advice as part of a line of a list: all names of a section would hide the other faults."""
    short = do.partition("Available:")[0].strip().rstrip(".")
    return f"; {short[0].lower()}{short[1:]}" if short else ""


_TAKES = {
    "int_type": "it takes a whole number",
    "int_parsing": "it takes a whole number",
    "int_from_float": "it takes a whole number",
    "float_type": "it takes a number",
    "float_parsing": "it takes a number",
    "finite_number": "it takes a finite number",
    "bool_type": "it takes true or false",
    "bool_parsing": "it takes true or false",
    "string_type": "it takes text",
    "list_type": "it takes a list",
    "dict_type": "it takes a mapping of names to values",
    "model_type": "it is a section with keys of its own",
    "model_attributes_type": "it is a section with keys of its own",
    "missing": "it has to be set",
}


def in_words(error: ErrorDetails) -> str:
    """Return what one of pydantic's errors says, as a reader of the file would say it."""
    context: dict[str, Any] = error.get("ctx", {})
    limits = {"greater_than_equal": ("ge", "at least"), "greater_than": ("gt", "more than"),
              "less_than_equal": ("le", "at most"), "less_than": ("lt", "less than")}  # fmt: skip
    if error["type"] in limits:
        name, words = limits[error["type"]]
        return f"it must be {words} {context[name]:,g}"
    if error["type"] == "literal_error":
        return f"it takes {context['expected']}"
    return _TAKES.get(error["type"], error["msg"])


def _example(path: Key, key: str, kinds: Sequence[str], given: Any, kind: type[BaseModel]) -> str:
    """Return what to write instead: the items as a list, a key of the section, or the key's default."""
    if "list_type" in kinds and isinstance(given, str):
        return f"write it as a list: {key}=[{', '.join(part.strip() for part in given.split(',') if part.strip())}]"
    if any(name.startswith("model_") for name in kinds):
        names = list(_section_at(kind, path).model_fields)
        if inner := SHORTHAND.get(key):
            return f"give one text, {key}=..., for {key}.{inner}; or its keys: {', '.join(names)}"
        return f"set one of its keys, e.g. {key}.{names[0]}=...; they are {', '.join(names)}"
    try:
        default = _section_at(kind, path[:-1]).model_fields[path[-1]].default
    except (KeyError, IndexError, StopIteration):  # a place in a list, or a name of the user's own
        return "correct that value"
    if isinstance(default, bool | int | float | str) and str(default):
        return f"for example {key}={str(default).lower() if isinstance(default, bool) else default}"
    return "correct that value"


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


def _section_at(section: type[BaseModel], path: Key) -> type[BaseModel]:
    named = False
    for part in path:
        if part.isdigit() or named:  # a place in a list, or a name in a mapping, whose kind the step before has found
            named = False
            continue
        section, named = next(sections_of(section.model_fields[part].annotation))
    return section
