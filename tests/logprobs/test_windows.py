"""Rows, or separate sequences, give what a model's own forward gives, whatever keeps its layers from seeing all."""

from __future__ import annotations

import warnings

import pytest
import torch

from selfsteer.errors import SelfsteerWarning
from selfsteer.logprobs import PromptRow, score_responses, shares_prompts
from tests.logprobs.tiny import separate, tiny_model

_EXPERTS = {
    "num_local_experts": 2,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}
_WINDOW = 5
_IN_SOME_LAYERS = {"use_sliding_window": True, "max_window_layers": 1}
ROWS = [
    PromptRow([5, 6, 7, 8, 9, 10, 11], [[12, 13, 14, 15, 16, 17, 2], [20]]),
    PromptRow([30], [[31, 32, 33, 34, 35, 36, 37, 38, 39, 40]]),
]

SHARED = {
    "qwen2": _IN_SOME_LAYERS,
    "qwen3": _IN_SOME_LAYERS,
    "qwen3_moe": {**_EXPERTS, "use_sliding_window": True},
    "mistral": {},
    "mixtral": _EXPERTS,
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3_text": {"query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    "phi3": {},
    "olmo2": {},
    "olmo3": {},
    "cohere2": {},
    "smollm3": {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "starcoder2": {},
    "exaone4": {"layer_types": ["sliding_attention", "full_attention"] * 2},
}
APART = {
    "qwen2_moe": ({**_EXPERTS, **_IN_SOME_LAYERS}, "keeps its sliding window from its attention"),
    "phimoe": (_EXPERTS, "keeps its sliding window from its attention"),
    "gpt_oss": (_EXPERTS, "attends by s_aux"),
    "doge": ({}, "keeps its sliding window from its attention"),
    "nemotron": ({}, "does not pass the layout on"),
    "llama4_text": ({**_EXPERTS, "attention_chunk_size": 5, "intermediate_size_mlp": 48}, "layers of the kind chunked"),
    "roberta": ({"is_decoder": True}, "counts positions in a way of its own"),
    "bert": ({}, "masks its attention in a way of its own"),
    "recurrent_gemma": ({}, "layers of the kind linear_attention"),  # with a soft cap that no one else calls so
}


def model_of(name, overrides):
    return tiny_model(name, torch.float32, **({"num_hidden_layers": 4, "sliding_window": _WINDOW} | overrides))


def check(model, rows=ROWS):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", SelfsteerWarning)  # some have logits of their own, too
        found, expected = torch.cat(score_responses(model, rows)), torch.cat(separate(model, rows))
    assert found.double() == pytest.approx(expected, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("name", SHARED)
def test_sliding_windows_shorter_than_a_sequence_act_in_rows(name):
    model = model_of(name, SHARED[name])
    assert shares_prompts(model)
    check(model)


@pytest.mark.parametrize("name", APART)
def test_what_rows_do_not_compute_falls_back_to_separate_sequences(name, monkeypatch):
    """Each of these looks like a model that shares prompts, and would give other numbers (or an error) if it did."""
    monkeypatch.setattr("selfsteer.logprobs.row_attention._warned", set())
    model = model_of(name, APART[name][0])
    with pytest.warns(SelfsteerWarning, match=f"{APART[name][1]}.*not shared"):
        assert not shares_prompts(model)
    check(model)


@pytest.mark.parametrize("name", ["qwen2_moe", "phimoe"])
def test_such_an_architecture_shares_prompts_where_it_has_no_window(name):
    model = tiny_model(name, torch.float32, **_EXPERTS, sliding_window=None)
    assert shares_prompts(model)
    check(model)


def test_the_model_is_asked_once_and_left_as_it_was():
    model = tiny_model("llama").train()
    before, calls = model.config._attn_implementation, []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    state = torch.get_rng_state()
    assert shares_prompts(model)
    asked = len(calls)
    assert shares_prompts(model)
    assert len(calls) == asked
    assert model.config._attn_implementation == before
    assert torch.equal(torch.get_rng_state(), state)


LENGTH_BOUND = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    "longrope": {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 8,
        "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", LENGTH_BOUND)
def test_position_embeddings_that_depend_on_the_length_see_the_whole_sequence_and_no_other_one(kind, monkeypatch):
    """The context ends at 8 tokens; scored after a sequence of 17, one of 9 is embedded as by a fresh model."""
    monkeypatch.setattr("selfsteer.logprobs.row_attention._warned", set())
    overrides = {"max_position_embeddings": 8, "rope_parameters": LENGTH_BOUND[kind]}
    rows = [PromptRow([5, 6, 7], [list(range(8, 22))]), PromptRow([5, 6, 7], [[8, 9, 10, 11, 12, 13]])]
    model = tiny_model("llama", **overrides)
    with pytest.warns(SelfsteerWarning, match=kind), torch.no_grad():
        found = score_responses(model, rows)
    for row, scores in zip(rows, found, strict=True):
        with torch.no_grad():
            assert scores == pytest.approx(separate(tiny_model("llama", **overrides), [row])[0], rel=1e-6)
