"""The language-model head where a response token is predicted, and nowhere else, in chunks: logits are never held.

The backward pass computes each chunk's logits again, so peak memory depends neither on the vocabulary nor on the
number of tokens. The arithmetic is that of log-softmax over the model's own logits, soft-capped and scaled as it does.
"""

from __future__ import annotations

import functools
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from selfsteer.errors import SelfsteerWarning
from selfsteer.logprobs import liger
from selfsteer.logprobs.packing import Layout
from selfsteer.logprobs.row_attention import attends_rows, unwrapped

CHUNK_LOGITS = {"cpu": 1 << 25, "cuda": 1 << 27}
"""Logits held at once, by device: the product of a chunk's tokens and the vocabulary. It bounds memory, not results."""
_PROBE_TOKENS = 2
_PRODUCT_ROWS = 1 << 13
_known: weakref.WeakKeyDictionary[Any, LogitTransform | None] = weakref.WeakKeyDictionary()


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.held: dict[torch.dtype, Tensor] = {}


_buffers = _Buffers()


@dataclass(frozen=True)
class LogitTransform:
    """A model's logits from its head's output: ``softcap * tanh(scale * raw / softcap)``; no cap: ``scale * raw``."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def from_config(cls, config: Any) -> LogitTransform:
        """Return that of a model's text configuration (Gemma's soft cap, Cohere's and Granite's scales)."""
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return cls(scale, getattr(config, "final_logit_softcapping", None))

    def apply(self, raw: Tensor) -> Tensor:
        """Return the logits of the head's output."""
        raw = raw if self.scale == 1 else raw * self.scale
        return raw if self.softcap is None else self.softcap * torch.tanh(raw / self.softcap)

    def pull_back(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Return the gradient of the head's output from that of the logits; overwrites both."""
        if self.softcap is not None:
            gradient = gradient.mul_(logits.div_(self.softcap).square_().neg_().add_(1))
        return gradient if self.scale == 1 else gradient.mul_(self.scale)


@contextmanager
def head_in_chunks(model: Any, *, wide: bool = False) -> Iterator[bool]:
    """Let ``model(..., selfsteer_targets=(N,), logits_to_keep=(N,))`` return ``{"logps": (N,)}`` inside the context.

    Yields False, and changes nothing, where the model's logits aren't what its head and configuration say. The call
    goes through the model's own wrappers and through its head as a module, so sharded weights are gathered as usual.
    With ``wide`` a head in half precision is computed in float32.
    """
    inner = unwrapped(model)
    transform = _transform_of(inner)
    if transform is None:
        yield False
        return
    with _forward_replaced(inner, functools.partial(_forward, inner, transform, wide)):
        yield True


@contextmanager
def _forward_replaced(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    had = module.__dict__.get("forward")  # accelerate leaves a forward of its own on the instance
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if had is not None:
            module.forward = had


def _forward(
    inner: Any,
    transform: LogitTransform,
    wide: bool,
    *,
    selfsteer_targets: Tensor,
    logits_to_keep: Tensor,
    **inputs: Any,
) -> dict[str, Tensor]:
    hidden = inner.get_decoder()(**inputs).last_hidden_state[0].index_select(0, logits_to_keep)
    head = inner.get_output_embeddings()
    with _forward_replaced(head, functools.partial(token_logps, head, transform, original=head.forward, wide=wide)):
        return {"logps": head(hidden, selfsteer_targets)}


def token_logps(
    head: Any, transform: LogitTransform, hidden: Tensor, targets: Tensor, *, original: Any, wide: bool = False
) -> Tensor:
    """Return (N,) log-probs in nats, float32 or better, of the tokens ``targets`` (N,) given ``hidden`` (N, H).

    A plain linear ``head`` is computed here, in float32 where ``wide``; of any other (quantised, with an adapter) the
    ``original`` forward is called. ``transform`` is what the model does to its head's output.
    """
    vocabulary = int(getattr(head, "out_features", 0) or head.weight.shape[0])
    size = max(1, CHUNK_LOGITS.get(hidden.device.type, CHUNK_LOGITS["cuda"]) // max(1, vocabulary))
    # Not its type: FSDP2 makes a sharded layer's class one of its own.
    if isinstance(head, torch.nn.Linear) and type(head).forward is torch.nn.Linear.forward:
        logps: Tensor = _LinearLogps.apply(hidden, head.weight, head.bias, targets, (transform, size, wide))
        return logps

    def called(part: Tensor, wanted: Tensor) -> Tensor:
        return gather_logps(transform.apply(original(part)), wanted)

    parts = zip(hidden.split(size), targets.split(size), strict=True)
    return torch.cat([checkpoint(called, part, wanted, use_reentrant=False) for part, wanted in parts])


class _LinearLogps(torch.autograd.Function):
    """log-softmax(transform(hidden @ weight.T + bias))[targets], recomputed chunk by chunk in backward.

    The backward pass is written by hand: autograd would hold each chunk's logits, their softmax and a weight gradient.
    ``settings`` are the transform, the tokens of a chunk, and whether a head in half precision is computed in float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        settings: tuple[LogitTransform, int, bool],
    ) -> Tensor:
        transform, size, wide = settings
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        dtype = torch.promote_types(dtype, torch.float32) if wide else dtype
        ctx.transform, ctx.size = transform, size
        h, w, b = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        logps = torch.cat([_logps(raw, targets[own], transform) for own, raw in _chunks(h, w, b, size)])
        ctx.save_for_backward(hidden, weight, bias, targets, logps, h, w, b)
        return logps

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, logps, h, w, b = ctx.saved_tensors
        wanted = zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        grad_hidden, grad_weight, grad_bias = (torch.zeros_like(t) if needed else None for t, needed in wanted)
        for own, raw in _chunks(h, w, b, ctx.size):
            gradient = _gradient(raw, logps[own], targets[own], upstreams[0][own], ctx.transform)
            if grad_bias is not None:
                grad_bias += gradient.sum(dim=0)
            gradient = _buffer(h.dtype, len(gradient), len(w), h.device).copy_(gradient)
            if grad_hidden is not None:
                grad_hidden[own] = gradient @ w
            if grad_weight is not None:
                _add_product(grad_weight, gradient, h[own])
        return grad_hidden, grad_weight, grad_bias, None, None


def _chunks(hidden: Tensor, weight: Tensor, bias: Tensor | None, size: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield each chunk's place and the head's (C, K) output, float32 or better, in memory that the next overwrites."""
    for start in range(0, len(hidden), size):
        own = slice(start, start + size)
        part = hidden[own]
        raw = torch.mm(part, weight.T, out=_buffer(hidden.dtype, len(part), len(weight), hidden.device))
        if bias is not None:
            raw += bias
        wide = torch.promote_types(raw.dtype, torch.float32)
        yield own, raw if raw.dtype == wide else _buffer(wide, len(part), len(weight), raw.device).copy_(raw)


def _buffer(dtype: torch.dtype, rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows, columns) of memory, not initialised, that the thread's next call with the same dtype overwrites.

    CUDA's allocator keeps what is freed; the CPU's gives so large a block back to the system, and touching new memory
    costs more than the arithmetic on it.
    """
    if device.type != "cpu":
        return torch.empty(rows, columns, dtype=dtype, device=device)
    held = _buffers.held
    if dtype not in held or held[dtype].numel() < rows * columns:
        with torch.inference_mode(False):  # or training could not write to what scoring allocated
            held[dtype] = torch.empty(rows * columns, dtype=dtype)
    return held[dtype][: rows * columns].view(rows, columns)


def gather_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the (C,) log-softmax of (C, K) logits at the targets in float32 or better."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(dim=1)


def _logps(raw: Tensor, targets: Tensor, transform: LogitTransform) -> Tensor:
    """(C,) log-probs of the targets given the head's (C, K) output, which is overwritten."""
    if liger.usable(raw):
        return liger.logps(raw.mul_(transform.scale), targets, softcap=transform.softcap)
    logits = transform.apply(raw)
    picked, highest = logits.gather(1, targets[:, None])[:, 0], logits.amax(dim=1)
    return picked - highest - logits.sub_(highest[:, None]).exp_().sum(dim=1).log_()


def _gradient(raw: Tensor, logps: Tensor, targets: Tensor, upstream: Tensor, transform: LogitTransform) -> Tensor:
    """(C, K) gradient of sum(upstream * log-prob) with respect to the head's output, which is overwritten.

    ``logps`` (C,) are the targets' log-probs, ``upstream`` (C,) is the gradient with respect to them.
    """
    if liger.usable(raw):
        return liger.gradient(raw, targets, upstream, softcap=transform.softcap, scale=transform.scale)
    logits = transform.apply(raw)
    capped = logits if transform.softcap is None else logits.clone()
    chosen = (torch.arange(len(targets), device=targets.device), targets)
    gradient = logits.sub_((logits[chosen] - logps)[:, None]).exp_()
    gradient[chosen] -= 1
    return transform.pull_back(gradient.mul_(-upstream[:, None]), capped)


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Total (K, H) += gradient.T @ hidden, summed in the weight's own precision over the chunks."""
    if total.dtype == gradient.dtype:
        total.addmm_(gradient.T, hidden)
        return
    # Part by part, or the product and its cast would each be as large as the weight.
    for part, columns in zip(total.split(_PRODUCT_ROWS), gradient.split(_PRODUCT_ROWS, dim=1), strict=True):
        part += columns.T @ hidden


def _transform_of(inner: Any) -> LogitTransform | None:
    """Return the transform of the head's output; None, with one warning, where the configuration does not give it."""
    if inner not in _known:
        found = LogitTransform.from_config(inner.config.get_text_config())
        _known[inner] = found if _holds(inner, found) else None
        if _known[inner] is None:
            warnings.warn(
                f"{type(inner).__name__} changes its logits in a way that its configuration does not say, so they are "
                "computed at once (more memory, same numbers)",
                SelfsteerWarning,
                stacklevel=2,
            )
    return _known[inner]


@torch.no_grad()
def _holds(inner: Any, transform: LogitTransform) -> bool:
    """Run a few tokens and check that the logits are ``transform`` of the head's output on the decoder's output."""
    decoder = inner.get_decoder() if hasattr(inner, "get_decoder") else None
    head = inner.get_output_embeddings()
    if decoder is None or decoder is inner or head is None:
        return False
    seen: dict[str, Any] = {}
    hooks = [
        decoder.register_forward_hook(lambda _module, _inputs, output: seen.update(decoded=output)),
        head.register_forward_hook(lambda _module, inputs, output: seen.update(hidden=inputs[0], raw=output.clone())),
    ]
    device = next(inner.parameters()).device
    try:
        ids = torch.arange(_PROBE_TOKENS, device=device)[None]
        layout = {"selfsteer_layout": Layout((_PROBE_TOKENS,), ((),))} if attends_rows(inner) else {}
        # Dropout draws here in training: whether this model was tried before must not change what training draws.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            logits = inner(input_ids=ids, use_cache=False, **layout).logits
    finally:
        for hook in hooks:
            hook.remove()
    decoded = getattr(seen.get("decoded"), "last_hidden_state", None)
    if decoded is None or "raw" not in seen or decoded.shape != seen["hidden"].shape:
        return False
    expected = transform.apply(seen["raw"]).double()
    # Rounding alone: an unknown soft cap changes small logits by little, and large ones by a lot.
    rounding = 8 * torch.finfo(seen["raw"].dtype).eps
    return torch.equal(decoded, seen["hidden"]) and torch.allclose(expected, logits.double(), rounding, rounding)
