"""The variants of a sweep file, each as a recipe of its own."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from selfsteer.config import Recipe, Setting, SweepFile, SweepSettings, find_recipe, load_recipe, load_sweep
from selfsteer.errors import ConfigError, InputError
from selfsteer.limits import MAX_VARIANTS

OWN_FILES = ("sweep.json", "sweep.md", "sweep.html")
"""Files that a sweep writes beside the folders of its runs."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST = 24
"""Characters of a value in a folder's name; a longer one is named by its position in the list."""


class Variant(NamedTuple):
    """One run of a sweep.

    Attributes:
        name: Of its folder, and in tables.
        group: The name without the seed: runs of one group differ in the seed alone.
        settings: By dotted key, its differences from the sweep's recipe.
    """

    name: str
    group: str
    settings: dict[str, Any]
    recipe: Recipe


class Sweep(NamedTuple):
    """A sweep: its name, the recipe that its variants are made from, and the variants."""

    name: str
    recipe: str
    variants: list[Variant]


class _Group(NamedTuple):
    """A variant without its seed."""

    name: str
    settings: list[Setting]


def read_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Return the sweep of a file, or a shipped one; overrides apply to every variant.

    Raises :class:`ConfigError` if it is wrong, has no variants or two that are the same, or a recipe refuses a setting.
    """
    found = load_sweep(path)
    settings = found.settings
    recipe = settings.recipe
    with suppress(OSError):  # a name that is too long for a file's
        beside = found.file.parent / recipe
        recipe = str(beside) if beside.is_file() else recipe
    _check_count(settings)
    seeds: list[Setting | None] = [Setting("seed", seed, _where(found, "seeds")) for seed in settings.seeds]
    drafts = [(group, seed) for group in _groups(found) for seed in seeds or [None]]
    _check_names(found, [_name(*draft) for draft in drafts])
    find_recipe(recipe)
    variants = [_variant(found, recipe, *draft, overrides) for draft in drafts]
    bare = [(variant.name, variant.recipe.model_copy(update={"name": ""})) for variant in variants]
    for (name, one), (later, other) in itertools.combinations(bare, 2):
        if one == other:
            what = f"variants {name!r} and {later!r} are the same recipe in effect"
            do = "remove one, or check whether an override undoes their difference"
            raise ConfigError(what, where=_where(found, "variants", later), do=do)
    return Sweep(settings.name, recipe, variants)


def _check_count(settings: SweepSettings) -> None:
    """Count the variants before they are made: a grid multiplies."""
    count = max(1, len(settings.variants)) * max(1, len(settings.seeds))
    count *= math.prod(map(len, settings.grid.values()))
    if count > MAX_VARIANTS:
        what = f"the sweep has {count:,} variants, and at most {MAX_VARIANTS:,} are planned"
        raise ConfigError(what, where="variants x grid x seeds", do="give fewer values, or several sweeps")


def _groups(found: SweepFile) -> list[_Group]:
    """Return each variant under each combination of the grid's values."""
    settings = found.settings
    if not settings.variants and not settings.grid:
        do = "give variants (a mapping of a name to settings), or a grid (a mapping of a key to a list of values)"
        raise ConfigError("a sweep without variants", where=str(found.file), do=do)
    variants = [
        _Group(name, list(_flat(found, ("variants", name), own or {}))) for name, own in settings.variants.items()
    ]
    last = Counter(key.rpartition(".")[2] for key in settings.grid)
    columns = []
    for key, values in settings.grid.items():
        short = key.rpartition(".")[2]
        texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
        fit = all(_NAME.fullmatch(text) and len(text) <= _LONGEST for text in texts) and len(set(texts)) == len(texts)
        title = key if last[short] > 1 else short
        names = [f"{title}-{text if fit else place}" for place, text in enumerate(texts, start=1)]
        where = _where(found, "grid", key)
        columns.append([_Group(name, [Setting(key, value, where)]) for name, value in zip(names, values, strict=True)])
    return [
        _Group("_".join(part.name for part in parts if part.name), [one for part in parts for one in part.settings])
        for parts in itertools.product(variants or [_Group("", [])], *columns)
    ]


def _flat(found: SweepFile, path: tuple[str, ...], values: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield nested settings by dotted key."""
    for key, value in values.items():
        place = (*path, key)
        if isinstance(value, dict) and value:
            yield from _flat(found, place, value)
        else:
            yield Setting(".".join(place[2:]), value, _where(found, *place))


def _name(group: _Group, seed: Setting | None) -> str:
    return f"{group.name}_seed-{seed.value}" if seed else group.name


def _variant(found: SweepFile, recipe: str, group: _Group, seed: Setting | None, overrides: Sequence[str]) -> Variant:
    name, settings = _name(group, seed), group.settings
    with naming(name):
        given = [(setting.key, setting.where) for setting in settings]
        given += [(override.partition("=")[0].strip(), f"command line: {override}") for override in overrides]
        for key, where in given:
            if key == "name":
                raise ConfigError("the sweep names its variants", where=where, do="leave name out")
            if key == "seed" and seed:
                raise ConfigError("the sweep's seeds set the seed", where=where, do="leave one of them out")
        settings = [*settings, seed] if seed else settings
        title = Setting("name", f"{found.settings.name}-{name}", str(found.file))
        values = {setting.key: setting.value for setting in settings}
        return Variant(name, group.name, values, load_recipe(recipe, overrides, [title, *settings]))


@contextmanager
def naming(variant: str) -> Iterator[None]:
    """Put the variant's name into errors."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"variant {variant!r}: {error.what}", where=error.where, do=error.do) from error


def _check_names(found: SweepFile, names: Sequence[str]) -> None:
    """Refuse names that can't be folders, or that clash on some file systems."""
    seen: dict[str, str] = {}
    for name in names:
        where = _where(found, "variants", name)
        if not _NAME.fullmatch(name) or name in OWN_FILES:
            do = "use letters, digits, dots, dashes and underscores, a letter or digit first"
            raise ConfigError(f"{name!r} can't be a variant's name, which is a folder's", where=where, do=do)
        other = seen.setdefault(name.lower(), name)
        if other != name or names.count(name) > 1:
            what = f"two variants would have one folder: {other!r} and {name!r}"
            raise ConfigError(what, where=where, do="give one of them another name")


def _where(found: SweepFile, *path: str) -> str:
    """Return the line of a key, or of the nearest key above it."""
    near = (found.lines.get(path[:length]) for length in range(len(path), 0, -1))
    return next((line for line in near if line), str(found.file))
