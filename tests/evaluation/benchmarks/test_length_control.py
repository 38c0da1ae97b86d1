"""AlpacaEval's figures against the published ones, and mutations of the estimator that must not reach them."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from selfsteer.confidence_intervals import resampled_statistic
from selfsteer.errors import DataError
from selfsteer.evaluation.benchmarks import length_control
from selfsteer.evaluation.benchmarks.length_control import GamedRows, LengthControlled, read_gamed_rows, win_rate
from tests.evaluation.benchmarks.alpaca_data import GAMED, STORED, gamed, needs_data, published, recorded

GRID = np.logspace(-4, 4, 10)
FUSECHAT = "FuseChat-Llama-3.1-8B-Instruct"


def lc_of(model: str, place: int | None = None, *, rows: str = "row", cls: Any = LengthControlled, **options: Any):
    """The LC win rate of a recorded model; ``place`` is that of a C in the grid."""
    columns = recorded()[model]
    data = {"gamed": gamed(), "rows": columns[rows]} | options
    strength = None if place is None else float(GRID[place])
    return cls(columns["preference"], columns["len_output_1"], columns["len_output_2"], strength=strength, **data)


def errors_at_the_published_strength(**options: Any) -> np.ndarray:
    """How far the LC win rates are from the published ones, at the C that is known to fit."""
    known = {model: place for model, (_, _, place) in STORED.items() if place is not None}
    assert len(known) == 57
    found = [lc_of(model, place, **options).value for model, place in known.items()]
    return np.abs(np.array(found) - [published()[model]["length_controlled_winrate"] for model in known])


def mutated(old: str, new: str) -> Any:
    """The estimator of a module in which one place reads otherwise."""
    source = Path(length_control.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1
    module = ModuleType("mutated")
    sys.modules[module.__name__] = module
    exec(compile(source.replace(old, new), "mutated", "exec"), module.__dict__)
    return module.LengthControlled


def small_gamed(n: int = 8) -> GamedRows:
    """A few rows of two gamed baselines."""
    rng = np.random.default_rng(1)
    features = np.column_stack([rng.uniform(-1, 1, 2 * n), rng.normal(size=2 * n), np.zeros(2 * n)])
    return GamedRows(rng.normal(size=n), features, rng.uniform(0.2, 0.8, 2 * n), reconstructed=True)


@needs_data
def test_win_rate_standard_error_and_discrete_rate_of_all_models_are_the_published_ones():
    assert len(published()) == 57
    for model, figures in published().items():
        found = win_rate(recorded()[model]["preference"])
        assert found.win_rate == pytest.approx(figures["win_rate"], abs=1e-6)
        assert found.standard_error == pytest.approx(figures["standard_error"], abs=1e-6)
        assert found.discrete == pytest.approx(figures["discrete_win_rate"], abs=1e-6)


@needs_data
def test_lc_at_the_strength_that_fits_is_the_published_one_for_every_model():
    assert errors_at_the_published_strength().max() < 0.001


@needs_data
def test_lc_at_the_strength_found_before_is_the_stored_one_for_every_model():
    for model, (value, place, _) in STORED.items():
        assert lc_of(model, place).value == pytest.approx(value, abs=1e-9)


@needs_data
@pytest.mark.parametrize("model", [FUSECHAT, "text_davinci_003"])
def test_cross_validation_finds_the_stored_strength(model):
    value, place, _ = STORED[model]
    found = lc_of(model)
    assert found.strength == pytest.approx(GRID[place]) and found.value == pytest.approx(value, abs=1e-9)


@pytest.mark.slow
@needs_data
def test_the_whole_procedure_is_as_near_to_the_published_figures_as_the_reference_on_these_files():
    errors = []
    for model, figures in published().items():
        found = lc_of(model)
        assert found.value == pytest.approx(STORED[model][0], abs=1e-9)
        errors.append(abs(found.value - figures["length_controlled_winrate"]))
    assert np.mean(errors) <= 0.024 and max(errors) <= 0.152
    assert sum(error > 0.001 for error in errors) <= 22


@needs_data
@pytest.mark.parametrize(
    ("old", "new"),
    [("std(ddof=1) if", "std(ddof=0) if"), ("_GAMED_WEIGHT = 0.1", "_GAMED_WEIGHT = 0.2")],
    ids=["ddof 0", "weight 0.2"],
)
def test_a_changed_estimator_misses_the_published_figures(old, new):
    assert errors_at_the_published_strength(cls=mutated(old, new)).max() > 0.001
    assert errors_at_the_published_strength(cls=mutated("_SEED = 5, 10, 123", "_SEED = 5, 10, 123 ")).max() < 0.001


@needs_data
def test_difficulty_by_instruction_or_no_gamed_rows_miss_the_published_figures():
    by_instruction = errors_at_the_published_strength(rows="index")
    assert (by_instruction > 0.001).sum() == 6, "the models with missing rows"
    none = dataclasses.replace(gamed(), features=gamed().features[:0], shares=gamed().shares[:0])
    assert (errors_at_the_published_strength(gamed=none) > 0.001).sum() > 50


@needs_data
def test_the_bootstrap_with_refits_is_twice_the_published_standard_error():
    found = lc_of(FUSECHAT, STORED[FUSECHAT][1])
    values = resampled_statistic(found.on, 805, 1000)
    assert 1.35 < values.std(ddof=1) < 1.60
    low, high = np.percentile(values, [2.5, 97.5])
    assert low < found.value < high


@needs_data
def test_the_reconstructed_rows_say_so():
    assert gamed().reconstructed and len(gamed().difficulty) == 805 and gamed().features.shape == (1610, 3)


def test_the_official_file_is_known_by_its_hash(tmp_path, monkeypatch):
    path = tmp_path / "df_gamed.csv"
    columns = "model,index,std_delta_len,instruction_difficulty,not_gamed_baseline,preference"
    rows = ["concise,1,0.5,2.0,False,0.25", "concise,0,1.0,3.0,False,0.5", "verbose,1,-1.0,2.0,False,0.75"]
    path.write_text("\n".join([columns, *rows]))
    monkeypatch.setattr(length_control, "GAMED_SHA256", length_control.sha256_file(path))
    found = read_gamed_rows(path)
    assert not found.reconstructed
    assert found.difficulty.tolist() == [2.0, 3.0], "in the order of the file, each instruction's first row"
    assert found.features.tolist() == [[math.tanh(0.5), 2, 0], [math.tanh(1), 3, 0], [math.tanh(-1), 2, 0]]
    assert found.shares.tolist() == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "index,std_delta_len,instruction_difficulty,preference\n1,x,2,3\n"])
def test_a_file_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(DataError, match="gamed baselines"):
        read_gamed_rows(path)
    with pytest.raises(DataError, match="gamed baselines"):
        read_gamed_rows(tmp_path / "missing.csv")


def test_figures_of_a_few_preferences_worked_by_hand():
    """Shares 0.5 (a tie written as 0), 0.5, 1, 0.25: mean 0.5625; discrete 0.5, 0.5, 1, 0."""
    found = win_rate([0, 1.5, 2, 1.25])
    assert found.win_rate == 56.25 and found.discrete == 50.0
    assert (found.wins, found.losses, found.ties) == (1, 1, 2)
    deviation = math.sqrt(sum((share - 0.5625) ** 2 for share in (0.5, 0.5, 1, 0.25)) / 3)
    assert found.standard_error == pytest.approx(100 * deviation / 2)
    assert math.isnan(win_rate([2.0]).standard_error)
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError):
            win_rate(bad)


def test_the_baseline_against_itself_is_50_also_in_every_resample():
    same = LengthControlled([1.5] * 8, [10] * 8, [10] * 8, gamed=small_gamed(), rows=range(8))
    assert same.value == 50 and same.strength is None and same.on(np.array([1, 1, 3])) == 50
    other = LengthControlled([2.0] * 8, [10] * 8, [10] * 8, gamed=small_gamed(), rows=range(8))
    assert other.value > 60, "outputs of equal length that are preferred are another model's"


def test_rows_without_a_preference_are_left_out_of_the_fit_and_counted():
    preferences, lengths = [1.9, 1.2, 1.7, 1.4, 1.8, 1.1, 1.6, 1.9], [5, 9, 30, 12, 7, 14, 3, 8]
    rows = {"gamed": small_gamed(), "strength": 100.0}
    whole = LengthControlled(preferences, [10] * 8, lengths, rows=range(8), **rows)
    holed = LengthControlled([*preferences[:6], math.nan, math.nan], [10] * 8, lengths, rows=range(8), **rows)
    assert (whole.missing, holed.missing) == (0, 2) and whole.value != holed.value
    # The order of the rows means nothing once each has its position.
    order = np.random.default_rng(0).permutation(8)
    mixed = LengthControlled(np.array(preferences)[order], [10] * 8, np.array(lengths)[order], rows=order, **rows)
    assert mixed.value == pytest.approx(whole.value, abs=1e-3)
    with pytest.raises(ValueError):
        LengthControlled([math.nan] * 2, [1, 2], [3, 4], rows=[0, 1], **rows)


def test_differences_that_are_all_equal_are_no_error():
    found = LengthControlled([1.9, 1.2, 1.7], [10] * 3, [5] * 3, gamed=small_gamed(), rows=range(3), strength=1.0)
    assert 0 < found.value < 100
    assert 0 < LengthControlled([1.9], [10], [5], gamed=small_gamed(), rows=[0], strength=1.0).value < 100


def test_the_gamed_file_of_the_data_folder_is_not_shipped():
    assert not list(Path(length_control.__file__).parent.rglob(GAMED.name))
