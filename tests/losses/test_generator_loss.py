"""The generator's loss (v2): numbers worked by hand, its terms and ablations, gradients, and what is refused."""

import math

import pytest
import torch

from selfsteer.losses import base_loss, generator_loss
from selfsteer.views import View


@pytest.fixture
def worked(pair):
    """DPO logits at beta 0.1 of 0.4 (positive), -0.2 (negative), 1.0 (strict); chosen means -2, -0.5, -4."""
    policy = {
        View.POSITIVE: pair([-10.0], [-30.0], ([5], [10])),
        View.NEGATIVE: pair([-4.0], [-10.0], ([8], [5])),
        View.NEGATIVE_STRICT: pair([-40.0], [-10.0], ([10], [5])),
    }
    reference = {
        View.POSITIVE: pair([-12.0], [-28.0], ([5], [10])),
        View.NEGATIVE: pair([-3.0], [-11.0], ([8], [5])),
        View.NEGATIVE_STRICT: pair([-50.0], [-10.0], ([10], [5])),
    }
    return policy, reference


POSITIVE, NEGATIVE, STRICT = (math.log1p(math.exp(-z)) for z in (0.4, -0.2, 1.0))  # 0.5130153, 0.7981389, 0.3132617


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, 0.5130153 + 0.1 * 2 + 0.7981389 + 0.1 * 0.5),  # Formulas 1, 2 and 4
        ({"negative": "negative"}, 0.5130153 + 0.1 * 2 + 0.3132617 + 0.1 * 4),  # Formula 3
        ({"terms": ("positive",)}, 0.5130153 + 0.1 * 2),
        ({"terms": ("negative",)}, 0.7981389 + 0.1 * 0.5),
        ({"terms": ["negative"], "negative": "negative"}, 0.3132617 + 0.1 * 4),
        ({"terms": ("negative", "positive"), "sft_coef": 0.0}, 0.5130153 + 0.7981389),
        ({"sft_coef": 1.0}, 0.5130153 + 2 + 0.7981389 + 0.5),
    ],
)
def test_total_by_hand(worked, settings, expected):
    assert generator_loss(*worked, **settings).loss.item() == pytest.approx(expected, abs=1e-7)


def test_parts_by_hand(worked):
    out = generator_loss(*worked)
    parts = [out.base, out.steering, out.weight, out.sft]
    assert [part.item() for part in parts] == pytest.approx([0.0, POSITIVE + NEGATIVE, 1.0, 2.5])
    assert set(out.rewards) == {View.POSITIVE, View.NEGATIVE}
    assert [reward.item() for reward in out.rewards[View.POSITIVE]] == pytest.approx([0.2, -0.2])


@pytest.mark.parametrize("negative, view", [("original", View.NEGATIVE), ("negative", View.NEGATIVE_STRICT)])
@pytest.mark.parametrize("name", ["dpo", "ln_dpo", "ipo", "hinge", "simpo", "orpo"])
@pytest.mark.parametrize("batch", [1, 4])
def test_every_base_loss(random_views, batch, name, negative, view):
    policy, reference = random_views(batch)
    out = generator_loss(policy, reference, base=name, beta=0.3, negative=negative, sft_coef=0.7)
    views = (View.POSITIVE, view)
    losses = [base_loss(name, policy[v], reference[v], beta=0.3) for v in views]
    sft = [-policy[v].chosen / policy[v].chosen_lengths for v in views]
    torch.testing.assert_close(out.loss, losses[0] + losses[1] + 0.7 * (sft[0] + sft[1]))
    assert out.loss.shape == (batch,)


def test_base_settings_reach_both_terms(random_views):
    policy, _ = random_views(4)
    settings = {"beta": 0.7, "margin": 0.4, "label_smoothing": 0.1}
    out = generator_loss(policy, None, base="simpo", **settings)
    losses = [base_loss("simpo", policy[v], None, **settings) for v in (View.POSITIVE, View.NEGATIVE)]
    torch.testing.assert_close(out.steering, losses[0] + losses[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_of_the_inputs(random_views, dtype):
    out = generator_loss(*random_views(2, dtype))
    assert {part.dtype for part in (out.loss, out.base, out.steering, out.weight, out.sft)} == {dtype}


def test_gradient_of_the_negative_term_never_lowers_the_original_response(random_views):
    policy, reference = random_views(4)
    loss = generator_loss(policy, reference, terms=("negative",)).loss.sum()
    chosen, rejected = torch.autograd.grad(loss, [policy[View.NEGATIVE].chosen, policy[View.NEGATIVE].rejected])
    assert (chosen < 0).all()
    assert (rejected > 0).all()


@pytest.mark.parametrize("negative", ["original", "negative"])
def test_gradcheck(random_views, negative):
    policy, reference = random_views(2)
    view = {"original": View.NEGATIVE, "negative": View.NEGATIVE_STRICT}[negative]

    def loss(*logps):
        moved = {View.POSITIVE: type(policy[view])(*logps[:2], *lengths(View.POSITIVE))}
        moved[view] = type(policy[view])(*logps[2:], *lengths(view))
        return generator_loss(moved, reference, negative=negative).loss

    def lengths(of):
        return policy[of].chosen_lengths, policy[of].rejected_lengths

    inputs = [getattr(policy[v], role) for v in (View.POSITIVE, view) for role in ("chosen", "rejected")]
    assert torch.autograd.gradcheck(loss, inputs)


def test_views_that_are_not_used_need_not_be_there(worked):
    only = [{View.POSITIVE: pairs[View.POSITIVE]} for pairs in worked]
    settings = {"terms": ("positive",)}
    assert torch.equal(generator_loss(*only, **settings).loss, generator_loss(*worked, **settings).loss)


@pytest.mark.parametrize(
    "view, settings",
    [(View.POSITIVE, {}), (View.NEGATIVE, {}), (View.NEGATIVE_STRICT, {"negative": "negative"})],
)
@pytest.mark.parametrize("who", ["policy", "reference"])
def test_missing_view_is_named(worked, view, settings, who):
    views = dict(zip(("policy", "reference"), map(dict, worked), strict=True))
    del views[who][view]
    with pytest.raises(ValueError, match=f"{who} has no log-probs of the view '{view.value}'"):
        generator_loss(**views, **settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"negative": "orignal"}, "unknown negative 'orignal'. Did you mean 'original'"),
        ({"terms": ("postive",)}, "unknown term 'postive'. Did you mean 'positive'"),
        ({"terms": ()}, "terms must hold"),
        ({"terms": ("positive", "positive")}, "each once"),
        ({"terms": ("positive",), "negative": "negative"}, "negative='negative' has no effect with terms"),
        ({"base": "dop"}, "unknown base loss 'dop'. Did you mean 'dpo'"),
        ({"sft_coef": -0.1}, "sft_coef must be at least 0"),
        ({"beta": -1.0}, "beta must be above 0"),
        ({"margin": 0.5}, "margin=0.5 has no effect in the base loss 'dpo'"),
        ({"base": "orpo", "label_smoothing": 0.1}, "label_smoothing=0.1 has no effect in the base loss 'orpo'"),
    ],
)
def test_refused_settings(worked, settings, message):
    with pytest.raises(ValueError, match=message):
        generator_loss(*worked, **settings)


def test_reference_is_needed_by_dpo(worked):
    with pytest.raises(ValueError, match="'dpo' compares with a reference model"):
        generator_loss(worked[0], None)
