"""`selfsteer estimate` and `--dry-run`, as a user calls them."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import tempfile
import warnings
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfsteer.cli import app
from selfsteer.commands.dry_run import dry_run, total_time
from selfsteer.commands.estimate import EstimateArguments, estimate
from selfsteer.config import dump_recipe
from selfsteer.errors import ConfigError, DataError, ModelError, SelfsteerWarning
from selfsteer.estimate import forecast as foretelling
from selfsteer.estimate.costs import Cost, Sizes
from selfsteer.estimate.model_shape import read_shape
from selfsteer.estimate.throughput import Rates, Sample, rates_file, sample_file
from selfsteer.files import write_json
from selfsteer.loop import run
from selfsteer.loop.dry_run import plan
from selfsteer.loop.run import open_stages
from selfsteer.runs.plan_step import StepState
from selfsteer.runs.progress import Display
from tests.printed import printed
from tests.run_helpers import scripted_recipe, small_recipe, without_reports

RATES = Rates(asking=0.05, step=0.5, scoring=1e9, training=1e9, disk=1e9)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))


def _estimate(recipe, **options):
    """The costs, the output and the messages of `selfsteer estimate` on a recipe's file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(dump_recipe(recipe), encoding="utf-8")
        return printed(estimate, EstimateArguments(str(file), **options), width=160)


def test_an_estimate_counts_queries_and_says_that_its_rates_are_guesses(tiny_chat_model, queries):
    """10 queries, 3 held out."""
    costs, out, errors = _estimate(small_recipe(tiny_chat_model, queries))
    assert costs.sizes == Sizes(7, 3)
    assert f"{costs.shape.parameters:,}, embedding and head apart" in out
    assert "responses of y+ 6, y- 6, yo 6 tokens; 100% of the rows kept" in out
    assert "times are guesses for" in errors and "every response for 6 tokens" in errors


def test_an_estimate_loads_no_weights(tiny_chat_model, queries, monkeypatch):
    monkeypatch.setattr("selfsteer.models.load_model", lambda *_, **__: pytest.fail("weights are loaded"))
    _estimate(small_recipe(tiny_chat_model, queries))


def test_what_was_measured_is_used_and_nothing_is_called_a_guess(tiny_chat_model, queries):
    recipe = small_recipe(tiny_chat_model, queries)
    stages = open_stages(recipe, Path("none"), Display(quiet=True))
    write_json(
        rates_file(read_shape(recipe.model), recipe, "cpu", ("float32", "float32")),
        {"rates": dataclasses.asdict(RATES)},
    )
    name = sample_file(recipe, stages.principle_set.fingerprint)
    write_json(name, dataclasses.asdict(Sample({"positive": 0.5}, 4 / 7, 4)))
    costs, out, errors = _estimate(recipe)
    assert costs.rates == RATES and "guess" not in errors and "every row" not in errors
    assert "responses of y+ 2, y- 6, yo 6 tokens; 57% of the rows kept" in out
    write_json(name, dataclasses.asdict(Sample({}, 0.0, 4)))
    costs, out, errors = _estimate(recipe)
    assert "100% of the rows kept" in out and "none of the 4 rows sampled was kept" in errors
    write_json(name, dataclasses.asdict(Sample({}, None, 4)))
    costs, out, errors = _estimate(recipe)
    assert "100% of the rows kept" in out and "the responses sampled were cut off before 6 tokens" in errors


def test_calibrating_keeps_what_it_measured_for_the_next_time(tiny_chat_model, queries, monkeypatch):
    measured = RATES, Sample({"positive": 0.5}, 0.5, 4)
    monkeypatch.setattr("selfsteer.estimate.calibrate.calibrate", lambda stages, shape, say: measured)
    recipe = small_recipe(tiny_chat_model, queries)
    costs, _, errors = _estimate(recipe, calibrate=True)
    assert (costs.rates, costs.sample) == measured and "warning" not in errors
    assert _estimate(recipe)[0].rates == RATES


def test_several_devices_are_a_line_each_way_of_sharing(tiny_chat_model, queries):
    _, out, _ = _estimate(small_recipe(tiny_chat_model, queries), devices=4)
    ways = ["ddp", "zero-1", "zero-2", "zero-3", "fsdp"]
    assert all(out.count(f", {way} ") == 4 for way in ways)
    assert "bytes on each of 4 devices" in out


@pytest.mark.parametrize(
    ("options", "text"),
    [({"count": 8}, "--count is a number of GPUs"), ({"gpu": "h100", "devices": 8}, "--count GPUs")],
)
def test_options_without_effect_are_refused(tiny_chat_model, queries, options, text):
    with pytest.raises(ConfigError, match=text):
        _estimate(small_recipe(tiny_chat_model, queries), **options)


