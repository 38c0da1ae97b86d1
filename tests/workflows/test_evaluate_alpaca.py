"""`selfsteer evaluate model --suite alpaca_eval`: judges of both kinds, with the calibration beside the figures."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.parquet as pq
import pytest

from selfsteer.evaluation.benchmarks import alpaca
from tests.backends.chat_server import completion, with_logprobs
from tests.backends.conftest import environment, serve  # noqa: F401
from tests.evaluation.benchmarks.alpaca_data import DATA, needs_data

pytestmark = needs_data


@pytest.fixture(autouse=True)
def _small(tmp_path, monkeypatch):
    monkeypatch.setattr(alpaca, "RESAMPLES", 5)
    monkeypatch.setattr("selfsteer.confidence_intervals._RESAMPLES", 20)
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))


def answer(body: Any, count: int) -> Any:
    """Answer as the model under test, and as a judge that prefers the output shown first by three to one."""
    if body.get("logprobs"):
        assert [one["role"] for one in body["messages"]] == ["system", "user"]
        return with_logprobs({"m": -0.3, "M": -1.4})
    return completion(f"  An answer to {len(body['messages'][0]['content'])} characters.\n")


@pytest.mark.parametrize("judge", ["endpoint:judge", "program:longer"])
def test_figures_calibration_and_control_rows_come_together(command_line, tmp_path, serve, judge):  # noqa: F811
    server = serve(answer)
    options = ["--suite", "alpaca_eval", "--data-dir", DATA.parent, "--limit", "8", "--out", tmp_path / "out"]
    options += ["--backend", "endpoint", "--base-url", server.url, "--judge", judge]
    options += ["--judge-base-url", server.url] * judge.startswith("endpoint")
    code, said, errors = command_line("evaluate", "model", "m", *options)
    assert code == 0, errors
    (path,) = (tmp_path / "out" / "results").glob("*.json")
    found = json.loads(path.read_text())["benchmarks"]["alpaca_eval"]
    assert (found["expected"], found["scored"], found["incomplete"]) == (8, 8, False)
    names = ["length_controlled", "win_rate", "discrete_win_rate", "length_controlled_both_orders"]
    assert list(found["metrics"]) == [*names, "win_rate_both_orders"]
    assert found["judge"]["calibration"]["both"]["n"] == 100
    assert " ".join(found["judge"]["calibration"]["line"].split()) in " ".join(said.split())
    assert [row["n"] for row in found["details"]["controls"]] == [8, 8, 8]
    if judge.startswith("endpoint"):
        assert found["metrics"]["win_rate_both_orders"]["value"] == pytest.approx(50)
        assert found["details"]["first_place"] == 1.0 and "shown first in 100 %" in " ".join(said.split())
    rows = pq.read_table(path.with_suffix(".parquet")).to_pylist()
    assert len(rows) == 32 and {row["length"] for row in rows} <= {27, 28, 29}, "outputs are stripped"
    sent = len(server.requests)
    assert command_line("evaluate", "model", "m", *options)[0] == 0
    assert len(server.requests) == sent, "everything is kept"
    again = json.loads(path.read_text())["benchmarks"]["alpaca_eval"]
    assert {**again, "seconds": 0} == {**found, "seconds": 0}
