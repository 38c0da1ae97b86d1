"""Prompt-sharing rows give the log-probs and gradients of separate unpadded sequences."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from selfsteer.errors import SelfsteerWarning
from selfsteer.logprobs import PromptRow, row_attention_on, score_responses, shares_prompts
from selfsteer.logprobs.packing import pack
from tests.logprobs.tiny import ARCHITECTURES, separate, tiny_model

tokens = st.integers(3, 60)
rows_strategy = st.lists(
    st.builds(
        PromptRow,
        st.lists(tokens, min_size=1, max_size=12),
        st.lists(st.lists(tokens, min_size=1, max_size=9), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=3,
)
ROWS = [
    PromptRow([5, 6, 7, 8, 9, 10, 11], [[12, 13, 14, 15, 16, 17, 2], [20], [12, 13, 14, 15, 16, 17, 2]]),
    PromptRow([30], [[31, 32, 33, 34, 35, 36, 37, 38, 39, 40]]),
    PromptRow([41, 42, 43], [[2], [44, 45]]),
]


def gradients(model, scores):
    weights = torch.linspace(0.5, 1.5, sum(map(len, scores)), dtype=scores[0].dtype)
    model.zero_grad()
    (torch.cat(scores) * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(one, other, tolerance):
    """Error over the tensor's largest magnitude."""
    return (one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_float64_log_probs_and_gradients_equal_those_of_separate_sequences(name, all_float64):
    check_equal(tiny_model(name, torch.float64), 1e-9)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_float32_log_probs_and_gradients_equal_those_of_separate_sequences(name):
    check_equal(tiny_model(name, torch.float32), 1e-5)


def check_equal(model, tolerance):
    assert shares_prompts(model)
    expected, found = separate(model, ROWS), score_responses(model, ROWS)
    assert close(torch.cat(found).double(), torch.cat(expected).double(), tolerance)
    wanted, got = gradients(model, expected), gradients(model, found)
    assert wanted.keys() == got.keys()
    for key, value in wanted.items():
        assert close(got[key], value, tolerance), key


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_random_shapes(name, all_float64):
    model = tiny_model(name)

    @settings(max_examples=15, deadline=None)
    @given(rows_strategy, st.integers(1, 60))
    def check(rows, budget):
        with torch.no_grad():
            expected, found = separate(model, rows), score_responses(model, rows, token_budget=budget)
        for one, other in zip(found, expected, strict=True):
            assert close(one, other, 1e-9)

    check()


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_gradient_checkpointing_recomputes_the_same(name, all_float64):
    model = tiny_model(name)
    wanted = gradients(model, score_responses(model, ROWS))
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(RuntimeError, match="row_attention_on"):
        score_responses(model, ROWS)
    with row_attention_on(model):
        got = gradients(model, score_responses(model, ROWS))
    for key, value in wanted.items():
        assert close(got[key], value, 1e-9), key


def test_the_attention_of_the_model_is_given_back():
    model = tiny_model("llama")
    before = model.config._attn_implementation
    score_responses(model, ROWS)
    assert model.config._attn_implementation == before


def test_each_prompt_token_is_computed_once():
    packed = pack([PromptRow([5, 6, 7], [[8, 9, 2], [10]]), PromptRow([11], [[12, 2]])])
    # The last token of a response predicts nothing that is asked for, so it is not computed.
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 9, 11, 12]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1]]
    assert packed.predictors.tolist() == [2, 3, 4, 2, 5, 6]
    assert packed.targets.tolist() == [8, 9, 2, 10, 12, 2]
    assert packed.layout.sizes == [3, 2, 0, 1, 1]


@pytest.mark.parametrize("rows", [[PromptRow([5], [[]])], [PromptRow([], [[5]])]])
def test_an_empty_prompt_or_response_raises(rows):
    with pytest.raises(ValueError, match="empty"):
        score_responses(tiny_model("llama"), rows)


def test_a_recurrent_architecture_falls_back_to_separate_sequences_with_one_warning():
    config = AutoConfig.for_model(
        "mamba", vocab_size=61, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0, eos_token_id=2
    )
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        with pytest.warns(SelfsteerWarning, match="Mamba"):
            found = score_responses(model, ROWS)
        with warnings.catch_warnings():
            warnings.simplefilter("error", SelfsteerWarning)
            score_responses(model, ROWS[:1])
        for one, other in zip(found, separate(model, ROWS), strict=True):
            assert close(one, other, 1e-6)  # Mamba computes in float32 inside


@pytest.mark.parametrize("name", ["jetmoe", "afmoe"])
def test_the_output_is_laid_out_as_models_expect_that_view_it(name):
    overrides = {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    model = tiny_model(name, torch.float32, **overrides)
    with torch.no_grad():
        assert close(torch.cat(score_responses(model, ROWS)).double(), torch.cat(separate(model, ROWS)), 1e-5)
