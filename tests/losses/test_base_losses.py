"""Base losses: numbers worked by hand, gradients, and what is refused."""

import dataclasses
import math

import pytest
import torch

from selfsteer.losses import BASE_LOSSES, PairLogps, base_loss
from selfsteer.losses.base import PairLoss, pair_loss

NAMES = ("dpo", "ln_dpo", "ipo", "hinge", "simpo", "orpo")
WITH_REFERENCE = ("dpo", "ln_dpo", "ipo", "hinge")
NORMALISED = ("ln_dpo", "ipo", "simpo", "orpo")


def value(name, policy, reference=None, **settings):
    return base_loss(name, policy, reference, **settings).item()


def rewards(name, policy, reference, beta):
    scored = pair_loss(name, policy, reference, beta=beta, label_smoothing=0.0, margin=0.0)
    return scored.chosen_reward.item(), scored.rejected_reward.item()


@pytest.fixture
def worked(pair):
    """Summed log-ratios +2 and -2; means -2 and -3 (policy), -2.4 and -2.8 (reference): mean log-ratios +0.4, -0.2."""
    lengths = ([5], [10])
    return pair([-10.0], [-30.0], lengths), pair([-12.0], [-28.0], lengths)


@pytest.fixture
def odds(pair):
    """Mean log-probs ln(1/2), odds 1, and ln(1/4), odds 1/3."""
    return pair([4 * math.log(0.5)], [3 * math.log(0.25)], ([4], [3]))


def test_names():
    assert set(NAMES) <= set(BASE_LOSSES)


@pytest.mark.parametrize("beta", [0.1, 0.2, 2.0])
def test_policy_equal_to_reference(pair, beta):
    same = pair([-7.0, -1.0], [-9.0, -50.0], ([3, 2], [5, 60]))
    expected = {"dpo": math.log(2), "ln_dpo": math.log(2), "ipo": 1 / (4 * beta**2), "hinge": 1.0}
    for name, number in expected.items():
        assert base_loss(name, same, same, beta=beta).tolist() == pytest.approx([number, number])


def test_dpo_by_hand(worked):
    # beta * (2 - -2) = 0.4; ln(1 + e^-0.4) = ln 1.6703200 = 0.5130153
    assert value("dpo", *worked, beta=0.1) == pytest.approx(0.5130153, abs=1e-7)
    assert rewards("dpo", *worked, beta=0.1) == pytest.approx((0.2, -0.2))


def test_dpo_label_smoothing_by_hand(worked):
    # -log sigmoid(-0.4) = 0.5130153 + 0.4; 0.9 * 0.5130153 + 0.1 * 0.9130153 = 0.5530153
    assert value("dpo", *worked, beta=0.1, label_smoothing=0.1) == pytest.approx(0.5530153, abs=1e-7)


def test_ln_dpo_by_hand(worked):
    # mean log-ratios +0.4 and -0.2: 5 * 0.6 = 3; ln(1 + e^-3) = ln 1.0497871 = 0.0485874
    assert value("ln_dpo", *worked, beta=5.0) == pytest.approx(0.0485874, abs=1e-7)
    assert rewards("ln_dpo", *worked, beta=5.0) == pytest.approx((2.0, -1.0))


@pytest.mark.parametrize(("name", "counts"), [("dpo", True), ("hinge", True), *((n, False) for n in NORMALISED)])
def test_which_losses_count_length(pair, name, counts):
    """The same log-prob and log-ratio a token over four times as many tokens: a loss on means can't see that."""
    short = pair([-4.0], [-9.0], ([4], [6])), pair([-5.0], [-6.0], ([4], [6]))
    long = pair([-16.0], [-9.0], ([16], [6])), pair([-20.0], [-6.0], ([16], [6]))
    assert (value(name, *short, beta=0.1) != pytest.approx(value(name, *long, beta=0.1))) == counts


def test_ipo_by_hand(worked):
    # (0.4 - -0.2 - 1 / 0.4)^2 = 1.9^2
    assert value("ipo", *worked, beta=0.2) == pytest.approx(3.61)
    assert rewards("ipo", *worked, beta=0.2) == pytest.approx((0.08, -0.04))


