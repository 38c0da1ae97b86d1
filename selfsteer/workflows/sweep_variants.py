"""The variants of a sweep: what a sweep file asks for, each as a recipe of its own."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from selfsteer.config import Recipe, Setting, SweepFile, find_recipe, load_recipe, load_sweep
from selfsteer.errors import ConfigError, InputError

OWN_FILES = ("sweep.json", "sweep.md", "sweep.html")
"""What a sweep writes beside the folders of its runs."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST = 24
"""Characters of a value that may stand in a folder's name; a longer one is named by its place in the list."""


class Variant(NamedTuple):
    """One run of a sweep.

    Attributes:
        name: Its folder, and what tables call it.
        group: The name without the seed: runs of one group differ in nothing else.
        settings: What makes it differ from the sweep's recipe, by dotted key.
        recipe: Its recipe; the name of that is the sweep's and the variant's.
    """

    name: str
    group: str
    settings: dict[str, Any]
    recipe: Recipe


class Sweep(NamedTuple):
    """A sweep: its name, the recipe that its variants are made of, and these."""

    name: str
    recipe: str
    variants: list[Variant]


class _Draft(NamedTuple):
    """A variant in the making."""

    name: str
    settings: list[Setting]


def read_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Return the sweep of a file, or a shipped one, with overrides that act on every variant.

    Raises:
        ConfigError: The file is wrong, it has no variants, two are the same, or a setting of one is refused.
    """
    found = load_sweep(path)
    settings = found.settings
    beside = found.file.parent / settings.recipe
    recipe = str(beside) if beside.is_file() else settings.recipe
    drafts = [(group, seed) for group in _groups(found) for seed in _seeds(found)]
    _check_names(found, [_name(*draft) for draft in drafts])
    find_recipe(recipe)
    variants = [_variant(found, recipe, *draft, overrides) for draft in drafts]
    _check_same(found, variants)
    return Sweep(settings.name, recipe, variants)


def _seeds(found: SweepFile) -> list[Setting | None]:
    seeds = found.settings.seeds
    return [Setting("seed", seed, _where(found, "seeds")) for seed in seeds] or [None]


def _groups(found: SweepFile) -> list[_Draft]:
    """Return each variant under each combination of the grid's values."""
    settings = found.settings
    if not settings.variants and not settings.grid:
        do = "give variants (a mapping of a name to settings), or a grid (a mapping of a key to a list of values)"
        raise ConfigError("a sweep without variants", where=str(found.file), do=do)
    named = [_Draft(name, list(_flat(found, ("variants", name), own or {}))) for name, own in settings.variants.items()]
    return [_joined([one, *cells]) for one in named or [_Draft("", [])] for cells in _cells(found)]


def _joined(parts: Sequence[_Draft]) -> _Draft:
    name = "_".join(part.name for part in parts if part.name)
    return _Draft(name, [setting for part in parts for setting in part.settings])


def _flat(found: SweepFile, path: tuple[str, ...], values: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield nested settings by dotted key."""
    for key, value in values.items():
        place = (*path, key)
        if isinstance(value, dict) and value:
            yield from _flat(found, place, value)
        else:
            yield Setting(".".join(place[2:]), value, _where(found, *place))


def _cells(found: SweepFile) -> Iterator[tuple[_Draft, ...]]:
    """Yield the combinations of the grid's values; one without any where there is no grid."""
    grid = found.settings.grid
    last = Counter(key.rpartition(".")[2] for key in grid)
    columns = []
    for key, values in grid.items():
        short = key.rpartition(".")[2]
        names = _names_of(key if last[short] > 1 else short, values)
        where = _where(found, "grid", key)
        columns.append([_Draft(name, [Setting(key, value, where)]) for name, value in zip(names, values, strict=True)])
    return itertools.product(*columns)


def _names_of(key: str, values: Sequence[Any]) -> list[str]:
    """Return names for a setting's values: "beta-0.1"; by their places where one is long or no fit name."""
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    fit = all(_NAME.fullmatch(text) and len(text) <= _LONGEST for text in texts) and len(set(texts)) == len(texts)
    return [f"{key}-{text if fit else place}" for place, text in enumerate(texts, start=1)]


def _variant(found: SweepFile, recipe: str, draft: _Draft, seed: Setting | None, overrides: Sequence[str]) -> Variant:
    name = _name(draft, seed)
    settings = [*draft.settings, *([seed] if seed else [])]
    with naming(name):
        _check_own(settings, seed, overrides)
        title = Setting("name", f"{found.settings.name}-{name}", str(found.file))
        values = {setting.key: setting.value for setting in settings}
        return Variant(name, draft.name, values, load_recipe(recipe, overrides, [title, *settings]))


def _check_own(settings: Sequence[Setting], seed: Setting | None, overrides: Sequence[str]) -> None:
    """Refuse what the sweep itself sets."""
    given = [(setting.key, setting.where) for setting in settings if setting is not seed]
    given += [(override.partition("=")[0].strip(), f"command line: {override}") for override in overrides]
    for key, where in given:
        if key == "name":
            raise ConfigError("a variant is called by its name in the sweep", where=where, do="leave name out")
        if key == "seed" and seed:
            raise ConfigError("the sweep's seeds set the seed", where=where, do="leave one of them out")


def _name(draft: _Draft, seed: Setting | None) -> str:
    return f"{draft.name}_seed-{seed.value}" if seed else draft.name


@contextmanager
def naming(variant: str) -> Iterator[None]:
    """Say in an error which variant it is about."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"variant {variant!r}: {error.what}", where=error.where, do=error.do) from error


def _check_names(found: SweepFile, names: Sequence[str]) -> None:
    """Refuse names that are no folders, or not of their own on every file system."""
    seen: dict[str, str] = {}
    for name in names:
        where = _where(found, "variants", name)
        if not _NAME.fullmatch(name) or name in OWN_FILES:
            do = "use letters, digits, dots, dashes and underscores, a letter or digit first"
            raise ConfigError(f"{name!r} can't be a variant's name: it names a folder", where=where, do=do)
        other = seen.setdefault(name.lower(), name)
        if other != name or names.count(name) > 1:
            what = f"two variants would have one folder: {other!r} and {name!r}"
            raise ConfigError(what, where=where, do="give one of them another name")


def _check_same(found: SweepFile, variants: Sequence[Variant]) -> None:
    seen: list[tuple[Recipe, str]] = []
    for variant in variants:
        bare = variant.recipe.model_copy(update={"name": ""})
        same = next((name for recipe, name in seen if recipe == bare), None)
        if same is not None:
            what = f"variants {same!r} and {variant.name!r} are the same recipe in effect"
            do = "take one out, or look whether an override undoes what makes them differ"
            raise ConfigError(what, where=_where(found, "variants", variant.name), do=do)
        seen.append((bare, variant.name))


def _where(found: SweepFile, *path: str) -> str:
    """Return the line of a key, or of what is nearest above it."""
    near = (found.lines.get(path[:length]) for length in range(len(path), 0, -1))
    return next((line for line in near if line), str(found.file))
