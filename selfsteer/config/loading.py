"""Reading recipes, with overrides."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError

from selfsteer.config.base import Section
from selfsteer.config.judge import JudgeSettings
from selfsteer.config.messages import explain
from selfsteer.config.recipe import Recipe
from selfsteer.config.yaml_lines import Dumper, Key, Lines, expand, expanded, parse_yaml, read_file, where_of
from selfsteer.errors import ConfigError, did_you_mean

Tree = TypeVar("Tree", bound=Section)
Overrides = Sequence[str] | Mapping[str, Any]
"""key=value", or values by dotted key."""


class Setting(NamedTuple):
    """A value for a dotted key, and where it was given."""

    key: str
    value: Any
    where: str


def load_recipe(path: str | Path, overrides: Overrides = (), settings: Sequence[Setting] = ()) -> Recipe:
    """Read a recipe file (or the name of a shipped recipe); raises :class:`ConfigError` with the line.

    ``settings`` act before the ``key=value`` overrides do: they make a variant of a sweep.
    """
    return load_tree(Recipe, path, overrides, settings)


def load_tree(kind: type[Tree], path: str | Path, overrides: Overrides = (), settings: Sequence[Setting] = ()) -> Tree:
    """Read a file (or a shipped one by name) of any kind of recipe, as :func:`load_recipe` does."""
    file = find_recipe(path)
    values, lines = read_file(file)
    for setting in settings:
        _set(values, lines, tuple(setting.key.split(".")), setting.value, setting.where)
    return _validated(kind, values, lines, overrides, file)


def from_values(
    kind: type[Tree],
    values: Mapping[str, Any],
    overrides: Overrides = (),
    source: str = "command line",
) -> Tree:
    """Return a tree of values as a recipe file has them, with overrides; raises :class:`ConfigError`."""
    return _validated(kind, expanded(copy.deepcopy(dict(values)), ()), {}, overrides, Path(source))


def read_recipe(recipe: Recipe | str | Path | Mapping[str, Any], overrides: Overrides = ()) -> Recipe:
    """Return a recipe, a file, a shipped one or values as a recipe, with overrides; raises :class:`ConfigError`."""
    if isinstance(recipe, str | Path):
        return load_recipe(recipe, overrides)
    values = recipe.model_dump() if isinstance(recipe, Recipe) else dict(recipe)
    return from_values(Recipe, values, overrides, "the recipe given")


def template_kwargs(given: Sequence[str]) -> dict[str, Any]:
    """Return chat template variables that were given as NAME=VALUE on the command line; raises :class:`ConfigError`."""
    values: dict[str, Any] = {}
    for one in given:
        _apply_override(values, {}, one)
    return judge_settings({"chat_template_kwargs": values}).chat_template_kwargs


def judge_settings(values: dict[str, Any]) -> JudgeSettings:
    """Return the settings of a judge that was named on the command line; raises :class:`ConfigError`."""
    lines: Lines = {(name,): f"--{name.replace('_', '-')}" for name in values}
    return _validated(JudgeSettings, values, lines, (), Path("command line"))


def dump_recipe(recipe: Section) -> str:
    """Return the resolved recipe as YAML that :func:`load_recipe` (or :func:`load_tree`) reads back."""
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def find_recipe(path: str | Path) -> Path:
    """Return the file itself, else the shipped recipe of that name; raises :class:`ConfigError` where neither is."""
    return find(path, shipped_recipes(), Path("recipes"), "recipe")


def find(path: str | Path, shipped: Mapping[str, Path], folder: Path, what: str) -> Path:
    """Return the file itself, else the shipped one of that name, which may be given with the ``folder`` it comes in."""
    file = Path(path)
    with suppress(OSError):  # a name that is too long for a file's
        if file.is_file():
            return file
    name = file.name.removesuffix(".yaml")
    if name in shipped and file.parent in (Path(), folder):
        return shipped[name]
    raise ConfigError(f"no such {what}", where=str(path), do=did_you_mean(name, shipped))


def shipped_recipes() -> dict[str, Path]:
    """Names and files of the recipes that come with the package."""
    return {file.stem: file for file in sorted(shipped().glob("*.yaml"))}


def shipped() -> Path:
    """Return the folder of the shipped recipes: in an installed package, or beside a checkout's."""
    package = Path(str(files("selfsteer")))
    return next((f for f in (package / "recipes", package.parent / "recipes") if f.is_dir()), package)


def _validated(kind: type[Tree], values: dict[str, Any], lines: Lines, overrides: Overrides, file: Path) -> Tree:
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _set(values, lines, tuple(key.split(".")), value, f"override {key!r}")
    else:
        for override in overrides:
            _apply_override(values, lines, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise explain(error.errors(), file, lines, kind) from error


def _apply_override(values: dict[str, Any], lines: Lines, override: str) -> None:
    key, separator, text = override.partition("=")
    path, where = tuple(key.strip().split(".")), where_of(override)
    if not separator or not all(path):
        raise ConfigError("an override has the form key=value", where=where, do="for example train.beta=0.1")
    _set(values, lines, path, parse_yaml(text, path, lines, lambda line: where), where)


def _set(values: dict[str, Any], lines: Lines, path: Key, value: Any, where: str) -> None:
    """Put a value where a dotted key says."""
    target = values
    for depth, part in enumerate(path[:-1], start=1):
        if not isinstance(target.get(part), dict):
            target[part] = {}
            lines[path[:depth]] = where
        target = target[part]
    before, given = target.get(path[-1]), expand(path[:-1], path[-1], value)
    if path == ("queries",) and isinstance(value, str) and isinstance(before, dict):
        # Held-out queries from a file of the old source's kind would measure something else than what is aligned on.
        apart = isinstance(before.get("heldout"), str)
        gone = {"field", "dataset_split", "limit", *(("heldout", "heldout_limit") if apart else ())}
        given = {key: value for key, value in before.items() if key not in gone} | given
    target[path[-1]] = given
    lines[path] = where