def test_hinge_by_hand(worked):
    assert value("hinge", *worked, beta=0.1) == pytest.approx(0.6)  # 1 - 0.4
    assert value("hinge", *worked, beta=0.5) == 0.0  # 1 - 2 is below 0
    assert rewards("hinge", *worked, beta=0.1) == pytest.approx((0.2, -0.2))


def test_simpo_by_hand(worked):
    # 2 * (-2 - -3) - 0.5 = 1.5; ln(1 + e^-1.5) = ln 1.2231302 = 0.2014133
    assert value("simpo", worked[0], beta=2.0, margin=0.5) == pytest.approx(0.2014133, abs=1e-7)
    # without margin: ln(1 + e^-2) = ln 1.1353353 = 0.1269280
    assert value("simpo", worked[0], beta=2.0) == pytest.approx(0.1269280, abs=1e-7)
    assert rewards("simpo", worked[0], None, beta=2.0) == pytest.approx((-4.0, -6.0))


def test_simpo_margin_and_label_smoothing_by_hand(worked):
    # 0.9 * 0.2014133 + 0.1 * (0.2014133 + 1.5) = 0.3514133
    settings = {"beta": 2.0, "margin": 0.5, "label_smoothing": 0.1}
    assert value("simpo", worked[0], **settings) == pytest.approx(0.3514133, abs=1e-7)


def test_orpo_by_hand(odds):
    # odds ratio 1 / (1/3) = 3; ln 2 - 0.5 * ln sigmoid(ln 3) = ln 2 + 0.5 * ln(4/3)
    assert value("orpo", odds, beta=0.5) == pytest.approx(0.6931472 + 0.5 * 0.2876821, abs=1e-7)
    assert rewards("orpo", odds, None, beta=0.5) == pytest.approx((0.0, -0.5 * 1.0986123), abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chosen, rejected", [(0.0, 0.0), (0.0, -5.0), (-5.0, 0.0), (1e-8, 0.0), (-1e-9, -1e-9)])
def test_orpo_at_certainty_is_finite(chosen, rejected, dtype):
    logps = [torch.tensor([value], dtype=dtype, requires_grad=True) for value in (chosen, rejected)]
    loss = base_loss("orpo", PairLogps(*logps, torch.tensor([4]), torch.tensor([4])), None, beta=0.1)
    assert loss.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss.sum(), logps))


