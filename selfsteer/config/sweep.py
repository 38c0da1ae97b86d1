"""Sweep files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

from selfsteer.config.base import NAME, Section, Seed
from selfsteer.config.loading import find, shipped
from selfsteer.config.messages import explain
from selfsteer.config.yaml_lines import read_file


class SweepSettings(Section):
    """A sweep file: one recipe, and in what its variants differ."""

    name: Annotated[str, Field(pattern=NAME)] = "sweep"
    recipe: str
    """A shipped recipe, or a file, relative to the sweep file."""
    variants: dict[str, dict[str, Any] | None] = {}
    """By name, settings as of a recipe, nested or by dotted keys; without any it is the recipe as it is."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """By dotted key, values: each variant under each combination of them."""
    seeds: list[Seed] = []
    """Each variant under each of these seeds."""


class SweepFile(NamedTuple):
    """A sweep file that was read."""

    settings: SweepSettings
    file: Path
    lines: dict[tuple[str, ...], str]
    """Where each key was given."""


def load_sweep(path: str | Path) -> SweepFile:
    """Read a sweep file, or the shipped sweep of that name; raises :class:`ConfigError`."""
    file = find(path, shipped_sweeps(), Path("recipes/sweeps"), "sweep")
    values, lines = read_file(file)
    try:
        return SweepFile(SweepSettings.model_validate(values), file, lines)
    except ValidationError as error:
        raise explain(error.errors(), file, lines, SweepSettings) from error


def shipped_sweeps() -> dict[str, Path]:
    """Names and files of the sweeps that come with the package."""
    return {file.stem: file for file in sorted(shipped().glob("sweeps/*.yaml"))}
