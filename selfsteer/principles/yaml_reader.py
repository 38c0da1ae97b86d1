"""Reading principle sets from YAML: the shipped ones by name, others by path. Errors name file, line and fix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from selfsteer.config.messages import in_words
from selfsteer.config.yaml_lines import Lines, parse_yaml
from selfsteer.errors import ConfigError, PrincipleError, did_you_mean
from selfsteer.files import home_expanded
from selfsteer.principles.principle_set import Aspect, Example, PrincipleSet

_FOLDER = Path(__file__).parent / "sets"
_KEYS: dict[str, type[BaseModel]] = {"aspects": Aspect, "few_shot": Example}


def list_sets() -> list[str]:
    """Return the names of the shipped principle sets."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_set(name_or_path: str | Path) -> PrincipleSet:
    """Return a shipped set by its name, or the set in a YAML file.

    Raises:
        PrincipleError: There is no such set or file, or it is malformed.
    """
    name = str(name_or_path)
    path = _FOLDER / f"{name}.yaml" if name in list_sets() else home_expanded(name_or_path)
    if not path.is_file():
        do = f"{did_you_mean(path.stem, list_sets())}, or the path of a YAML file"
        raise PrincipleError(f"no such principle set: {name!r}", do=do)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PrincipleError(f"can't read the principle set: {error}", where=str(path)) from error
    return parse_set(text, where=str(path))


def parse_set(text: str, where: str = "principle set") -> PrincipleSet:
    """Return the set that a YAML text describes; ``where`` names the text in errors.

    Raises:
        PrincipleError: The YAML or the set in it is malformed; ``where`` of the error is "<where>:<line>".
    """
    lines: Lines = {}
    try:
        parse_yaml(text, (), lines, lambda line: f"{where}:{line}")
        # Read again as text alone, so that an aspect may be called "No" or "1984".
        values = yaml.load(text, Loader=yaml.BaseLoader)
    except ConfigError as error:
        raise PrincipleError(error.what, where=error.where, do=error.do) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PrincipleError("a key must be a word", where=f"{where}:{line}", do="correct that line") from error
    if values is None:
        do = "start from `selfsteer principles show brief`"
        raise PrincipleError("the principle set is empty", where=where, do=do)
    try:
        return PrincipleSet.model_validate(values)
    except ValidationError as error:
        # A misspelt key is also a missing one: report the unknown key.
        first, *others = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        loc = (*first["loc"], *first.get("ctx", {}).get("at", ()))
        what, do = _words(first, loc)
        more = f" ({len(others)} more)" if others else ""
        # The line of the key, or of the first key beside one that is missing.
        path = tuple(map(str, loc))
        depths = range(len(path), -1, -1)
        place = next((at for end in depths for key, at in lines.items() if key[:end] == path[:end]), f"{where}:1")
        raise PrincipleError(what + more, where=place, do=do) from error


def _words(error: ErrorDetails, loc: Sequence[str | int]) -> tuple[str, str]:
    """Return what is wrong and what to do, in words."""
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    key, kind = dotted or "the set", error["type"]
    if kind == "principle_set":
        return error["ctx"]["what"], error["ctx"]["do"]
    if kind == "extra_forbidden":
        known = _KEYS[str(loc[0])] if len(loc) > 1 else PrincipleSet
        return f"unknown key {key!r}", did_you_mean(str(loc[-1]), known.model_fields)
    if kind == "missing":
        return f"{key} is missing", "add it"
    if kind in ("string_too_short", "too_short"):
        return f"{key} is empty", "give it a value or leave the key out" if key == "direction" else "give it a value"
    return f"wrong value for {key}: {in_words(error)}", "correct that value"
