"""Rates are kept for the machine, model and settings that they were measured with."""

from __future__ import annotations

import dataclasses

import pytest

from selfsteer.config import Recipe
from selfsteer.estimate import throughput as module
from selfsteer.estimate.throughput import (
    Rates,
    Sample,
    guessed_rates,
    rates_file,
    sample_file,
)
from selfsteer.files import read_json, write_json
from tests.estimate.shapes import paper_shape

KINDS = ("float32", "float32")
RATES = Rates(1.0, 2.0, 3.0, 4.0, 5.0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path))


def _recipe(**sections) -> Recipe:
    return Recipe.model_validate(sections)


def test_what_was_measured_is_read_again():
    path = rates_file(paper_shape(), _recipe(), "cpu", KINDS)
    assert read_json(path) is None and RATES.measured
    write_json(path, {"rates": dataclasses.asdict(RATES)})
    assert Rates(**read_json(path)["rates"]) == RATES


@pytest.mark.parametrize(
    "other",
    [
        {"shape": paper_shape(hidden=9)},
        {"device": "cuda:9"},
        {"kinds": ("bfloat16", "float32")},
        {"recipe": _recipe(generation={"batch_size": 3})},
        {"recipe": _recipe(train={"lora": {"r": 4}})},
        {"recipe": _recipe(train={"gradient_checkpointing": True})},
        {"machine": "another"},
    ],
)
def test_another_model_device_precision_batch_or_machine_has_rates_of_its_own(other, monkeypatch):
    monkeypatch.setattr(module, "machine", lambda device: f"this {device}")
    mine = rates_file(paper_shape(), _recipe(), "cpu", KINDS)
    if "machine" in other:
        monkeypatch.setattr(module, "machine", lambda device: f"that {device}")
    assert mine != rates_file(
        other.get("shape", paper_shape()), other.get("recipe", _recipe()), other.get("device", "cpu"),
        other.get("kinds", KINDS),
    )  # fmt: skip


def test_lengths_and_other_settings_leave_the_rates_as_they_are():
    mine = rates_file(paper_shape(), _recipe(), "cpu", KINDS)
    assert mine == rates_file(paper_shape(), _recipe(rounds=3, generation={"max_new_tokens": 2500}), "cpu", KINDS)


def test_a_sample_is_of_a_model_a_set_and_filters():
    path, sample = sample_file(_recipe(), "set"), Sample({"positive": 0.1}, 0.5, 8)
    write_json(path, dataclasses.asdict(sample))
    assert Sample(**read_json(path)) == sample
    for recipe, name in (
        (_recipe(), "other"),
        (_recipe(model={"name": "x"}), "set"),
        (_recipe(quality={"clean": False}), "set"),
    ):
        assert read_json(sample_file(recipe, name)) is None


def test_guesses_say_that_they_are_and_grow_with_the_model():
    small, large = (
        guessed_rates(paper_shape(parameters=n, active=n), _recipe(), "cuda", "bfloat16") for n in (10**8, 10**10)
    )
    assert not small.measured and large.step == pytest.approx(100 * small.step, rel=0.01)
