"""Reads result files of `selfsteer evaluate model`: figures from the JSON, item scores from the Parquet beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, ValidationError

from selfsteer.errors import DataError
from selfsteer.files import read_json, storage_errors
from selfsteer.sanitize import escape_controls

SCHEMA_VERSION = 1
_COLUMNS = ("benchmark", "metric", "item", "cluster", "subset", "score", "weight")
_DO = "name a file or folder that `selfsteer evaluate model` wrote, or evaluate the model again"


class StoredMetric(BaseModel):
    """A figure with its 95 % interval; see :class:`selfsteer.evaluation.benchmarks.model_benchmark.Metric`."""

    value: float
    low: float | None = None
    high: float | None = None
    error: float | None = None
    method: str = ""


class StoredJudge(BaseModel):
    """Who judged, and what identifies all that its answers depend on."""

    name: str
    key: str = ""


class StoredBenchmark(BaseModel):
    """A benchmark in a result file; ``metrics`` begin with the official one."""

    protocol: str
    versions: dict[str, str] = Field(default_factory=dict)
    data: dict[str, str] = Field(default_factory=dict)
    judge: StoredJudge | None = None
    sampling: Any = None
    expected: int
    scored: int
    invalid: dict[str, int] = Field(default_factory=dict)
    incomplete: bool
    sample: dict[str, Any] | None = None
    metrics: dict[str, StoredMetric]
    length: dict[str, float | None] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)

    def resampled(self, metric: str) -> list[float]:
        """Return a fitted metric's values on resamples of its items, [] where there are none."""
        kept = self.details.get("resampled")
        values = kept.get(metric) if isinstance(kept, dict) else []
        return [float("nan") if value is None else float(value) for value in values or []]


class _StoredModel(BaseModel):
    name: str
    fingerprint: str = ""


class _StoredResult(BaseModel):
    schema_version: int
    model: _StoredModel
    benchmarks: dict[str, StoredBenchmark]


class Scored(NamedTuple):
    """An item's score by one metric."""

    cluster: str
    subset: str
    score: float
    weight: float


Items = Mapping[str, Mapping[str, Scored]]
"""The scored items of a benchmark, by metric and by item, in their order."""


@dataclass(frozen=True)
class ModelResult:
    """What is known of a model.

    Attributes:
        label: Its name in tables.
        source: The file or files that it was read from.
        fingerprint: Of its weights.
        items: By benchmark.
    """

    label: str
    source: str
    fingerprint: str
    benchmarks: Mapping[str, StoredBenchmark]
    items: Mapping[str, Items]


def read_results(sources: Sequence[Path]) -> list[ModelResult]:
    """Return the models of result files, and of all those in folders, in order.

    Files of one model (same name, same weights) with different benchmarks are one result. Models of one name are told
    apart by their files.

    Raises:
        DataError: A source is missing, holds no result, or is damaged.
    """
    found: list[ModelResult] = []
    given = set(sources)  # a shell's `results/*` names the item scores too, which are read beside their result
    named = [one for one in sources if one.suffix != ".parquet" or one.with_suffix(".json") not in given]
    for file in (file for source in named for file in _files(source)):
        read = _read(file)
        for place, one in enumerate(found):
            same = (one.label, one.fingerprint) == (read.label, read.fingerprint)
            if same and read.fingerprint and not one.benchmarks.keys() & read.benchmarks.keys():
                found[place] = _joined(one, read)
                break
        else:
            found.append(read)
    names = [one.label for one in found]
    return [
        one if names.count(one.label) == 1 else ModelResult(f"{one.label} ({one.source})", *_rest(one)) for one in found
    ]


def _rest(one: ModelResult) -> tuple[Any, ...]:
    return one.source, one.fingerprint, one.benchmarks, one.items


def _joined(one: ModelResult, other: ModelResult) -> ModelResult:
    benchmarks, items = {**one.benchmarks, **other.benchmarks}, {**one.items, **other.items}
    return ModelResult(one.label, f"{one.source}, {other.source}", one.fingerprint, benchmarks, items)


def _files(source: Path) -> Iterator[Path]:
    if not source.is_dir():
        yield source
        return
    folder = source / "results" if (source / "results").is_dir() else source
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError("there is no result in the folder", where=str(folder), do=_DO)
    yield from files


def _read(file: Path) -> ModelResult:
    if not file.is_file():
        raise DataError("there is no such file or folder", where=str(file), do=_DO)
    value = read_json(file)
    if value is None:
        raise DataError("the file is not valid JSON", where=str(file), do=_DO)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DataError("the result is of a newer version of selfsteer", where=str(file), do="update selfsteer")
    try:
        stored = _StoredResult.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        what = f"no result of `selfsteer evaluate model`: {place + ': ' if place else ''}{first['msg']}"
        raise DataError(escape_controls(what), where=str(file), do=_DO) from None
    items = _read_items(file.with_suffix(".parquet"))
    lacking = [name for name, one in stored.benchmarks.items() if one.scored and name not in items]
    if lacking:
        what = f"the item scores of {', '.join(lacking)} are missing"
        raise DataError(what, where=str(file.with_suffix(".parquet")), do=_DO)
    label = escape_controls(stored.model.name)
    return ModelResult(label, str(file), stored.model.fingerprint, stored.benchmarks, items)


def _read_items(file: Path) -> dict[str, dict[str, dict[str, Scored]]]:
    """Return the scored items by benchmark, metric and item."""
    if not file.is_file():
        raise DataError("the item scores beside the result are missing", where=str(file), do=_DO)
    try:
        with storage_errors(file, "read"):
            table = pq.read_table(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"can't read the item scores: {error}", where=str(file), do=_DO) from error
    if absent := [name for name in _COLUMNS if name not in table.column_names]:
        raise DataError(f"the item scores lack {', '.join(absent)}", where=str(file), do=_DO)
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_null)
    if not all(any(kind(table[name].type) for kind in kinds) for name in ("score", "weight")):
        raise DataError("the item scores hold no numbers", where=str(file), do=_DO)
    found: dict[str, dict[str, dict[str, Scored]]] = {}
    for benchmark, metric, item, *rest in zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True):
        own = found.setdefault(benchmark, {}).setdefault(metric, {})
        if item in own:
            raise DataError(f"{benchmark} has item {item} twice", where=str(file), do=_DO)
        scored = Scored(*rest)
        if scored.score is not None and math.isfinite(scored.score):
            own[item] = scored
    return found
