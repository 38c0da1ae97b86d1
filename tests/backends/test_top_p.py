"""The nucleus is the one of transformers' own warpers, and draws follow its probabilities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from selfsteer.backends import top_p as nucleus
from selfsteer.backends.top_p import NucleusSampler


def reference(scores: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Probabilities (B, K) as transformers draws from them."""
    warped = TemperatureLogitsWarper(temperature)(None, scores.float())
    return TopPLogitsWarper(top_p)(None, warped).softmax(-1)


def probabilities(scores: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    tokens, weights = NucleusSampler(temperature, top_p).nucleus(scores)
    return torch.zeros(scores.shape).scatter(-1, tokens, weights / weights.sum(-1, keepdim=True))


@given(
    seed=st.integers(0, 10_000),
    width=st.sampled_from([3, 127, 128, 129, 3000]),
    spread=st.sampled_from([0.01, 1.0, 4.0, 12.0]),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.8, 0.999]),
)
@settings(max_examples=60, deadline=None)
def test_it_is_the_nucleus_of_transformers(seed, width, spread, temperature, top_p):
    scores = spread * torch.randn(4, width, generator=torch.Generator().manual_seed(seed))
    reached = (scores.double() / temperature).softmax(-1).sort(-1, descending=True).values.cumsum(-1)
    assume((reached - top_p).abs().min() > 1e-6)  # closer, float32 decides: transformers adds from the other end
    expected = reference(scores, temperature, top_p)
    torch.testing.assert_close(probabilities(scores, temperature, top_p), expected, atol=1e-5, rtol=1e-4)


def test_by_hand():
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    found = probabilities(scores, 1.0, 0.8)
    torch.testing.assert_close(found, torch.tensor([[0.625, 0.375, 0.0, 0.0]]), msg="0.5 + 0.3 reach 0.8")
    torch.testing.assert_close(probabilities(scores, 1.0, 0.4), torch.tensor([[1.0, 0.0, 0.0, 0.0]]))


def test_a_flat_distribution_is_looked_at_whole(monkeypatch):
    monkeypatch.setattr(nucleus, "_FIRST", 2)
    found = probabilities(torch.zeros(1, 100), 1.0, 0.995)
    assert (found > 0).sum() == 100


def test_draws_follow_the_probabilities():
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(20_000, 4)
    torch.manual_seed(0)
    drawn = NucleusSampler(1.0, 0.8)(None, scores).argmax(-1)
    shares = torch.bincount(drawn, minlength=4) / len(scores)
    assert shares.tolist() == pytest.approx([0.625, 0.375, 0.0, 0.0], abs=0.01)


def test_only_the_drawn_token_is_left_possible():
    scores = NucleusSampler(0.7, 0.8)(None, torch.randn(5, 300).bfloat16())
    assert torch.isfinite(scores).sum(-1).tolist() == [1] * 5 and scores.dtype == torch.bfloat16