def test_orpo_is_not_clamped_short_of_certainty(pair):
    # p = e^-0.00001: log odds = -1e-5 - ln(1 - e^-1e-5); against the same for p = 1/2, which is 0
    near = -1e-5 - math.log(-math.expm1(-1e-5))
    policy = pair([math.log(0.5)], [-1e-5], ([1], [1]))
    assert value("orpo", policy, beta=1.0) == pytest.approx(math.log(2) + math.log1p(math.exp(near)), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_shape_and_dtype_of_the_inputs(random_views, name, batch, dtype):
    policy, reference = (side["base"] for side in random_views(batch, dtype))
    for out in pair_loss(name, policy, reference, beta=0.1, label_smoothing=0.0, margin=0.0):
        assert out.shape == (batch,)
        assert out.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_rewards_rank_as_the_loss_trains(random_views, name):
    """One gradient step on the loss widens the gap between the rewards."""
    policy, reference = (side["base"] for side in random_views(4))
    logps = [policy.chosen, policy.rejected]
    step = torch.autograd.grad(base_loss(name, policy, reference, beta=0.1).sum(), logps)
    moved = [(logp - 1e-3 * g).detach() for logp, g in zip(logps, step, strict=True)]
    gaps = []
    for bundle in (policy, dataclasses.replace(policy, chosen=moved[0], rejected=moved[1])):
        scored = pair_loss(name, bundle, reference, beta=0.1, label_smoothing=0.0, margin=0.0)
        gaps.append(scored.chosen_reward - scored.rejected_reward)
    assert (gaps[1] > gaps[0]).all()


SMOOTH = [("dpo", {"label_smoothing": 0.2}), ("simpo", {"label_smoothing": 0.2, "margin": 0.5})]


@pytest.mark.parametrize("name, settings", [*((name, {}) for name in NAMES), *SMOOTH])
def test_gradcheck(random_views, name, settings):
    policy, reference = (side["base"] for side in random_views(4))

    def loss(chosen, rejected):
        bundle = dataclasses.replace(policy, chosen=chosen, rejected=rejected)
        return base_loss(name, bundle, reference, beta=0.3, **settings)

    assert torch.autograd.gradcheck(loss, (policy.chosen, policy.rejected))


def test_a_new_base_loss_is_one_function_and_one_line(monkeypatch, worked):
    def cubic(policy, *, beta, margin=0.0):
        loss = beta * policy.chosen + margin
        return PairLoss(loss, loss, loss)

    monkeypatch.setitem(BASE_LOSSES, "cubic", cubic)
    assert value("cubic", worked[0], beta=0.5, margin=2.0) == -3.0
    with pytest.raises(ValueError, match=r"label_smoothing=0.1 has no effect in the base loss 'cubic'"):
        base_loss("cubic", worked[0], None, beta=0.5, label_smoothing=0.1)


def test_unknown_name(worked):
    with pytest.raises(ValueError, match=r"unknown base loss 'dop'. Did you mean 'dpo'\? Available: .*simpo"):
        base_loss("dop", *worked, beta=0.1)


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_beta_must_be_positive(worked, name, beta):
    with pytest.raises(ValueError, match="beta must be above 0"):
        base_loss(name, *worked, beta=beta)


@pytest.mark.parametrize("name", ["dpo", "ln_dpo", "ipo", "hinge", "orpo"])
def test_margin_is_refused_where_it_does_nothing(worked, name):
    with pytest.raises(ValueError, match=f"margin=0.5 has no effect in the base loss '{name}': it acts in simpo only"):
        base_loss(name, *worked, beta=0.1, margin=0.5)


@pytest.mark.parametrize("name", ["ln_dpo", "ipo", "hinge", "orpo"])
def test_label_smoothing_is_refused_where_it_does_nothing(worked, name):
    with pytest.raises(ValueError, match=r"label_smoothing=0.1 has no effect .* it acts in dpo, simpo only"):
        base_loss(name, *worked, beta=0.1, label_smoothing=0.1)


@pytest.mark.parametrize("settings", [{"label_smoothing": v} for v in (-0.1, 0.5, math.nan)] + [{"margin": -0.5}])
def test_settings_out_of_range(worked, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must"):
        base_loss("simpo", *worked, beta=0.1, **settings)


def test_label_smoothing_just_below_half_is_accepted(worked):
    assert math.isfinite(value("dpo", *worked, beta=0.1, label_smoothing=0.49))


@pytest.mark.parametrize("name", NAMES)
def test_reference_may_be_left_out_only_where_it_is_not_read(worked, name):
    if name in WITH_REFERENCE:
        with pytest.raises(ValueError, match=f"'{name}' compares with a reference model"):
            base_loss(name, worked[0], None, beta=0.1)
    else:
        assert value(name, worked[0], None, beta=0.1) == value(name, *worked, beta=0.1)


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_policy_and_reference_must_match(pair, name):
    policy = pair([-1.0, -2.0], [-3.0, -4.0], ([1, 2], [3, 4]))
    others = {
        r"shape: policy \(2,\), reference \(1,\)": pair([-1.0], [-3.0], ([1], [3])),
        "dtype: policy torch.float64, reference torch.float32": pair(
            [-1.0, -2.0], [-3.0, -4.0], ([1, 2], [3, 4]), torch.float32
        ),
        "rejected_lengths": pair([-1.0, -2.0], [-3.0, -4.0], ([1, 2], [3, 5])),
        "chosen_lengths": pair([-1.0, -2.0], [-3.0, -4.0], ([1, 1], [3, 4])),
    }
    for message, reference in others.items():
        with pytest.raises(ValueError, match=message):
            base_loss(name, policy, reference, beta=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_one_dtype_within_a_pair(name):
    counts = torch.tensor([2])
    mixed = PairLogps(torch.tensor([-1.0]), torch.tensor([-1.0], dtype=torch.float64), counts, counts)
    with pytest.raises(ValueError, match=r"dtype: policy torch.float32 and torch.float64"):
        base_loss(name, mixed, mixed, beta=0.1)
