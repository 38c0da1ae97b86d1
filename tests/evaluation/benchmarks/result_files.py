"""Builds result files as `selfsteer evaluate model` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROW = {
    "cluster": "",
    "subset": "",
    "why": "",
    "length": 100,
    "finish": "stop",
    "answer": "",
    "flags": [],
    "weight": 1.0,
}
Scores = dict[str, dict[str, float | None]]


def items(scores: dict[str, float | None], metric: str, **options: Any) -> list[dict[str, Any]]:
    """Return one row an item; ``options`` are other columns, a function of the item or a value for all."""
    return [
        ROW
        | {"metric": metric, "item": item, "cluster": item, "score": score}
        | {name: value(item) if callable(value) else value for name, value in options.items()}
        for item, score in scores.items()
    ]


def benchmark(rows: list[dict[str, Any]], *, scale: float = 100, **options: Any) -> dict[str, Any]:
    """Return a benchmark of a result file, its metrics the means of the rows' scores times ``scale``.

    ``options`` replace what it would hold; ``rows`` go to the Parquet.
    """
    metrics = {}
    for metric in dict.fromkeys(row["metric"] for row in rows):
        own = [row for row in rows if row["metric"] == metric and row["score"] is not None]
        values, weights = [row["score"] for row in own], [row["weight"] for row in own]
        mean = scale * float(np.average(values, weights=weights))
        error = scale * float(np.std(values)) / len(values) ** 0.5
        ends = {"low": mean - 1.96 * error, "high": mean + 1.96 * error}
        metrics[metric] = {"value": mean, **ends, "error": error, "method": "normal"}
    official = next(iter(metrics))
    expected = sum(row["metric"] == official for row in rows)
    scored = sum(row["metric"] == official and row["score"] is not None for row in rows)
    found = {
        "protocol": "a protocol", "versions": {"task": "3"}, "data": {"test": "ab" * 32}, "unverified": False,
        "judge": None, "sampling": {"max_new_tokens": 1024, "temperature": 0.0}, "expected": expected,
        "answered": expected, "scored": scored, "invalid": {}, "incomplete": scored < expected, "sample": None,
        "metrics": metrics, "length": {"mean": 512.0, "median": 500.0, "cut_off": 0.01}, "seconds": 1.0,
        "tokens": None, "notes": [], "details": {},
    }  # fmt: skip
    return found | options | {"rows": rows}


def write_result(file: Path, model: str, benchmarks: dict[str, dict[str, Any]], **facts: Any) -> Path:
    """Write a result file and its item scores; ``benchmarks`` are of :func:`benchmark`."""
    rows = [row | {"benchmark": name} for name, one in benchmarks.items() for row in one["rows"]]
    stored = {name: {key: value for key, value in one.items() if key != "rows"} for name, one in benchmarks.items()}
    identity = {"name": model, "fingerprint": f"of {model}", "revision": None, "dtype": "float32"} | facts
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"schema_version": 1, "model": identity, "benchmarks": stored}))
    pq.write_table(pa.Table.from_pylist(rows), file.with_suffix(".parquet"), write_page_checksum=True)
    return file


def right_or_wrong(n: int, share: float, seed: int) -> dict[str, float | None]:
    """Return n scores of 0 or 1; the items are as hard in every seed."""
    difficulty = np.random.default_rng(0).normal(0, 1, n)
    own = np.random.default_rng(seed + 1).normal(0, 0.5, n)
    order = np.argsort(difficulty + own)
    right = set(order[: round(share * n)].tolist())
    return {f"q{place}": float(place in right) for place in range(n)}
