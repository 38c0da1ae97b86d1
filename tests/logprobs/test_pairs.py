"""The bundle that every loss takes refuses what a loss would turn into a wrong number."""

from __future__ import annotations

import pytest
import torch

from selfsteer.logprobs import PairLogps

LOGPS = torch.tensor([-2.0, -3.0])
LENGTHS = torch.tensor([4, 2])


def test_means_are_per_response_token_and_detach_cuts_the_graph():
    pair = PairLogps(LOGPS.clone().requires_grad_(), LOGPS - 1, LENGTHS, LENGTHS + 1)
    assert pair.chosen_mean.tolist() == [-0.5, -1.5]
    assert pair.rejected_mean.tolist() == pytest.approx([-3 / 5, -4 / 3])
    assert pair.chosen_mean.requires_grad
    assert not pair.detach().chosen_mean.requires_grad


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((LOGPS, LOGPS[:1], LENGTHS, LENGTHS), r"one shape \(B,\), got \[\(1,\), \(2,\)\]"),
        ((LOGPS, LOGPS, LENGTHS, LENGTHS[:1]), "one shape"),
        ((LOGPS[:, None],) * 2 + (LENGTHS[:, None],) * 2, "one shape"),
        ((LOGPS[0], LOGPS[0], LENGTHS[0], LENGTHS[0]), "one shape"),
        ((LOGPS.bfloat16(), LOGPS, LENGTHS, LENGTHS), "chosen log-probs are torch.bfloat16"),
        ((LOGPS, LOGPS.half(), LENGTHS, LENGTHS), "rejected log-probs are torch.float16"),
        ((LOGPS, LOGPS, torch.tensor([4, 0]), LENGTHS), "chosen has a response of length 0"),
        ((LOGPS, LOGPS, LENGTHS, torch.tensor([0, 4])), "rejected has a response of length 0"),
    ],
)
def test_wrong_shapes_precisions_and_lengths_raise(pair, message):
    with pytest.raises(ValueError, match=message):
        PairLogps(*pair)


def test_float64_is_taken_as_it_is():
    assert PairLogps(LOGPS.double(), LOGPS.double(), LENGTHS, LENGTHS).chosen_mean.dtype == torch.float64
