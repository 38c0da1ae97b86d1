"""SSO's loss and weight: numbers worked by hand, every switch, gradients, and what is refused."""

import dataclasses
import itertools
import math

import pytest
import torch

from selfsteer.losses import SSOLoss, base_loss, onpolicy_weight, sso_loss
from selfsteer.losses.base import pair_loss
from selfsteer.views import SSO_VIEWS, View

PARTS = ("loss", "base", "steering", "weight", "sft")
SWITCHES = list(itertools.product([True, False], [True, False], ["all", "steering"]))
NAMES = ("dpo", "ln_dpo", "ipo", "hinge", "simpo", "orpo")


@pytest.fixture
def worked(pair):
    """Policy equal to reference, so each view's IPO at beta 0.2 is 6.25; m = -ln 3 of both responses, so W = 3/4."""
    mean = -math.log(3)
    same = {
        View.BASE: pair([4 * mean], [7 * mean], ([4], [7])),
        View.POSITIVE: pair([-3.0], [-5.0], ([4], [7])),
        View.NEGATIVE: pair([-2.0], [-9.0], ([5], [4])),
    }
    return same, same


def test_weight_by_hand(pair):
    # means -1 and -3: alpha 0.5 averages to -2, sigmoid(2) = 0.8807971; alpha 0.66 to -1.68, sigmoid(1.68) = 0.8429045
    views = pair([-2.0], [-15.0], ([2], [5]))
    expected = {0.5: 0.8807971, 0.66: 0.8429045, 1.0: 0.7310586, 0.0: 0.9525741}
    for alpha, number in expected.items():
        assert onpolicy_weight(views, alpha=alpha).item() == pytest.approx(number, abs=1e-7)


@pytest.mark.parametrize(
    "flags, expected",
    [
        ({}, 0.75 * (0.1 * 12.5 + 6.25)),  # 5.625
        ({"weight_scope": "steering"}, 0.75 * 0.1 * 12.5 + 6.25),  # 7.1875
        ({"use_steering": False}, 0.75 * 6.25),  # 4.6875
        ({"use_weight": False}, 0.1 * 12.5 + 6.25),  # 7.5
        ({"use_weight": False, "use_steering": False}, 6.25),
        ({"steering_coef": 2.0}, 0.75 * (2 * 12.5 + 6.25)),
        ({"steering_coef": 0.0}, 0.75 * 6.25),
        ({"beta": 0.5}, 0.75 * (0.1 * 2 + 1)),  # IPO is 1 / (4 * 0.25) = 1 per view
        ({"sft_coef": 0.1}, 5.625 + 0.1 * 1.0986123),  # outside W: SFT = ln 3
        ({"sft_coef": 0.1, "weight_scope": "steering"}, 7.1875 + 0.1 * 1.0986123),
    ],
)
def test_total_by_hand(worked, flags, expected):
    assert sso_loss(*worked, **flags).loss.item() == pytest.approx(expected, abs=1e-7)


def test_parts_by_hand(worked):
    out = sso_loss(*worked)
    assert [getattr(out, part).item() for part in PARTS[1:]] == pytest.approx([6.25, 12.5, 0.75, math.log(3)])


def test_defaults_are_the_published_settings(random_views):
    published = {"base": "ipo", "beta": 0.2, "steering_coef": 0.1, "onpolicy_alpha": 0.66, "weight_scope": "all"}
    views = random_views(4)
    assert torch.equal(sso_loss(*views).loss, sso_loss(*views, **published).loss)


def by_hand(policy, reference, row, weight, steering, scope):
    """The total of one example in plain floats, from three DPO losses at beta 0.1; g = 0.3, alpha = 0.6, s = 0.2."""

    def ratio(view, role):
        return (getattr(policy[view], role) - getattr(reference[view], role))[row].item()

    losses = {v: math.log1p(math.exp(-0.1 * (ratio(v, "chosen") - ratio(v, "rejected")))) for v in SSO_VIEWS}
    base = policy["base"]
    mean_chosen = base.chosen[row].item() / base.chosen_lengths[row].item()
    mean_rejected = base.rejected[row].item() / base.rejected_lengths[row].item()
    w = 1 / (1 + math.exp(0.6 * mean_chosen + 0.4 * mean_rejected)) if weight else 1
    steered = 0.3 * (losses["positive"] + losses["negative"]) if steering else 0
    outside = losses["base"] if scope == "steering" and steering else 0
    return w * (steered + losses["base"] - outside) + outside - 0.2 * mean_chosen


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("use_weight, use_steering, scope", SWITCHES)
def test_every_switch_at_every_batch_size(random_views, use_weight, use_steering, scope, batch):
    policy, reference = random_views(batch)
    flags = {"use_weight": use_weight, "use_steering": use_steering, "weight_scope": scope}
    settings = {"base": "dpo", "beta": 0.1, "steering_coef": 0.3, "onpolicy_alpha": 0.6, "sft_coef": 0.2}
    out = sso_loss(policy, reference, **settings, **flags)
    expected = [by_hand(policy, reference, row, use_weight, use_steering, scope) for row in range(batch)]
    assert out.loss.tolist() == pytest.approx(expected, rel=1e-12)
    assert all(getattr(out, part).shape == (batch,) for part in PARTS)
    assert use_weight or out.weight.tolist() == [1.0] * batch
    assert use_steering or out.steering.tolist() == [0.0] * batch
    assert set(out.rewards) == set(SSO_VIEWS if use_steering else [View.BASE])


