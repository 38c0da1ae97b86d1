"""Fixtures of the workflows."""

from __future__ import annotations

import pytest

from selfsteer.evaluation.benchmarks import table
from selfsteer.evaluation.benchmarks.table import model_benchmarks
from tests.evaluation.benchmarks import toy


@pytest.fixture
def toy_benchmarks(monkeypatch, tmp_path):
    """Toy benchmarks in place of the shipped ones, with a cache of their own and wide tables."""
    monkeypatch.setattr(table, "_table", toy.toy_table)
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    model_benchmarks.cache_clear()
    yield
    model_benchmarks.cache_clear()
