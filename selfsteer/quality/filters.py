"""The filters by name (paper, section 4), how they are configured, and how their counts are read.

A new filter is one class and its name in the list of :data:`FILTERS`; :mod:`selfsteer.quality.chain` runs them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from selfsteer.errors import ConfigError, did_you_mean, shortened
from selfsteer.quality.base import Filter, FilterSpec
from selfsteer.quality.drop_counts import DROPPED_BEFORE, KEPT
from selfsteer.quality.reward import RewardMargin
from selfsteer.quality.score_filters import NearOnpolicy, PreferenceOrder, SelfReward, SteeringGap, SteeringMargin
from selfsteer.quality.set_filters import Duplicates, LengthBias
from selfsteer.quality.text_filters import (
    DirectionFilter,
    Empty,
    Identical,
    LanguageMismatch,
    Leak,
    LengthRatio,
    RefusalMismatch,
    Repetition,
    Truncated,
)
from selfsteer.records import Contrast

_KINDS: list[type[Filter]] = [
    Empty, Identical, Leak, DirectionFilter, Truncated, Repetition, LengthRatio, RefusalMismatch, LanguageMismatch,
    Duplicates, LengthBias, PreferenceOrder, NearOnpolicy, SteeringGap, SteeringMargin, SelfReward, RewardMargin,
]  # fmt: skip
FILTERS = {kind.name: kind for kind in _KINDS}
"""The filters by their names in a recipe."""

_FEW = 0.2
"""A smaller share of kept rows is worth a warning."""


@dataclasses.dataclass(frozen=True)
class FilterReport:
    """The result of filtering.

    Attributes:
        rows: All rows, in the order and number given; a dropped one has ``kept=False`` and its ``drop_reason``.
        counts: Rows dropped by each filter, in order, then those "kept"; rows that came in dropped are counted first,
            as "dropped_before", where there are any. The values add up to the number of rows.
        thresholds: What the filters' settings gave and what they fitted to the set, by "filter.threshold".
    """

    rows: list[Contrast]
    counts: dict[str, int]
    thresholds: dict[str, float]

    @property
    def kept(self) -> list[Contrast]:
        """The rows that survived."""
        return [row for row in self.rows if row.kept]


def parse_filters(spec: Sequence[FilterSpec | Filter]) -> list[Filter]:
    """Return the filters that ``spec`` names, ``empty`` first (added where it is missing).

    Raises:
        ConfigError: A name or a setting is unknown, a value is out of range, or a filter is named twice.
    """
    if isinstance(spec, str | Mapping):
        raise ConfigError("filters must be a list", where="filters", do=f"write [{spec!r}] for a single filter")
    parsed = [_parse(entry, f"filters[{i}]") for i, entry in enumerate(spec)]
    names = [step.name for step in parsed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"named twice: {', '.join(twice)}", where="filters", do="name each filter once")
    # First, whatever the list says: an empty response has no mean log-prob, which later filters use.
    return [Empty(), *(step for step in parsed if step.name != "empty")]


def few_kept(counts: Mapping[str, int]) -> str:
    """Return one line on how few rows survived and what to relax; "" where a fifth did, or more."""
    reached = sum(counts.values()) - counts.get(DROPPED_BEFORE, 0)
    kept = counts.get(KEPT, 0)
    if kept >= _FEW * reached:
        return ""
    filters = {name: count for name, count in counts.items() if name != DROPPED_BEFORE}
    return f"only {kept:,} of {reached:,} rows ({kept / reached:.0%}) are kept: {advice(filters)}"


def advice(counts: Mapping[str, int]) -> str:
    """Return the advice to relax the filter that dropped most."""
    drops = {name: count for name, count in counts.items() if name != KEPT}
    worst = max(drops, key=lambda name: drops[name], default="")
    if not worst or not drops[worst]:
        return "no row reached quality control: check the stages before it"
    if worst == DROPPED_BEFORE:
        return f"{drops[worst]} rows were dropped before quality control: read their drop_reason"
    return f"{worst!r} dropped most ({drops[worst]} of {sum(counts.values())} rows): {FILTERS[worst].relax}"


def _parse(entry: FilterSpec | Filter, where: str) -> Filter:
    if isinstance(entry, Filter):
        return entry
    name, settings = _name_and_settings(entry, where)
    if name not in FILTERS:
        raise ConfigError(f"unknown filter {name!r}", where=where, do=did_you_mean(name, FILTERS))
    kind = FILTERS[name]
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(map(str, first["loc"]))
        what, do = f"filter {name!r}: {first['msg']}", f"set {setting} to a valid value"
        if first["type"] == "extra_forbidden":
            what = f"filter {name!r} has no setting {setting!r}"
            do = did_you_mean(setting, kind.model_fields) if kind.model_fields else f"{name!r} has no settings"
        raise ConfigError(what, where=f"{where}.{name}.{setting}", do=do) from error


def _name_and_settings(entry: object, where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, settings),) = entry.items()
        if settings is None or isinstance(settings, Mapping):  # YAML writes "leak:" with nothing after it as None
            return str(name), dict(settings or {})
    what = f"can't read the filter {shortened(repr(entry), 200)}"
    raise ConfigError(what, where=where, do="write a name, or {name: {setting: value}}")
