"""The literal table of the benchmarks of chat models: ``table.yaml``, its suites, and what is in a line of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import yaml

from selfsteer.backends import Sampling
from selfsteer.errors import ConfigError, did_you_mean
from selfsteer.evaluation.benchmarks.model_benchmark import ModelBenchmark

_TABLE = Path(__file__).with_name("table.yaml")


@dataclass(frozen=True)
class FileVersion:
    """A version of a data file.

    Attributes:
        path: Where it is in a data folder; with ".gz" after it, it is taken too.
        source: Where it comes from, see the head of table.yaml.
        sha256: Of its content, "" where it isn't known.
        n: Rows in it, 0 where they aren't counted.
        note: What a reader of figures made with it must know.
        optional: Whether the benchmark goes without it.
    """

    path: str
    source: str
    sha256: str = ""
    n: int = 0
    note: str = ""
    optional: bool = False


@dataclass(frozen=True)
class BenchmarkFacts:
    """What is known of a benchmark before it is run.

    Attributes:
        name, title: In options and files, in tables.
        implementation: "module:object" of a :class:`ModelBenchmark`, imported when used.
        protocol: What decides the score, in words; results are only comparable under one protocol.
        n: Questions in it.
        items_each: Scores of the official metric a question.
        official: Name of the official metric.
        unit: "%" or "1-10".
        chance: The figure that guessing reaches, None where that means nothing.
        judge: "" where a program scores it, "language" where a language model has to, "any" where every judge can.
        extra: The optional dependencies it needs, "" for none.
        licence: Of its data.
        sampling: How answers are drawn where the protocol does not say otherwise by question.
        anchors: Published figures by model.
        files: The versions of each data file, the preferred one first; the first file holds the questions.
    """

    name: str
    title: str
    implementation: str
    protocol: str
    n: int
    official: str
    licence: str
    sampling: Sampling
    files: Mapping[str, tuple[FileVersion, ...]]
    items_each: int = 1
    unit: Literal["%", "1-10"] = "%"
    chance: float | None = None
    judge: Literal["", "language", "any"] = ""
    extra: str = ""
    anchors: Mapping[str, float] = field(default_factory=dict)

    def load(self) -> ModelBenchmark:
        """Import the benchmark; an ImportError means that its extra is not installed."""
        module, _, name = self.implementation.partition(":")
        found: ModelBenchmark = getattr(import_module(module), name)
        return found


@functools.cache
def model_benchmarks() -> dict[str, BenchmarkFacts]:
    """Return the benchmarks by name."""
    return {name: _facts(name, given) for name, given in _table()["benchmarks"].items()}


def suites() -> dict[str, list[str]]:
    """Return the names of the benchmarks of each suite."""
    found: dict[str, list[str]] = _table()["suites"]
    return found


def benchmarks_of_suite(suite: str) -> list[BenchmarkFacts]:
    """Return the benchmarks of suites and benchmark names, separated by commas, each once; raises ConfigError."""
    table = model_benchmarks()
    names = [name.strip() for name in suite.split(",") if name.strip()]
    known = suites() | {name: [name] for name in table}
    for name in names:
        if name not in known:
            do = did_you_mean(name, known)
            raise ConfigError(f"no benchmark or suite is named {name!r}", where="--suite", do=do)
    if not names:
        raise ConfigError("no benchmark is named", where="--suite", do=f"choose from {', '.join(known)}")
    return [table[name] for name in dict.fromkeys(own for name in names for own in known[name])]


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return table


def _facts(name: str, given: Mapping[str, Any]) -> BenchmarkFacts:
    files = {file: tuple(map(_version, versions)) for file, versions in given["files"].items()}
    return BenchmarkFacts(name=name, **(given | {"files": files, "sampling": Sampling(**given["sampling"])}))  # type: ignore[operator]


def _version(given: Mapping[str, Any]) -> FileVersion:
    return FileVersion(source=given["from"], **{key: value for key, value in given.items() if key != "from"})
