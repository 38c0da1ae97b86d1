"""The one-node attention of a CPU equals dense attention under the layout's mask, forward and backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsteer.logprobs import cpu_attention as segments
from selfsteer.logprobs import row_attention as attention
from selfsteer.logprobs.packing import Layout
from selfsteer.logprobs.row_attention import row_attention
from tests.logprobs.layouts import by_definition, layouts

LAYOUT = Layout((7, 1, 5), ((3, 0, 4), (2,), (0, 0)))


def tensors(layout, dtype, heads=4, key_heads=2):
    torch.manual_seed(0)
    length = sum(layout.sizes)
    return [torch.randn(1, n, length, 8, dtype=dtype, requires_grad=True) for n in (heads, key_heads, key_heads)]


def dense(layout, query, key, value, scaling):
    """(1, T, H, D) by the whole matrix of scores."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = scores.masked_fill(~by_definition(layout, None), float("-inf")).softmax(dim=-1)
    return (weights @ value).transpose(1, 2)


def largest_error(found, wanted):
    """Relative to the largest value, or to 0.01: a query that sees one key alone has gradients of exactly nothing."""
    return float((found.detach() - wanted.detach()).abs().max() / wanted.detach().abs().max().clamp(min=0.01))


def compared(layout, given_tensors, scaling=None):
    """Largest relative error of the output and of each gradient."""
    results = []
    for attend in (segments.attend_segments, lambda q, k, v, own, scale: dense(own, q, k, v, scale)):
        out = attend(*given_tensors, layout, scaling)
        pull = torch.sin(torch.arange(out.numel(), dtype=out.dtype)).view(out.shape)
        results.append((out, *torch.autograd.grad(out, given_tensors, pull)))
    return max(largest_error(found, wanted) for found, wanted in zip(*results, strict=True))


@settings(max_examples=40, deadline=None)
@given(layouts, st.sampled_from([(4, 4), (4, 2), (3, 1)]), st.none() | st.just(0.7))
def test_output_and_gradients_are_those_of_dense_attention(layout, heads, scaling):
    assert compared(layout, tensors(layout, torch.float64, *heads), scaling) < 1e-12


def test_half_precision_is_computed_wider_and_given_back_in_half():
    found = segments.attend_segments(*tensors(LAYOUT, torch.bfloat16), LAYOUT, None)
    wide = segments.attend_segments(*(t.detach().float() for t in tensors(LAYOUT, torch.bfloat16)), LAYOUT, None)
    assert found.dtype == torch.bfloat16 and torch.equal(found, wide.to(torch.bfloat16))
    assert all(g.dtype == torch.bfloat16 for g in torch.autograd.grad(found.sum(), _leaves(found)))


def _leaves(out):
    """The query, key and value that an output was made of."""
    return [node.variable for node, _ in out.grad_fn.next_functions if node is not None]


def test_nothing_is_held_but_inputs_output_and_normalisers():
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: held.append(tensor) or tensor, lambda t: t):
        query, key, value = tensors(LAYOUT, torch.float32)
        segments.attend_segments(query, key, value, LAYOUT, None)
    assert sum(t.numel() for t in held) == 2 * query.numel() + 2 * key.numel() + query.numel() // 8


@pytest.mark.parametrize(
    ("settings_of_one", "joined"),
    [
        ({}, True),
        ({"sliding_window": 11}, True),  # the longest row: a prompt of 7 and a response of 4
        ({"sliding_window": 10}, False),
        ({"softcap": 2.0}, False),
        ({"dropout": 0.1}, False),
    ],
)
def test_it_serves_where_nothing_else_is_asked_for(settings_of_one, joined, monkeypatch):
    calls = []
    monkeypatch.setattr(attention, "attend_segments", lambda *given_values: calls.append(1) or given_values[0])
    row_attention(torch.nn.Module(), *tensors(LAYOUT, torch.float32), None, selfsteer_layout=LAYOUT, **settings_of_one)
    assert bool(calls) == joined


def test_without_the_operators_the_public_function_gives_the_same(monkeypatch):
    given_tensors = tensors(LAYOUT, torch.float64)
    wanted, _ = row_attention(torch.nn.Module(), *given_tensors, None, selfsteer_layout=LAYOUT)
    monkeypatch.setattr(segments, "_BACKWARD", None)
    found, _ = row_attention(torch.nn.Module(), *given_tensors, None, selfsteer_layout=LAYOUT)
    assert type(found.grad_fn) is not type(wanted.grad_fn) and largest_error(found, wanted) < 1e-12