def test_a_number_of_queries_may_be_given(tiny_chat_model, queries):
    assert _estimate(small_recipe(tiny_chat_model, queries), queries=1000)[0].sizes == Sizes(997, 3)
    with pytest.raises(DataError, match="every query is held out"):
        _estimate(small_recipe(tiny_chat_model, queries), queries=3)


def test_stages_are_as_many_as_the_plan_has(tiny_chat_model, queries):
    """Two rounds train twice and measure three times."""
    _, out, _ = _estimate(small_recipe(tiny_chat_model, queries, rounds=2))
    rows = {line.split("  ")[0].strip(): line.split() for line in out.splitlines()}
    assert rows["train"][1] == "2" and rows["sample responses, held-out"][3] == "3"


def test_a_script_needs_no_torch_to_be_estimated(queries, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    costs, out, errors = _estimate(scripted_recipe(queries))
    assert costs.shape is None and "training" not in out and not errors


def test_a_dry_run_shows_states_and_reasons_and_writes_nothing(queries, tmp_path):
    with without_reports():
        run(scripted_recipe(queries), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]}
    changed = scripted_recipe(queries, quality={"filters": ["identical"]})
    steps, out, _ = printed(lambda recipe: dry_run(recipe, tmp_path / "run", measure=True), changed, width=160)
    assert [step.state for step in steps].count(StepState.REDO) == 1
    assert "1 to do" in out and "quality.filters" in out
    assert before == {path: path.stat().st_mtime_ns for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]}


@pytest.mark.parametrize("action", ["run", "generate"])
def test_the_command_line_leaves_no_folder_behind(action, queries, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_recipe(scripted_recipe(queries)), encoding="utf-8")
    found = CliRunner().invoke(app, [action, str(recipe), "--dry-run", "--run-dir", str(tmp_path / "none")])
    assert found.exit_code == 0 and "quality control, round 1" in found.output
    assert ("held-out" in found.output.partition("to do\n")[0]) == (action == "run")
    assert not (tmp_path / "none").exists()


def test_a_dry_run_refuses_what_the_run_would_refuse(tiny_chat_model, queries, tmp_path):
    recipe = small_recipe(tiny_chat_model, queries, model__name="smollm2-135m")
    with pytest.raises(ModelError, match="estimates download nothing"):
        dry_run(recipe, tmp_path / "none", measure=True)
    assert not (tmp_path / "none").exists()


def test_rows_that_were_kept_are_known_where_quality_control_is_done(queries, scripted_run):
    recipe = scripted_recipe(queries)
    stages = open_stages(recipe, scripted_run, Display(quiet=True))
    steps = plan(stages, measure=True)
    info = next(step.entry.info for step in steps if step.slot[0] == "contrasts")
    found = foretelling.knowing(foretelling.costs_of(stages, Sizes(7, 3)), steps)
    assert found.sample.kept == info["counts"]["kept"] / info["total"] < 1


def test_a_round_of_a_split_answers_its_part(tiny_chat_model, queries):
    recipe = small_recipe(tiny_chat_model, queries, rounds=2, queries__per_round="split")
    stages = open_stages(recipe, Path(os.devnull), Display(quiet=True))
    assert foretelling.costs_of(stages, Sizes(7, 3)).sizes == Sizes(4, 3)


_Usage = namedtuple("_Usage", "total used free")


@pytest.mark.parametrize(("free", "warns"), [(10**15, False), (1000, True)])
def test_a_full_disk_is_one_warning_before_the_work(queries, tmp_path, monkeypatch, free, warns):
    monkeypatch.setattr(foretelling.shutil, "disk_usage", lambda path: _Usage(free, 0, free))
    with without_reports(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run(scripted_recipe(queries), tmp_path / "run")
    own = [str(one.message) for one in told if one.category is SelfsteerWarning and "of disk" in str(one.message)]
    assert len(own) == warns
    assert not own or re.search(r"may need [\d.]+ kB of disk at its peak, and 1 kB are free in", own[0])


def test_a_finished_run_is_not_warned_about(queries, scripted_run, monkeypatch):
    monkeypatch.setattr(foretelling.shutil, "disk_usage", lambda path: _Usage(1, 0, 1))
    stages = open_stages(scripted_recipe(queries), scripted_run, Display(quiet=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        foretelling.warn_of_disk(stages, plan(stages, measure=True), Sizes(7, 3))


def test_a_sum_with_something_unknown_in_it_is_a_least():
    known, unknown = Cost(61.0, 0.0), Cost(None, 0.0)
    shown = [total_time([known, other]) for other in (known, unknown)]
    assert shown == ["2 min 02 s", "at least 1 min 01 s"]
