"""The training stage: what it asks the trainer for, and what it says."""

from __future__ import annotations

import io
import warnings

import pytest
from rich.console import Console

from selfsteer.config import TrainSettings
from selfsteer.loop import run
from selfsteer.runs.progress import Display
from selfsteer.stages.trainers import Place, sso_config
from tests.run_helpers import small_recipe, write_queries


def test_a_run_shows_its_examples_and_what_the_loss_starts_from(tmp_path, tiny_chat_model):
    """With gradient checkpointing, and without a warning that a reader could do nothing about."""
    output = io.StringIO()
    recipe = small_recipe(
        tiny_chat_model, write_queries(tmp_path), queries__heldout=0, train__show_examples=2, train__epochs=1,
        train__gradient_checkpointing=True, train__lora={"r": 2},
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(recipe, tmp_path / "run", display=Display(Console(file=output)))
    assert not [str(warning.message) for warning in caught if "deprecated" in str(warning.message)]
    lines = output.getvalue().splitlines()
    assert sum(line.startswith("example ") for line in lines) == 2
    assert sum(line.startswith("step 0: ipo base 6.25, positive 6.25, negative 6.25") for line in lines) == 1
    first, start = (next(i for i, line in enumerate(lines) if line.startswith(word)) for word in ("example", "step 0"))
    assert first < start


@pytest.mark.parametrize("on", [False, True])
def test_gradient_checkpointing_is_asked_for_by_its_present_name(tmp_path, on):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        settings = TrainSettings(gradient_checkpointing=on)
        config = sso_config(settings, tmp_path, seed=0, place=Place("float32", "cpu"))
    assert config.gradient_checkpointing is on
