"""The simulation of docs/scaling.md: what can be worked out by hand."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
scaling = pytest.importorskip("scaling")


def test_batches_are_shared_and_the_writing_process_is_the_limit_of_many():
    alone = scaling.simulated(scaling.Stage(64, 10.0, 0.01), 1, random.Random(0))
    shared = scaling.simulated(scaling.Stage(64, 10.0, 0.01), 8, random.Random(0))
    assert alone.seconds == pytest.approx(640, rel=0.1)
    assert shared.seconds == pytest.approx(alone.seconds / 8, rel=0.2)
    crowded = scaling.simulated(scaling.Stage(64, 10.0, 5.0), 64, random.Random(0))
    assert crowded.seconds == pytest.approx(64 * 5.0, rel=0.1) and crowded.writer > 0.9
    assert scaling.limit({"responses": crowded}) == f"responses: the writing process ({crowded.writer:.0%} busy)"


def test_a_failed_worker_repeats_one_batch():
    found = scaling.simulated(scaling.Stage(100, 10.0, 0.0), 1, random.Random(0), life=200.0)
    assert found.failures > 0
    assert found.failures * scaling.RESTART <= found.lost <= found.failures * (scaling.RESTART + 10.0)
    sound = scaling.simulated(scaling.Stage(100, 10.0, 0.0), 1, random.Random(0), life=1e12)
    assert sound.failures == 0 and sound.lost == 0


def test_a_training_resumes_from_its_checkpoint(monkeypatch):
    assert scaling.trained(100, 2.0, 5.0, 50, 1, random.Random(0)).seconds == 100 * 2.0 + 2 * 5.0
    monkeypatch.setattr(scaling, "LIFE", 400.0)
    found = scaling.trained(100, 2.0, 5.0, 50, 1, random.Random(1))
    assert found.failures and found.seconds == pytest.approx(100 * 2.0 + 2 * 5.0 + found.lost)


def test_growth_is_predicted_from_the_smallest_runs(tmp_path, capsys):
    rows = [{"command": "generate", "rows": n, "processor": 2 + n / 1000} for n in (1000, 2000, 50_000)]
    (tmp_path / "growth.json").write_text(json.dumps([*rows, {"command": "report", "rows": 1, "processor": 1}]))
    scaling.check(tmp_path / "growth.json")
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2 + 3 and shown[-1].endswith("| +0% |")


def test_a_round_costs_what_estimate_says(monkeypatch):
    shape = scaling.llama()
    assert shape.parameters == pytest.approx(8.03e9, rel=0.001)
    costs = scaling.costs_for(6000, shape)
    one = scaling.round_of(6000, 1, shape, None)
    stages = ("principles", "responses", "scores")
    assert sum(one["stages"][name].seconds for name in stages) == pytest.approx(
        sum(costs.of(name, heldout=False).seconds for name in stages), rel=0.1
    )
    assert math.isclose(one["hours"], one["seconds"] / 3600)
