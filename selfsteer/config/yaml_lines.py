"""YAML with the line of each key."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from selfsteer.errors import ConfigError, shortened
from selfsteer.sanitize import names_secret

SHORTHAND = {"model": "name", "queries": "source", "preferences": "source", "judge": "name", "principles.model": "name"}
"""Sections that may be given as one string: it sets this key, and all others take their defaults; but an override by
other queries leaves what is not about the old ones."""


Key = tuple[str, ...]
Lines = dict[Key, str]
"""Where each key was given: "file:line" or "command line: key=value"."""
COMMAND_LINE = "command line: "


_MAX_CHARS, _MAX_VALUES = 200_000, 10_000
"""Limits of a text and of what it stands for: a recipe may come from someone else."""


class _Loader(yaml.SafeLoader):
    """Reads ``1e-5`` as the number that people mean by it; YAML 1.1 takes it for text."""


def where_of(override: str) -> str:
    """Return where an override was given, without what may be a secret in it."""
    key, _, value = override.partition("=")
    secret = names_secret(key) or ("://" in value and not set("@?#").isdisjoint(value))
    return COMMAND_LINE + (f"{key}=(not shown)" if secret else shortened(override, 200))


class Dumper(yaml.SafeDumper):
    """Puts quotes around text that :class:`_Loader` would take for a number."""


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z")
for _kind in (_Loader, Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def read_file(file: Path) -> tuple[dict[str, Any], Lines]:
    """Return a file's values and where each key is; raises :class:`ConfigError`."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the recipe is not UTF-8: {error.reason}", where=str(file), do="save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"can't read the recipe: {error.strerror}", where=str(file)) from error
    lines: Lines = {}
    value = parse_yaml(text, (), lines, lambda line: f"{file}:{line}")
    if value is None:  # all defaults, an hour's work with another model, are nothing to begin by mistake
        do = "write the settings into it, or {} for the default of each"
        raise ConfigError("the recipe is empty", where=str(file), do=do)
    if not isinstance(value, dict):
        raise ConfigError(
            "a recipe is a mapping of keys to values", where=f"{file}:1", do="see recipes/quickstart.yaml"
        )
    return value, lines


def parse_yaml(text: str, path: Key, lines: Lines, where: Callable[[int], str]) -> Any:
    """Return the value at ``path``, noting in ``lines`` where its keys were given.

    Args:
        path: The key that the value belongs to, () for a whole recipe.
        where: Names a line of the text, counted from 1.
    """
    try:
        if len(text) > _MAX_CHARS:
            raise yaml.MarkedYAMLError(problem=f"it has {len(text):,} characters, at most {_MAX_CHARS:,} are read")
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            _check_size(node)
        return None if node is None else _plain(node, path, lines, where)
    except yaml.MarkedYAMLError as error:
        what, line = error.problem, error.problem_mark.line + 1 if error.problem_mark else 1
    except yaml.reader.ReaderError as error:
        what, line = f"character {error.character!r}: {error.reason}", text.count("\n", 0, error.position) + 1
    except RecursionError:
        what, line = "it is nested too deep, or contains itself", 1
    do = "correct that line; text with special characters needs quotes"
    raise ConfigError(f"this is not valid YAML: {what}", where=where(line), do=do)


def _check_size(root: yaml.Node) -> None:
    """Raise where the values are too many once aliases are written out: each may hold many aliases of another."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            parts = node.value if isinstance(node, yaml.SequenceNode) else ()
            parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else parts
            sizes[id(node)] = 1 + sum(map(size, parts))
        return sizes[id(node)]

    if size(root) > _MAX_VALUES:
        problem = f"with its aliases written out it has {size(root):,} values, at most {_MAX_VALUES:,} are read"
        raise yaml.MarkedYAMLError(problem=problem[:200])


def _plain(node: yaml.Node, path: Key, lines: Lines, where: Callable[[int], str]) -> Any:
    """Turn a YAML node into plain values, noting where each key was given; a key given twice is an error."""
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, place = str(key_node.value), where(key_node.start_mark.line + 1)
            if key in result:
                raise ConfigError(f"key {'.'.join((*path, key))!r} is given twice", where=place, do="keep one of them")
            lines[(*path, key)] = place
            value = _plain(value_node, (*path, key), lines, where)
            result[key] = expand(path, key, value)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*path, str(i)), lines, where) for i, child in enumerate(node.value)]
    try:
        return _Loader("").construct_object(node)
    except (ValueError, LookupError, AttributeError, OverflowError) as error:  # PyYAML's own, for a wrong !!tag
        problem = f"{node.value[:80]!r} is no {node.tag.rpartition(':')[2]}"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


def expand(path: Key, key: str, value: Any) -> Any:
    """Write out the short form of a section: ``model: NAME`` is ``model: {name: NAME}``."""
    inner = SHORTHAND.get(".".join((*path, key)))
    return {inner: value} if inner and isinstance(value, str) else value


def expanded(values: dict[str, Any], path: Key) -> dict[str, Any]:
    """Return values with every short form written out."""
    inner = {key: expanded(value, (*path, key)) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: expand(path, key, value) for key, value in inner.items()}
