"""The baselines' losses: the base view alone, and fine-tuning on y+; expected numbers by hand."""

from __future__ import annotations

import pytest
import torch

from selfsteer.losses import PairLogps, base_view_loss, supervised_loss
from selfsteer.views import View


def pairs(chosen: float, rejected: float) -> dict[View, PairLogps]:
    """One example: y+ of 4 tokens, y- of 2."""
    values = torch.tensor([chosen], dtype=torch.float64), torch.tensor([rejected], dtype=torch.float64)
    return {View.BASE: PairLogps(*values, torch.tensor([4]), torch.tensor([2]))}


def test_fine_tuning_is_minus_the_mean_log_prob_of_y_plus_whatever_y_minus_is():
    for rejected in (-1.0, -7.0):
        found = supervised_loss(pairs(-6.0, rejected))
        assert found.loss.item() == 1.5  # 6 nats over 4 tokens
        assert found.base.item() == found.steering.item() == 0.0 and found.rewards == {}


def test_the_base_view_alone_is_ipo_without_weight_and_steering():
    found = base_view_loss(pairs(-6.0, -7.0), pairs(-8.0, -6.0), base="ipo", beta=0.5)
    # means of the log-ratios: (8 - 6) / 4 = 0.5 and (6 - 7) / 2 = -0.5; (0.5 + 0.5 - 1 / (2 * 0.5))^2 = 0
    assert found.loss.item() == 0.0
    found = base_view_loss(pairs(-6.0, -7.0), pairs(-8.0, -6.0), base="ipo", beta=0.25, sft_coef=2.0)
    assert found.loss.item() == pytest.approx((1.0 - 2.0) ** 2 + 2.0 * 1.5)
    assert found.weight.item() == 1.0


def test_a_setting_without_effect_is_refused():
    with pytest.raises(ValueError, match="margin"):
        base_view_loss(pairs(-1.0, -2.0), pairs(-1.0, -2.0), margin=0.5)
