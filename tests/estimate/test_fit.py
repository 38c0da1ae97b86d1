"""Which strategy fits: by the bytes that docs/estimate.md counts."""

from __future__ import annotations

import pytest

from selfsteer.config import Recipe
from selfsteer.errors import ConfigError
from selfsteer.estimate import fit
from selfsteer.estimate.costs import Costs, Prompts, Sizes
from selfsteer.estimate.fit import fitted, needed
from selfsteer.estimate.throughput import assumed_sample
from selfsteer.jobs.launch import Launch
from tests.estimate.shapes import paper_shape
from tests.estimate.test_costs import RATES


@pytest.fixture(autouse=True)
def no_libraries(monkeypatch):
    """The shape is so small that libraries would be all that counts."""
    monkeypatch.setitem(fit.PROCESS, "cuda", 0.0)


def costs(**train) -> Costs:
    recipe = Recipe.model_validate({"train": {"batch_size": 4, "micro_batch_size": 2, "max_length": 1000} | train})
    return Costs(recipe, paper_shape(), RATES, assumed_sample(None, None), Sizes(8, 2), Prompts(3, 5, 7))


def test_ddp_is_taken_where_it_fits_and_fsdp_where_it_does_not():
    ddp, fsdp = (needed(costs(), strategy, 4, "float32") for strategy in ("ddp", "fsdp"))
    assert fsdp < ddp
    launch = Launch(4, "ddp")
    chosen, told = fitted(costs(), launch, "float32", ddp + 1)
    assert chosen == launch and told.startswith("training on 4 GPUs by ddp: about")
    assert fitted(costs(), launch, "float32", ddp - 1)[0] == Launch(4, "fsdp")
    assert fitted(costs(), Launch(1), "float32", ddp + 1)[0] == Launch(1)


def test_what_does_not_fit_is_refused_with_what_would():
    less = needed(costs(gradient_checkpointing=True), "single", 1, "float32")
    assert less < needed(costs(), "single", 1, "float32") / 1.1
    with pytest.raises(ConfigError, match=r"training needs about .* on each GPU by single") as caught:
        fitted(costs(), Launch(1), "float32", less)
    assert caught.value.do.startswith("set train.gradient_checkpointing=true")
    with pytest.raises(ConfigError) as caught:
        fitted(costs(), Launch(4, "ddp"), "float32", 1.0)
    assert caught.value.do.startswith("take more or larger GPUs")


def test_a_strategy_that_is_named_is_kept():
    ddp = needed(costs(strategy="ddp"), "ddp", 4, "float32")
    assert fitted(costs(strategy="ddp"), Launch(4, "ddp"), "float32", ddp * 0.95)[0].strategy == "ddp"


def test_an_optimiser_in_8_bits_holds_a_quarter_of_the_states():
    full = costs().tuning
    assert costs(optimizer="adamw_8bit").tuning.states == full.states / 4
    assert needed(costs(), "ddp", 1, "float32") - needed(costs(optimizer="adamw_8bit"), "ddp", 1, "float32") == (
        pytest.approx(6 * full.trainable)
    )


def test_in_the_process_of_the_command_nothing_is_chosen():
    assert fitted(costs(), Launch(0), "float32", 1.0) == (Launch(0), "")
