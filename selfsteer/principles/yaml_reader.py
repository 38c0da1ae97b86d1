"""Reading principle sets from YAML: the shipped ones by name, others by path. Errors say file, line and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from selfsteer.errors import PrincipleError, did_you_mean
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
    path = _FOLDER / f"{name}.yaml" if name in list_sets() else Path(name_or_path).expanduser()
    if not path.is_file():
        raise PrincipleError(
            f"there is no principle set {name!r}",
            do=f"{did_you_mean(path.stem, list_sets())}, or the path of a YAML file",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PrincipleError(f"can't read the principle set: {error}", where=str(path)) from error
    return parse_set(text, where=str(path))


def parse_set(text: str, where: str = "principle set") -> PrincipleSet:
    """Return the set that a YAML text describes; ``where`` names the text in errors.

    Every scalar is read as text first, so that an aspect may be called "No" or "1984".

    Raises:
        PrincipleError: The YAML or the set in it is malformed; ``where`` of the error is "<where>:<line>".
    """
    root = _compose(text, where)
    try:
        return PrincipleSet.model_validate(_plain(root, where))
    except ValidationError as error:
        # A misspelt key is also a missing one: the unknown key is the one to tell.
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        raise _explain(problems[0], len(problems), root, where) from error


def _compose(text: str, where: str) -> yaml.Node:
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise _malformed(error, text, where) from error
    if root is None:
        raise PrincipleError(
            "the principle set is empty", where=where, do="start from `selfsteer principles show brief`"
        )
    return root


def _malformed(error: yaml.YAMLError, text: str, where: str) -> PrincipleError:
    what, line = str(error), 1
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        what, line = error.problem or error.context or what, error.problem_mark.line + 1
    elif isinstance(error, yaml.reader.ReaderError):
        what, line = error.reason, text.count("\n", 0, error.position) + 1
    return PrincipleError(f"this is not YAML: {what}", where=f"{where}:{line}", do="correct that line")


def _plain(node: yaml.Node, where: str, inside: tuple[yaml.Node, ...] = ()) -> object:
    """Turn a node into dicts, lists and texts; a key given twice is an error, not a silent choice of the last."""
    if node in inside:
        raise PrincipleError("an alias contains itself", where=_at(node, where), do="write the text out")
    inside = (*inside, node)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, where, inside) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        return node.value
    result: dict[str, object] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise PrincipleError("a key must be a word", where=_at(key, where), do="correct that line")
        if key.value in result:
            raise PrincipleError(f"the key {key.value!r} is given twice", where=_at(key, where), do="remove one")
        result[key.value] = _plain(value, where, inside)
    return result


def _explain(error: ErrorDetails, count: int, root: yaml.Node, where: str) -> PrincipleError:
    context = error.get("ctx", {})
    loc = (*error["loc"], *context.get("at", ()))
    what, do = _words(error, loc)
    more = f" ({count - 1} more)" if count > 1 else ""
    return PrincipleError(what + more, where=_at(_find(root, loc), where), do=do)


def _words(error: ErrorDetails, loc: Sequence[str | int]) -> tuple[str, str]:
    """Return what is wrong and what to do, in words."""
    key, kind = _dotted(loc), error["type"]
    if kind == "principle_set":
        return error["ctx"]["what"], error["ctx"]["do"]
    if kind == "extra_forbidden":
        known = _KEYS[str(loc[0])] if len(loc) > 1 else PrincipleSet
        return f"unknown key {key!r}", did_you_mean(str(loc[-1]), known.model_fields)
    if kind == "missing":
        return f"{key} is missing", "add it"
    if kind in ("string_too_short", "too_short"):
        return f"{key} is empty", "give it a value or leave the key out" if key == "direction" else "give it a value"
    return f"wrong value for {key}: {error['msg']}", "correct that value"


def _dotted(loc: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".") or "the set"


def _find(root: yaml.Node, loc: Sequence[str | int]) -> yaml.Node:
    """Return the node nearest to a location: a key, a list item, or what holds a key that is missing."""
    found, node = root, root
    for part in loc:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = node = node.value[part]
        elif isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == part]
            if not pairs:
                break
            found, node = pairs[0]
    return found


def _at(node: yaml.Node, where: str) -> str:
    return f"{where}:{node.start_mark.line + 1}"