@pytest.mark.parametrize("name", NAMES)
def test_examples_do_not_mix(random_views, name):
    policy, reference = random_views(4)

    def row(pairs, i):
        fields = [field.name for field in dataclasses.fields(pairs["base"])]
        cut = {v: {f: getattr(pair, f)[i : i + 1] for f in fields} for v, pair in pairs.items()}
        return {v: dataclasses.replace(pairs[v], **cut[v]) for v in pairs}

    together = sso_loss(policy, reference, base=name)
    alone = [sso_loss(row(policy, i), row(reference, i), base=name) for i in range(4)]
    for part in PARTS:
        apart = torch.cat([getattr(one, part) for one in alone])
        torch.testing.assert_close(getattr(together, part), apart, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("use_weight, use_steering, scope", SWITCHES)
def test_every_part_has_the_dtype_of_the_inputs(random_views, use_weight, use_steering, scope):
    for dtype in (torch.float32, torch.float64):
        flags = {"use_weight": use_weight, "use_steering": use_steering, "weight_scope": scope}
        out = sso_loss(*random_views(2, dtype), **flags)
        assert {getattr(out, part).dtype for part in PARTS} == {dtype}
        assert {reward.dtype for pair in out.rewards.values() for reward in pair} == {dtype}


@pytest.mark.parametrize("name", NAMES)
def test_rewards_are_the_base_loss_own_and_detached(random_views, name):
    policy, reference = random_views(4)
    for view, rewards in sso_loss(policy, reference, base=name, beta=0.1).rewards.items():
        expected = pair_loss(name, policy[view], reference[view], beta=0.1, label_smoothing=0.0, margin=0.0)
        assert all(not reward.requires_grad for reward in rewards)
        torch.testing.assert_close(rewards, (expected.chosen_reward.detach(), expected.rejected_reward.detach()))


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_the_base_loss_of_each_view_unweighted_and_detached(random_views, name):
    policy, reference = random_views(4)
    out = sso_loss(policy, reference, base=name, beta=0.1, steering_coef=0.3, sft_coef=0.5)
    assert set(out.terms) == set(SSO_VIEWS)
    for view, term in out.terms.items():
        assert not term.requires_grad
        torch.testing.assert_close(term, base_loss(name, policy[view], reference[view], beta=0.1).detach())


def test_base_settings_reach_every_view(random_views):
    policy, _ = random_views(4)
    settings = {"beta": 0.7, "margin": 0.4, "label_smoothing": 0.1}
    out = sso_loss(policy, None, base="simpo", **settings)
    losses = {view: base_loss("simpo", policy[view], None, **settings) for view in SSO_VIEWS}
    torch.testing.assert_close(out.base, losses[View.BASE])
    torch.testing.assert_close(out.steering, losses[View.POSITIVE] + losses[View.NEGATIVE])


def leaves(policy):
    return [getattr(policy[view], role) for view in SSO_VIEWS for role in ("chosen", "rejected")]


def with_leaves(policy, logps):
    triples = zip(SSO_VIEWS, logps[::2], logps[1::2], strict=True)
    return {view: dataclasses.replace(policy[view], chosen=c, rejected=r) for view, c, r in triples}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scope", ["all", "steering"])
def test_gradcheck(random_views, name, scope):
    policy, reference = random_views(2)

    def loss(*logps):
        settings = {"base": name, "beta": 0.3, "weight_scope": scope, "sft_coef": 0.2}
        return sso_loss(with_leaves(policy, logps), reference, **settings).loss

    assert torch.autograd.gradcheck(loss, leaves(policy))


@pytest.mark.parametrize("scope", ["all", "steering"])
def test_detach_weight_cuts_the_gradient_and_keeps_the_value(random_views, scope):
    policy, reference = random_views(4)
    through, cut = (sso_loss(policy, reference, weight_scope=scope, detach_weight=d) for d in (False, True))
    assert torch.equal(through.loss, cut.loss)
    assert torch.equal(through.weight, cut.weight)
    assert through.weight.requires_grad
    assert not cut.weight.requires_grad
    gradients = [torch.autograd.grad(out.loss.sum(), leaves(policy)) for out in (through, cut)]
    # the difference is dW/dlogp times what W multiplies: dW/dlogp = -W (1 - W) * alpha / length
    w, pair = cut.weight, policy["base"]
    inside = 0.1 * cut.steering + (cut.base if scope == "all" else 0)
    torch.testing.assert_close(gradients[0][0] - gradients[1][0], -w * (1 - w) * 0.66 / pair.chosen_lengths * inside)
    torch.testing.assert_close(gradients[0][1] - gradients[1][1], -w * (1 - w) * 0.34 / pair.rejected_lengths * inside)
    for through_w, cut_w in zip(*(g[2:] for g in gradients), strict=True):  # W reads the base view only
        assert torch.equal(through_w, cut_w)


def test_sft_acts_on_the_base_views_chosen_response_only(random_views):
    policy, reference = random_views(4)
    outs = [sso_loss(policy, reference, sft_coef=s) for s in (0.0, 0.5)]
    gradients = [torch.autograd.grad(out.loss.sum(), leaves(policy)) for out in outs]
    difference = [b - a for a, b in zip(*gradients, strict=True)]
    torch.testing.assert_close(difference[0], -0.5 / policy["base"].chosen_lengths.double())
    assert all(not d.any() for d in difference[1:])


def test_views_that_are_not_used_need_not_be_there(random_views):
    policy, reference = random_views(2)
    out = sso_loss({View.BASE: policy["base"]}, {View.BASE: reference["base"]}, use_steering=False)
    assert torch.equal(out.loss, sso_loss(policy, reference, use_steering=False).loss)


@pytest.mark.parametrize("name", ["simpo", "orpo"])
def test_reference_is_not_needed_where_it_is_not_read(random_views, name):
    policy, reference = random_views(2)
    outs = [sso_loss(policy, other, base=name).loss for other in (reference, None, {})]
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("name", ["dpo", "ln_dpo", "ipo", "hinge"])
def test_reference_is_needed_where_it_is_read(random_views, name):
    with pytest.raises(ValueError, match=f"'{name}' compares with a reference model"):
        sso_loss(random_views(2)[0], None, base=name)


@pytest.mark.parametrize("view", SSO_VIEWS)
@pytest.mark.parametrize("who", ["policy", "reference"])
def test_missing_view_is_named(random_views, view, who):
    views = dict(zip(("policy", "reference"), random_views(2), strict=True))
    del views[who][view]
    with pytest.raises(ValueError, match=f"{who} has no log-probs of the view '{view.value}'"):
        sso_loss(**views)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"weight_scope": "stering"}, "unknown weight_scope 'stering'. Did you mean 'steering'"),
        ({"base": "idpo"}, "unknown base loss 'idpo'. Did you mean"),
        ({"onpolicy_alpha": 1.01}, r"onpolicy_alpha .*must lie in \[0, 1\], got 1.01"),
        ({"onpolicy_alpha": -0.1, "use_weight": False}, "onpolicy_alpha"),
        ({"onpolicy_alpha": math.nan}, "onpolicy_alpha"),
        ({"steering_coef": -0.1}, "steering_coef must be at least 0"),
        ({"sft_coef": -0.1}, "sft_coef must be at least 0"),
        ({"sft_coef": math.inf}, "sft_coef must be at least 0 and finite"),
        ({"beta": 0.0}, "beta must be above 0"),
        ({"margin": 0.5}, "margin=0.5 has no effect in the base loss 'ipo'"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1 has no effect in the base loss 'ipo'"),
        ({"base": "dpo", "label_smoothing": 0.5}, "label_smoothing must lie in"),
        ({"detach_weight": True, "use_weight": False}, "detach_weight=True has no effect with use_weight=False"),
    ],
)
def test_refused_settings(random_views, settings, message):
    with pytest.raises(ValueError, match=message):
        sso_loss(*random_views(2), **settings)


@pytest.mark.parametrize("name", NAMES)
def test_views_must_match_in_shape_and_dtype(random_views, name):
    views, one, low = random_views(4), random_views(1), random_views(4, torch.float32)
    for other, message in ((one, r"shape: .*policy\[positive\] \(1,\)"), (low, r"dtype: .*policy\[positive\] .*32")):
        mixed = [pairs | {View.POSITIVE: others["positive"]} for pairs, others in zip(views, other, strict=True)]
        with pytest.raises(ValueError, match=message):
            sso_loss(*mixed, base=name)


def test_bundle_is_frozen(worked):
    out = sso_loss(*worked)
    assert isinstance(out, SSOLoss)
    with pytest.raises(dataclasses.FrozenInstanceError):
        out.loss = out.base
