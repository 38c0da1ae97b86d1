"""Time and disk of stages, worked out by hand on a shape and rates that allow it."""

from __future__ import annotations

import dataclasses

import pytest

from selfsteer.config import Recipe
from selfsteer.estimate.costs import Costs, Prompts, Sizes
from selfsteer.estimate.prompt_lengths import rows_of
from selfsteer.estimate.throughput import Rates, Sample, assumed_sample
from tests.estimate.shapes import paper_shape

RATES = Rates(asking=0.3, step=0.5, scoring=2e6, training=1e6, disk=4320.0)
"""Loading 1080 float32 weights takes a second."""


def _costs(**changes) -> Costs:
    values = {
        "queries": {"heldout": 2},
        "generation": {"max_new_tokens": 4, "batch_size": 6},
        "train": {"batch_size": 4, "micro_batch_size": 2, "save_steps": 1, "max_length": 1000},
    }
    for section, settings in changes.items():
        values[section] = values.get(section, {}) | settings if isinstance(settings, dict) else settings
    recipe = Recipe.model_validate(values)
    return Costs(recipe, paper_shape(), RATES, assumed_sample(None, None), Sizes(8, 2), Prompts(3, 5, 7))


def test_sampling_is_batches_and_a_step_for_each_token():
    """8 queries make 24 requests, 4 batches of 6 with 4 steps each; 2 held out make one batch. Loading takes 1 s."""
    assert _costs().of("responses", heldout=False).seconds == pytest.approx(1 + 4 * 4 * 0.5)
    assert _costs().of("responses", heldout=True).seconds == pytest.approx(1 + 1 * 4 * 0.5)


def test_scoring_is_nine_cells_a_row():
    """Rows of 3, 5 and 7 with three responses of 4: n + 9 tokens, 42 in all; 12 predictions each.

    Pairs: n (n + 1) / 2 + 3 (3 n + 6): 6 + 45, 15 + 63, 28 + 81: 238 in each of two layers.
    """
    forward = 2 * 960 * 42 + 4 * 8 * 238 * 2 + 2 * 80 * 36
    assert _costs().scored.forward == forward
    assert _costs().of("scores", heldout=False).seconds == pytest.approx(1 + 8 * forward / 2e6)


def test_engines_share_batches_and_rows():
    """4 batches of responses for 3 engines: the longest time is that of 2. Rows are shared by 5."""
    one, many = _costs(), dataclasses.replace(_costs(), sampling=3, scoring=5)
    assert many.of("responses", heldout=False).seconds == pytest.approx(1 + 2 * 4 * 0.5)
    scoring = [costs.of("scores", heldout=False).seconds for costs in (one, many)]
    assert scoring[1] - 1 == pytest.approx((scoring[0] - 1) / 5)


def test_implicit_rewards_score_the_plain_row():
    """A prompt of 3 with three responses: 12 tokens, 12 predictions, 6 + 3 * (9 + 6) pairs; the scorer is there."""
    forward = 2 * 960 * 12 + 4 * 8 * 51 * 2 + 2 * 80 * 12
    assert _costs().of("implicit", heldout=True).seconds == pytest.approx(2 * forward / 2e6)


def test_training_is_examples_steps_and_checkpoints():
    """Three rows of two responses: 3 + 5 + 7 + 3 * 6 = 33 tokens, 24 predictions.

    Pairs: n (n + 1) / 2 + 2 (3 n + 6): 6 + 30, 15 + 42, 28 + 54: 175. 8 rows are 2 steps of 4, a checkpoint each.
    """
    found = _costs()
    forward = 2 * 960 * 33 + 4 * 8 * 175 * 2 + 2 * 80 * 24
    assert (found.trained.forward, found.micro_batch) == (forward, (2 * 33, 2 * 24))
    loss = found.recipe.train
    assert (found.steps(loss, 8), found.checkpoints(loss, 8), found.policy_bytes) == (2, 2, 4 * 1080 + 4e6)
    written = 2 * (12 * 1080 + 4e6) + 4 * 1080 + 4e6
    expected = 1 + 8 * 3 * forward / 1e6 + written / 4320
    assert found.of("policy", heldout=False).seconds == pytest.approx(expected)


