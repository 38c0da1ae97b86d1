"""Calibration with the tiny model: every rate is measured, and nothing is left behind."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from selfsteer.estimate import calibrate as calibrating
from selfsteer.estimate.calibrate import calibrate, ending_rates, share_kept
from selfsteer.estimate.model_shape import read_shape
from selfsteer.loop import run
from selfsteer.loop.run import open_stages
from selfsteer.records import Contrast, read_rows
from selfsteer.runs.progress import Display
from tests.run_helpers import scripted_recipe, small_recipe, without_reports, write_queries


@pytest.fixture(autouse=True)
def _small_file(monkeypatch):
    monkeypatch.setattr(calibrating, "_WRITTEN", 1 << 20)


def test_a_calibration_measures_every_rate_and_leaves_nothing(tiny_chat_model, tmp_path):
    recipe = small_recipe(tiny_chat_model, write_queries(tmp_path), train__lora={"r": 2})
    stages = open_stages(recipe, tmp_path / "run", Display(quiet=True))
    said: list[str] = []
    rates, sample = calibrate(stages, read_shape(recipe.model), said.append)
    assert rates.measured and all(value > 0 for value in dataclasses.asdict(rates).values()), rates
    assert sample.rows == 1 and 0 <= sample.kept <= 1 and set(sample.ends) == {"positive", "negative", "original"}
    assert len(said) == 3 and not (tmp_path / "run").exists()


def test_the_share_of_rows_kept_is_not_known_where_time_cut_the_responses(tiny_chat_model, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrating, "_SECONDS", 0.0)
    recipe = small_recipe(tiny_chat_model, write_queries(tmp_path), generation__max_new_tokens=11)
    stages = open_stages(recipe, tmp_path / "run", Display(quiet=True))
    assert calibrate(stages, read_shape(recipe.model))[1].kept is None


def test_the_share_of_rows_kept_is_what_the_recipes_filters_keep(tmp_path):
    """Against what quality control says in a run over the same rows."""
    recipe = scripted_recipe(write_queries(tmp_path))
    with without_reports():
        summary = run(recipe, tmp_path / "run")
    rows = read_rows((tmp_path / "run/round-01/scores").glob("*.parquet"), Contrast)
    stages = open_stages(recipe, tmp_path / "other", Display(quiet=True))
    quality = summary["rounds"][0]["quality"]
    assert share_kept(stages.chain(), list(rows)) == quality["kept"] / quality["total"] < 1


def _response(role: str, tokens: int, finish: str) -> SimpleNamespace:
    return SimpleNamespace(role=role, token_ids=list(range(tokens)), finish=finish)


def test_ends_are_the_share_of_tokens_that_are_last():
    found = [_response("positive", 4, "stop"), _response("positive", 6, "length"), _response("negative", 5, "length")]
    assert ending_rates(found) == {"positive": 0.1, "negative": 0.0}
