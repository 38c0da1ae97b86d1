"""Attention over prompt-sharing rows on a CPU, with one node in the backward graph and nothing copied for it.

The responses of a prompt attend to it together, in one call without a mask, and each to itself in a causal one; the
two parts are joined by their log-normalisers. The same log-normalisers make the kernel's own backward pass exact for
each part on its own. Joining keys and values before the call, as PyTorch's public function needs it, would hold a copy
of the prompt for every response.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from selfsteer.logprobs.packing import Layout

# PyTorch's own operators, not part of its public interface: where one is missing, row_attention.py works without them.
_FORWARD: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_BACKWARD: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


class _Part(NamedTuple):
    """Which queries attend to which keys (as positions in the packed tokens), and whether causally."""

    queries: slice
    keys: slice
    causal: bool


def joins_segments(
    query: Tensor, layout: Layout, *, sliding_window: int | None, softcap: float | None, dropout: float
) -> bool:
    """Return whether :func:`attend_segments` computes this attention: plain, on a CPU, no window in the way."""
    if query.device.type != "cpu" or _FORWARD is None or _BACKWARD is None or softcap is not None or dropout:
        return False
    return sliding_window is None or layout.longest <= sliding_window


def attend_segments(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None) -> Tensor:
    """(1, T, H, D): each prompt attends to itself, each response to its prompt and itself.

    ``query`` is (1, H, T, D), ``key`` and ``value`` are (1, H', T, D) with H a multiple of H'.
    """
    return _Segments.apply(query, key, value, layout, scaling)


class _Segments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None) -> Tensor:
        q, k, v = _widened(query, key, value)
        out = q.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)
        normalisers = q.new_empty(q.shape[:3])
        for own, shared in _parts(layout):
            for part in own:
                out[:, :, part.queries], normalisers[:, :, part.queries] = _attend(q, k, v, part, scaling)
            if shared:
                _join(out, normalisers, shared, *_attend(q, k, v, shared, scaling))
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, normalisers)
        ctx.layout, ctx.scaling = layout, scaling
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, normalisers = ctx.saved_tensors
        q, k, v, out, gradient = _widened(query, key, value, out, gradients[0].transpose(1, 2))
        into = tuple(torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))
        for own, shared in _parts(ctx.layout):
            for part in (*own, *([shared] if shared else [])):
                found = _BACKWARD(
                    gradient[:, :, part.queries],
                    q[:, :, part.queries],
                    k[:, :, part.keys],
                    v[:, :, part.keys],
                    out[:, :, part.queries],
                    normalisers[:, :, part.queries],
                    0.0,
                    part.causal,
                    scale=ctx.scaling,
                )
                for total, place, share in zip(into, (part.queries, part.keys, part.keys), found, strict=True):
                    total[:, :, place] += share
        return *(total.to(query.dtype) for total in into), None, None


def _parts(layout: Layout) -> Iterator[tuple[list[_Part], _Part | None]]:
    """Row by row: what attends to itself, and all responses to their prompt."""
    start = 0
    for prompt, lengths in zip(layout.prompts, layout.responses, strict=True):
        place = slice(start, start + prompt)
        own, start = [_Part(place, place, True)], place.stop
        for length in filter(None, lengths):
            response = slice(start, start + length)
            own.append(_Part(response, response, True))
            start = response.stop
        yield own, _Part(slice(place.stop, start), place, False) if start > place.stop else None


def _widened(*tensors: Tensor) -> list[Tensor]:
    """At least float32, whose backward kernel is faster than the one in half precision."""
    return [t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]


def _attend(query: Tensor, key: Tensor, value: Tensor, part: _Part, scaling: float | None) -> tuple[Tensor, Tensor]:
    """(1, H, Q, D) and the log-normalisers (1, H, Q)."""
    found = _FORWARD(
        query[:, :, part.queries], key[:, :, part.keys], value[:, :, part.keys], 0.0, part.causal, scale=scaling
    )
    return found[0], found[1]


def _join(out: Tensor, normalisers: Tensor, part: _Part, attended: Tensor, normaliser: Tensor) -> None:
    """Add what the queries see beyond themselves: a softmax over two sets of keys is a mean of the two softmaxes."""
    place, before = out[:, :, part.queries], normalisers[:, :, part.queries]  # views: lerp_ writes through
    place.lerp_(attended, torch.sigmoid(normaliser - before).to(out.dtype)[..., None])
    normalisers[:, :, part.queries] = torch.logaddexp(before, normaliser)