def test_without_steering_one_view_is_trained_on():
    assert _costs(train={"use_steering": False}).micro_batch == (2 * (3 + 2 * 3), 2 * 8)


def test_a_generators_micro_batch_counts_where_it_is_the_larger_one():
    """The policy has one row under x, 3 + 2 * 3 tokens; the generator two, under x+ and x-: 5 + 7 + 2 * 2 * 3."""
    objective = {"objective": "base"}
    assert _costs(train=objective).micro_batch == (2 * 9, 2 * 8)
    assert _costs(mode="generator", train=objective).micro_batch == (2 * 24, 2 * 16)


def test_an_adapter_takes_no_gradients_of_the_weights_and_little_disk():
    """r (inputs + outputs) is 464 at r = 2."""
    found = _costs(train={"lora": {"r": 2}})
    one = found.trained
    assert found.training_flops(found.recipe.train) == 2 * (one.layers + one.head) + 3 * one.attention
    assert found.policy_bytes == 4 * 464 + 4e6 and found.checkpoint_bytes == 12 * 464 + 4e6


def test_checkpointing_computes_the_layers_again():
    found, plain = _costs(train={"gradient_checkpointing": True}), _costs()
    assert (
        found.training_flops(found.recipe.train)
        == plain.training_flops(plain.recipe.train) + plain.trained.layers + plain.trained.attention
    )


def test_disk_is_policies_and_for_a_while_three_checkpoints():
    """A third checkpoint is written before the oldest of two goes; fewer steps write fewer."""
    cost = _costs(train={"batch_size": 2}).of("policy", heldout=False)
    assert (cost.disk, cost.passing) == (4 * 1080 + 4e6, 3 * (12 * 1080 + 4e6))
    assert _costs().of("policy", heldout=False).passing == 2 * (12 * 1080 + 4e6)
    assert _costs(train={"save_steps": 50}).of("policy", heldout=False).passing == 12 * 1080 + 4e6


def test_rows_are_files_of_a_block_each():
    """600 rows are two files; a contrast holds its prompts' 15 tokens and its responses' 12."""
    found = dataclasses.replace(_costs(), sizes=Sizes(600, 2))
    assert found.of("contrasts", heldout=False).disk == pytest.approx(2 * 17e3 + 600 * (800 + 4.2 * 27))
    assert found.of("responses", heldout=True).disk == pytest.approx(17e3 + 2 * (800 + 4.2 * 12))


def test_what_quality_control_drops_is_not_trained_on():
    found = dataclasses.replace(_costs(), sample=Sample({}, 0.4, 10))
    assert (found.kept(8), found.steps(found.recipe.train, 8)) == (3, 1)
    assert dataclasses.replace(_costs(), sample=Sample({}, 0.0, 4)).kept(8) == 8


def test_a_response_that_ends_early_is_shorter_in_the_mean_and_at_most():
    """Ends with 1/2 at each token, cut at 3: 1 + 1/2 + 1/4 tokens; the longer of two: 1 + 3/4 + 7/16."""
    sample = Sample({"positive": 0.5}, 1.0, 4)
    assert sample.length("positive", 3) == 1.75
    assert sample.longest("positive", 3, 2) == 2.1875
    assert sample.length("negative", 3) == sample.longest("negative", 3, 2) == 3


def test_aspects_take_time_for_each_query_where_a_model_chooses_them():
    asked = dataclasses.replace(_costs(), prompts=Prompts(3, 5, 7, asked=True))
    assert asked.of("principles", heldout=False).seconds == pytest.approx(1 + 8 * 0.3)
    assert _costs().of("principles", heldout=False).seconds == 0


