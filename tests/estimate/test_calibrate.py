"""Measuring, with the tiny model: figures that are possible, and nothing left behind."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from selfsteer import models
from selfsteer.estimate import calibrate as calibrating
from selfsteer.estimate.calibrate import _Calibration, _Decoding, _ends, _slope, calibrate
from selfsteer.estimate.model_shape import read_shape
from selfsteer.loop import run
from selfsteer.loop.run import open_stages
from selfsteer.records import Contrast, read_rows
from selfsteer.runs.progress import Display
from tests.estimate.shapes import paper_shape
from tests.run_helpers import scripted_recipe, small_recipe, without_reports, write_queries


@pytest.fixture(autouse=True)
def _small_file(monkeypatch):
    monkeypatch.setattr(calibrating, "_WRITTEN", 1 << 20)


def test_a_calibration_measures_every_rate_and_leaves_nothing(tiny_chat_model, tmp_path):
    recipe = small_recipe(tiny_chat_model, write_queries(tmp_path), train__lora={"r": 2})
    stages = open_stages(recipe, tmp_path / "run", Display(quiet=True))
    said: list[str] = []
    rates, sample = calibrate(stages, read_shape(recipe.model), said.append)
    positive = dataclasses.asdict(rates)
    assert positive.pop("measured") and positive.pop("context") >= 0
    assert all(value > 0 for value in positive.values()), positive
    assert sample.rows == 2 and 0 <= sample.kept <= 1 and set(sample.ends) == {"positive", "negative", "original"}
    assert len(said) == 3 and not (tmp_path / "run").exists()


def test_loading_is_measured_where_what_sampled_would_score_too(tiny_chat_model, tmp_path, monkeypatch):
    loaded, load = [], models.load_model
    monkeypatch.setattr(models, "load_model", lambda *given, **options: loaded.append(1) or load(*given, **options))
    stages = open_stages(small_recipe(tiny_chat_model, write_queries(tmp_path)), tmp_path / "run", Display(quiet=True))
    calibrate(stages, read_shape(stages.recipe.model))
    assert len(loaded) == 3, "to sample, to score and to train"


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
    found = _Calibration(stages, paper_shape(), print)._kept(list(rows))
    assert found == quality["kept"] / quality["total"] < 1


def _response(role: str, tokens: int, finish: str) -> SimpleNamespace:
    return SimpleNamespace(role=role, token_ids=list(range(tokens)), finish=finish)


def test_ends_are_the_share_of_tokens_that_are_last():
    found = [_response("positive", 4, "stop"), _response("positive", 6, "length"), _response("negative", 5, "length")]
    assert _ends(found) == {"positive": 0.1, "negative": 0.0}


def test_a_step_grows_with_the_cache_where_the_longer_of_two_runs_says_so():
    """At 8 steps behind a prompt of 10: 14 tokens, 2 s. At 100: 60 tokens, 2.46 s. So 0.01 s a token, 1.86 s before."""
    step, growth = _slope(10, _Decoding(8, 2.0), _Decoding(100, 2.46))
    assert (step, growth) == (pytest.approx(1.86), pytest.approx(0.01))
    assert _slope(10, _Decoding(8, 2.0), _Decoding(100, 1.9)) == (1.9, 0.0)
    assert _slope(10, _Decoding(8, 2.0), _Decoding(12, 2.46)) == (2.46, 0.0)


def test_steps_are_counted_by_the_longest_response_without_its_first_token():
    found = [_response("positive", 4, "stop"), _response("positive", 9, "length")]
    assert _Decoding.of(5.0, found, 1.0) == (8, 0.5)
