"""What an optimiser step of SSOTrainer computes: the formula, however the examples are batched."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from selfsteer.errors import ConfigError, TrainingDiverged
from selfsteer.losses import sso_loss
from selfsteer.policy import SSOConfig
from selfsteer.views import SSO_VIEWS, View
from tests.policy.helpers import (
    contrasts,
    largest_change,
    plain_logps,
    policy,
    step_logs,
    trainer,
    weights,
    with_scores,
)


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_two_steps_equal_a_loop_written_by_hand(tmp_path, tokenizer, optim):
    """After the first step policy and reference differ, so the second one sees every term of the loss at work."""
    rows, model = contrasts(4), policy(tokenizer)
    # A large epsilon: with the usual one, Adam blows the rounding of gradients near zero up to the step size.
    run = trainer(
        tmp_path, tokenizer, rows, optim=optim, learning_rate=0.05, adam_epsilon=1e-2, weight_decay=0.0,
        gradient_accumulation_steps=2, num_train_epochs=2,
    )  # fmt: skip
    run.train()

    start = weights(model)
    reference = {view: pair.detach() for view, pair in plain_logps(model, tokenizer, rows).items()}
    if optim == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, betas=(0.9, 0.95), eps=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = sso_loss(plain_logps(model, tokenizer, rows), reference, base="ipo", beta=0.2).loss.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())

    assert [logs["loss"] for logs in step_logs(run)] == pytest.approx(losses, rel=1e-5)
    assert largest_change(weights(model), weights(run.model)) < 1e-6
    assert largest_change(start, weights(run.model)) > 1e-3


def after_training(tmp_path, tokenizer, rows, **options):
    run = trainer(tmp_path, tokenizer, rows, optim="sgd", learning_rate=0.05, **options)
    run.train()
    return run


@pytest.mark.parametrize("count", [3, 4, 5])
def test_weights_do_not_depend_on_how_a_step_is_cut_into_micro_batches(tmp_path, tokenizer, count):
    """3 and 5 leave a ragged batch: each example weighs 1 over the number of examples in its optimiser step."""
    runs = [
        after_training(
            tmp_path, tokenizer, contrasts(count), per_device_train_batch_size=micro, gradient_accumulation_steps=steps
        )
        for micro, steps in ((4, 1), (2, 2), (1, 4))
    ]
    assert [run.state.global_step for run in runs] == [math.ceil(count / 4)] * 3
    for run in runs[1:]:
        assert largest_change(weights(runs[0].model), weights(run.model)) < 1e-6
        for logs, wanted in zip(step_logs(run), step_logs(runs[0]), strict=True):
            for name in logs.keys() - {"epoch"}:
                assert logs[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name


def test_before_the_first_step_ipo_and_dpo_have_their_known_values(tmp_path, tokenizer):
    for base, known in (("ipo", 1 / (4 * 0.2**2)), ("dpo", math.log(2))):
        run = trainer(
            tmp_path, tokenizer, contrasts(3), base_loss=base, use_weight=False, per_device_train_batch_size=3
        )
        run.train()
        first = step_logs(run)[0]
        assert first["loss/base"] == pytest.approx(known, rel=1e-4)
        assert first["loss/steering"] == pytest.approx(2 * known, rel=1e-4)
        assert first["loss"] == pytest.approx(known + 0.1 * 2 * known, rel=1e-4)
        assert first["weight"] == 1
        for view in SSO_VIEWS:
            for part in ("chosen", "rejected", "margin"):
                assert first[f"rewards/{view}/{part}"] == pytest.approx(0, abs=1e-4)


def test_training_lowers_the_loss_and_prefers_the_chosen(tmp_path, tokenizer):
    model = policy(tokenizer)
    start = weights(model)
    run = trainer(
        tmp_path, tokenizer, contrasts(6), model, per_device_train_batch_size=6, num_train_epochs=8, learning_rate=3e-3
    )
    run.train()
    first, last = step_logs(run)[0], step_logs(run)[-1]
    assert largest_change(start, weights(run.model)) > 1e-3
    assert last["loss"] < 0.7 * first["loss"]
    for view in SSO_VIEWS:
        assert last[f"rewards/{view}/margin"] > first[f"rewards/{view}/margin"] + 0.01
        assert last[f"rewards/{view}/accuracy"] == 1


@pytest.mark.parametrize("settings", [
    {"use_steering": False},
    {"use_weight": False},
    {"use_steering": False, "use_weight": False},
    {"weight_scope": "steering"},
    {"detach_weight": True},
    {"sft_coef": 0.5},
    {"base_loss": "dpo", "beta": 0.1, "label_smoothing": 0.1},
    {"base_loss": "hinge", "beta": 0.1},
    {"base_loss": "simpo", "beta": 2.0, "margin": 0.5},
    {"base_loss": "orpo", "beta": 0.1},
], ids=lambda settings: "-".join(f"{name}={value}" for name, value in settings.items()))  # fmt: skip
def test_every_setting_of_the_loss_trains_a_step_of_that_loss(tmp_path, tokenizer, settings):
    rows, model = contrasts(2), policy(tokenizer)
    start, logps = weights(model), plain_logps(model, tokenizer, rows)
    run = trainer(tmp_path, tokenizer, rows, model, **settings)
    run.train()
    names = {"base_loss": "base"}
    expected = sso_loss(logps, logps, **{names.get(name, name): value for name, value in settings.items()})
    assert step_logs(run)[0]["loss"] == pytest.approx(expected.loss.mean().item(), rel=1e-4)
    assert largest_change(start, weights(run.model)) > 1e-4
    assert ("rewards/positive/margin" in step_logs(run)[0]) == settings.get("use_steering", True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_loss": "ippo"}, "Did you mean 'ipo'"),
        ({"margin": 0.5}, "no effect"),
        ({"label_smoothing": 0.1}, "no effect"),
        ({"beta": 0.0}, "beta"),
        ({"onpolicy_alpha": 1.5}, "alpha"),
        ({"steering_coef": -0.1}, "steering_coef"),
        ({"weight_scope": "base"}, "weight_scope"),
        ({"detach_weight": True, "use_weight": False}, "detach_weight"),
    ],
)
def test_settings_the_loss_refuses_are_an_error_before_anything_is_computed(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        SSOConfig(output_dir=str(tmp_path), **settings)


def test_bfloat16_autocast_trains_float32_weights(tmp_path, tokenizer):
    model = policy(tokenizer)
    start = weights(model)
    run = trainer(tmp_path, tokenizer, contrasts(2), model, bf16=True, learning_rate=5e-7)
    exact = plain_logps(model, tokenizer, contrasts(2))[View.BASE].chosen.detach()
    assert 1e-5 < (run.train_dataset.reference[:, 0] - exact).abs().max() < 0.5  # the reference is in bfloat16 too
    run.train()
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    # A step of 5e-7 arrives: bfloat16 weights of this size would have swallowed it.
    moved = [(after - start[name]).abs().max().item() for name, after in weights(run.model).items()]
    assert min(moved) > 1e-7
    first, lengths = (
        step_logs(run)[0],
        torch.tensor([len(row.positive_token_ids) for row in run.train_dataset.contrasts]),
    )
    assert abs(first["mean_logps/base/chosen"] - (exact / lengths).mean().item()) > 1e-6  # and so is the policy
    assert abs(first["rewards/base/chosen"]) < 0.2 * 0.02


@pytest.mark.parametrize("settings", [
    {}, {"base_loss": "dpo"}, {"base_loss": "orpo"}, {"objective": "base", "base_loss": "hinge"},
    {"objective": "generator", "base_loss": "dpo"}, {"objective": "sft"}, {"gradient_checkpointing": True},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("stored", [False, True], ids=["scored here", "stored scores"])
def test_a_float64_policy_trains_with_losses_in_float64(tmp_path, tokenizer, settings, stored):
    model = policy(tokenizer).double()
    rows = with_scores(model, tokenizer, contrasts(3)) if stored else contrasts(3)
    start, kinds = weights(model), []
    run = trainer(tmp_path, tokenizer, rows, model, eval_dataset=rows[:2], optim="sgd", **settings)
    loss = run._objective.loss
    watched = lambda *bundles: (bundle := loss(*bundles), kinds.append(bundle.loss.dtype))[0]  # noqa: E731
    run._objective = dataclasses.replace(run._objective, loss=watched)
    run.train()
    assert math.isfinite(run.evaluate()["eval_loss"]) and set(kinds) == {torch.float64}
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float64}
    assert largest_change(start, weights(run.model)) > 1e-6


def test_the_reference_of_a_float64_policy_has_its_digits(tmp_path, tokenizer):
    model = policy(tokenizer).double()
    exact = plain_logps(model, tokenizer, contrasts(2))[View.BASE].chosen.detach()
    for rows in (contrasts(2), with_scores(model, tokenizer, contrasts(2))):
        found = trainer(tmp_path, tokenizer, rows, model).train_dataset.reference[:, 0]
        assert (found - exact).abs().max() < 1e-10


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_changes_no_weight(tmp_path, tokenizer, lora):
    from peft import LoraConfig

    config = {"peft_config": LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights="gaussian")} if lora else {}
    found = []
    for on in (False, True):
        torch.manual_seed(0)
        model = policy(tokenizer)
        calls = []
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        run = trainer(tmp_path, tokenizer, contrasts(2), model, optim="sgd", gradient_checkpointing=on, **config)
        calls.clear()
        run.train()
        found.append((weights(run.model), len(calls)))
    (plain, once), (recomputed, twice) = found
    assert twice == 2 * once  # the backward pass did compute the layer again
    assert largest_change(plain, recomputed) < 1e-6


def test_a_loss_that_is_not_finite_stops_and_names_its_rows(tmp_path, tokenizer):
    rows = contrasts(4)
    run = trainer(tmp_path, tokenizer, rows, per_device_train_batch_size=4)
    run.train_dataset.reference[2] = float("nan")
    before = weights(run.model)
    with pytest.raises(TrainingDiverged) as caught:
        run.train()
    assert "rows q2, step 0" in str(caught.value)
    assert largest_change(before, weights(run.model)) == 0


def test_a_last_step_that_overshoots_is_found_though_no_loss_sees_it(tmp_path, tokenizer):
    run = trainer(tmp_path, tokenizer, contrasts(2), learning_rate=1e39, num_train_epochs=1)
    with pytest.raises(TrainingDiverged, match="left weights that are not finite"):
        run.train()
    assert run.state.global_step == 1


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path, tokenizer):
    run = trainer(tmp_path, tokenizer, contrasts(2))
    run.model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(run.model)
    with pytest.raises(TrainingDiverged, match="gradient"):
        run.train()
    assert largest_change(before, weights(run.model)) == 0