def test_the_time_of_a_server_is_unknown_and_a_script_takes_none():
    endpoint = {"backend": "endpoint", "endpoint": {"model": "m"}}
    for generation, seconds in ((endpoint, None), ({"backend": "scripted"}, 0.0)):
        recipe = Recipe.model_validate({"mode": "data-only", "generation": generation})
        found = Costs(recipe, None, None, assumed_sample(None, None), Sizes(8, 2), Prompts(3, 5, 7))
        assert found.of("responses", heldout=False).seconds == seconds
        assert found.of("responses", heldout=False).disk > 8 * 500


def test_a_generator_is_trained_on_part_of_the_queries_and_leaves_out_the_plain_answers():
    """Its rows: x+ of 5 and x- of 7, two responses each: 5 + 7 + 2 * 6 = 24 tokens, 16 predictions, 57 + 82 pairs.

    4 of the 8 queries are 2 steps of 2. What it answers itself: 16 requests in 3 batches.
    """
    found = _costs(mode="generator", generator={"queries": 4, "batch_size": 2})
    forward = 2 * 960 * 24 + 4 * 8 * 139 * 2 + 2 * 80 * 16
    written = 2 * (12 * 1080 + 4e6) + 4 * 1080 + 4e6
    cost = found.of("generator", heldout=False)
    assert cost.seconds == pytest.approx(1 + 4 * 3 * forward / 1e6 + written / 4320)
    assert (cost.disk, cost.passing) == (0.0, 4 * 1080 + 4e6 + 2 * (12 * 1080 + 4e6))
    assert found.of("generator-responses", heldout=False).seconds == pytest.approx(1 + 2 * 4 * 0.5)
    assert found.of("responses", heldout=False).seconds == pytest.approx(1 + 3 * 4 * 0.5)
    assert found.of("generator-scores", heldout=False).seconds == pytest.approx(1 + 4 * found.scored.forward / 2e6)
    assert found.of("scores", heldout=False).seconds < 1 + 8 * found.scored.forward / 2e6
    assert found.of("generator-contrasts", heldout=False).seconds == 0.0


def test_a_training_that_keeps_older_rounds_in_the_mix_is_given_their_rows():
    """Of three rounds of 8 rows: 8, 16, 24 with all of them, 16 in the mean; 8, 16, 16 with one: 13."""
    found = {older: _costs(rounds=3, train={"older_rounds": older}) for older in (0, 1, "all")}
    for older, rows in ((0, 8), (1, 13), ("all", 16)):
        alike = dataclasses.replace(found[0], sizes=Sizes(rows, 2))
        assert found[older].of("policy", heldout=False) == alike.of("policy", heldout=False)


def test_annotated_pairs_are_scored_under_the_plain_prompt():
    """A prompt of 3 with two responses: 9 tokens, 8 predictions, 6 + 2 * (9 + 6) pairs. Held-out rows have all."""
    given = {"mode": "offline", "preferences": {"source": "pairs.jsonl"}, "train": {"objective": "base"}}
    forward = 2 * 960 * 9 + 4 * 8 * 36 * 2 + 2 * 80 * 8
    assert _costs(**given).of("scores", heldout=False).seconds == pytest.approx(1 + 8 * forward / 2e6)
    assert _costs(**given).of("scores", heldout=True) == _costs().of("scores", heldout=True)


def test_a_reference_scores_what_is_trained_on():
    found = _costs(rounds=2, train={"reference": "first"})
    assert found.of("reference", heldout=False).seconds == pytest.approx(1 + 8 * found.trained.forward / 2e6)


def test_a_round_of_annotated_preferences_makes_as_many_rows_as_the_source_has_pairs(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 7, encoding="utf-8")
    given = {"mode": "offline", "train": {"objective": "base"}}
    whole, some = (_costs(**given, preferences={"source": str(file), "limit": limit}) for limit in (None, 5))
    assert (rows_of(whole.recipe, Sizes(3, 1)), rows_of(some.recipe, Sizes(3, 1))) == (7, 5)
    assert rows_of(_costs().recipe, Sizes(3, 1)) == 3
