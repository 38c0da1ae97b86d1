"""Reads the files of a run. Every text and number is made safe to show here, once, before it is used."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from selfsteer.errors import InputError, StorageError
from selfsteer.files import read_json, read_json_lines
from selfsteer.sanitize import escape_controls

Json = dict[str, Any]

SUMMARY_VERSION = 1
SIGNAL_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Run:
    """The contents of the files of a run, None for a file that it lacks."""

    summary: Json
    metrics: list[Json] | None
    recipe: str | None
    signal: Json | None = None
    benchmarks: Json | None = None


def load_run(run_dir: Path) -> Run:
    """Read the files of a run directory that a report is made of."""
    metrics, recipe = run_dir / "metrics.jsonl", run_dir / "recipe.yaml"
    summary, benchmarks = _read_summary(run_dir / "summary.json"), read_json(run_dir / "benchmarks.json")
    # After a change of the run, until its policy is evaluated again, the file is about an earlier policy.
    current = isinstance(benchmarks, dict) and benchmarks.get("run") == summary.get("created")
    return Run(
        summary=clean(summary),
        metrics=clean(read_json_lines(metrics)) if metrics.exists() else None,
        recipe=clean(recipe.read_text(encoding="utf-8", errors="replace")) if recipe.exists() else None,
        signal=clean(_read_signal(run_dir)),
        benchmarks=clean(benchmarks) if current else None,
    )


def clean(value: Any) -> Any:
    """Return ``value`` with control characters in texts visible, and None for every number that is not finite."""
    if isinstance(value, str):
        return escape_controls(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # "not measured": NaN would spoil sums and axes
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    return value


def dig(value: Any, *path: str) -> Any:
    """Return ``value[path[0]][path[1]]...``, or None where a step is absent."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def dig_number(value: Any, *path: str) -> float | None:
    """Like :func:`dig`, for a number; None for anything else."""
    found = dig(value, *path)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None  # True is an int


def dig_rows(value: Any, *path: str) -> list[Json]:
    """Like :func:`dig`, for a list of objects; empty where it is absent."""
    found = dig(value, *path)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def dig_dict(value: Any, *path: str) -> Json:
    """Like :func:`dig`, for an object; empty where it is absent."""
    found = dig(value, *path)
    return found if isinstance(found, dict) else {}


def dig_numbers(value: Any, *path: str) -> list[float | None]:
    """Like :func:`dig`, for a list of numbers in order; empty where it is absent."""
    found = dig(value, *path)
    return [dig_number({"item": item}, "item") for item in found] if isinstance(found, list) else []


def train_steps(metrics: list[Json], stage: str = "train") -> list[Json]:
    """Return a training stage's log in order, the newest row of each (round, step): a resumed run repeats steps."""
    rows = [row for row in metrics if row.get("stage") == stage and dig_number(row, "step") is not None]
    newest = {(dig_number(row, "round") or 0, row["step"]): row for row in rows}
    return [newest[key] for key in sorted(newest)]


def _read_signal(run_dir: Path) -> Json | None:
    """Return ``signal.json``, with a "problem" where it can't be shown and "stale" where the data has changed since."""
    path = run_dir / "signal.json"
    if not path.is_file():
        return None
    signal = read_json(path)
    if not isinstance(signal, dict):
        return {"problem": "signal.json is damaged"}
    if signal.get("schema_version") != SIGNAL_VERSION:
        return {"problem": "signal.json is of another version of selfsteer"}
    # Stale: a stage that the figures were made from has been redone since with other settings.
    ledger = read_json_lines(run_dir / "ledger.jsonl")
    newest = {_slot(row, "/heldout/" in repr(row.get("files"))): row for row in ledger}
    used = {_slot(row, row.get("heldout")): row for row in dig_rows(signal, "made_from")}
    stale = any(newest[slot].get("key") != row.get("key") for slot, row in used.items() if slot in newest)
    return signal | {"stale": stale}


def _slot(row: Json, heldout: Any) -> str:
    return repr((row.get("stage"), row.get("round"), heldout))


def _read_summary(path: Path) -> Json:
    if not path.is_file():
        do = "run `selfsteer run` with this run directory first"
        raise InputError("there is no summary to report on", where=str(path), do=do)
    summary = read_json(path)
    if not isinstance(summary, dict):
        do = "run the same `selfsteer run` command again; finished stages are kept"
        raise StorageError("the run's summary is damaged: it is not a JSON object", where=str(path), do=do)
    if summary.get("schema_version") != SUMMARY_VERSION:
        raise InputError(
            f"this summary has schema version {summary.get('schema_version')!r}; this report reads {SUMMARY_VERSION}",
            where=str(path),
            do="make the report with the selfsteer version that made the run, or run it again",
        )
    return summary
