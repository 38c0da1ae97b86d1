"""The losses against ../shared/golden: numbers of an independent implementation (its README says which)."""

import pytest
import torch

from selfsteer.losses import base_loss, onpolicy_weight, sso_loss
from selfsteer.views import SSO_VIEWS, View

CLOSE = {"rtol": 1e-6, "atol": 1e-12}

# golden key -> the flags that must give it
TOTALS = {
    "loss_scope_all": {},
    "loss_scope_steering": {"weight_scope": "steering"},
    "loss_no_weight": {"use_weight": False},
    "loss_no_steering": {"use_steering": False},
    "loss_neither": {"use_weight": False, "use_steering": False},
}
RELEASED_MEANS = {
    "mean_scope_steering_from_released_code": {"weight_scope": "steering"},
    "mean_no_steering_from_released_code": {"weight_scope": "steering", "use_steering": False},
}


def assert_close(actual, expected, **tolerance):
    expected = torch.tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual.detach(), expected, **(tolerance or CLOSE))


def total(golden, alpha, **flags):
    settings = {"base": golden.name, "beta": golden.beta, "margin": golden.margin}
    settings |= {"steering_coef": golden.expected.get("steering_coef", 0.1), "onpolicy_alpha": float(alpha)}
    return sso_loss(golden.policy, golden.reference, **settings, **flags)


def test_base_loss_of_every_view(golden):
    for view in SSO_VIEWS:
        pairs = golden.policy[view], golden.reference[view]
        assert_close(base_loss(golden.name, *pairs, beta=golden.beta, margin=golden.margin), golden.expected[view])


def test_weight(golden):
    for alpha, expected in golden.expected["by_alpha"].items():
        assert_close(onpolicy_weight(golden.policy[View.BASE], alpha=float(alpha)), expected["weight"])
        assert_close(total(golden, alpha).weight, expected["weight"])


@pytest.mark.parametrize("key", TOTALS)
def test_totals(golden, key):
    for alpha, expected in golden.expected["by_alpha"].items():
        assert_close(total(golden, alpha, **TOTALS[key]).loss, expected[key])


@pytest.mark.parametrize("key", RELEASED_MEANS)
def test_batch_means_of_the_released_code(golden, key):
    for alpha, expected in golden.expected["by_alpha"].items():
        if expected[key] is None:  # the release has no such path for the losses without a reference
            assert golden.name in ("simpo", "orpo")
            assert "no_steering" in key
            continue
        assert_close(total(golden, alpha, **RELEASED_MEANS[key]).loss.mean(), expected[key])


def test_gradients_through_the_weight(golden):
    leaves = {(view, role): getattr(golden.policy[view], role) for view in SSO_VIEWS for role in ("chosen", "rejected")}
    for alpha, expected in golden.expected["by_alpha"].items():
        loss = total(golden, alpha, weight_scope="steering").loss.mean()
        for (view, role), gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            assert_close(gradient, expected["grad_of_mean_scope_steering_wrt_policy_logps"][view][role])


def test_log_probs_of_the_embedded_model_in_float32(golden_float32):
    golden, expected = golden_float32, golden_float32.expected
    float32 = {"rtol": 2e-5, "atol": 1e-6}
    out = {scope: total(golden, 0.66, weight_scope=scope) for scope in ("all", "steering")}
    for scope, bundle in out.items():
        assert_close(bundle.loss, [expected[f"loss_scope_{scope}"]], **float32)
    assert_close(out["all"].base, [expected["base"]], **float32)
    assert_close(out["all"].steering, [expected["positive"] + expected["negative"]], **float32)
    assert_close(out["all"].weight, [expected["weight_alpha0.66"]], **float32)
