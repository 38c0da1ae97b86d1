"""Attention over prompt-sharing rows: linear layers run packed, attention runs segment by segment.

One dense masked attention over the packed sequence would compute the masked blocks too and throw them away.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from selfsteer.errors import ModelError, SelfsteerWarning
from selfsteer.logprobs.cpu_attention import attend_segments, joins_segments
from selfsteer.logprobs.packing import Layout
from selfsteer.logprobs.probe import why_unlike
from selfsteer.models.rope import length_bound_ropes

_NAME = "selfsteer_rows"
_EXACT_LAYERS = {"full_attention", "sliding_attention"}
_warned: set[str] = set()


def row_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    *,
    selfsteer_layout: Layout,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within each prompt, and from each response to its prompt and itself.

    Args:
        query: (1, H, T, D). key, value: (1, H', T, D) with H a multiple of H'.
        attention_mask: None: the layout says what attends to what.
        others: Everything else that the model passes; positions and switches don't matter here (:func:`why_unlike`).

    Returns:
        (1, T, H, D), and None for the attention weights, which are never formed as a whole.
    """
    if fused := _fused(query, key, value, scaling=scaling, softcap=softcap, dropout=dropout):
        options: dict[str, Any] = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap}
        return fused(query, key, value, selfsteer_layout, **options), None
    if joins_segments(query, selfsteer_layout, sliding_window=sliding_window, softcap=softcap, dropout=dropout):
        return attend_segments(query, key, value, selfsteer_layout, scaling), None
    settings = (scaling, dropout, sliding_window, softcap)
    return _attend_segments(query, key, value, selfsteer_layout, *settings).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, row_attention)


def _fused(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Callable[..., Tensor] | None:
    """Return FlexAttention over rows (experimental) where it computes this attention, else None."""
    if not query.is_cuda:
        return None
    # Imported where it is chosen: nothing else depends on experimental code.
    from selfsteer.experimental import flex_attention

    return flex_attention.flex_rows if flex_attention.supports(query, key, value, **settings) else None


@contextmanager
def row_attention_on(model: Any) -> Iterator[None]:
    """Let ``model`` attend over rows inside the context. Nesting is fine.

    With gradient checkpointing the backward pass runs attention again, so the context has to last until then.
    """
    inner = unwrapped(model)
    before = inner.config._attn_implementation
    if before == _NAME:
        yield
        return
    inner.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def attends_rows(model: Any) -> bool:
    """Return whether :func:`row_attention_on` is active."""
    return bool(unwrapped(model).config._attn_implementation == _NAME)


def recomputes(model: Any) -> bool:
    """Return whether gradient checkpointing will run parts of the forward pass again in the backward pass."""
    return model.training and any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def shares_prompts(model: Any) -> bool:
    """Return whether the architecture computes packed rows exactly; one warning a kind of model where it doesn't.

    Raises :class:`ModelError` where an adapter puts virtual tokens before the prompt.
    """
    _check_no_virtual_tokens(model)
    inner = unwrapped(model)
    reason, kind = _why_not(inner), type(inner).__name__
    if reason and kind not in _warned:
        _warned.add(kind)
        warnings.warn(
            f"{kind} {reason}, so prompts are not shared: each response is scored in a sequence of its own (slower, "
            "same numbers)",
            SelfsteerWarning,
            stacklevel=2,
        )
    return not reason


def unwrapped(model: Any) -> Any:
    """Return the transformers model under PEFT's and the distributed wrappers."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _check_no_virtual_tokens(model: Any) -> None:
    while hasattr(model, "module"):
        model = model.module
    for config in (getattr(model, "peft_config", None) or {}).values():
        if getattr(config, "is_prompt_learning", False):
            raise ModelError(
                f"an adapter of the kind {config.peft_type.value} puts virtual tokens before the prompt, which shifts "
                "every position",
                where="peft_config",
                do="use an adapter that changes weights, such as LoRA",
            )


def _why_not(model: Any) -> str:
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        return "has its own attention code"
    layers = set(getattr(config, "layer_types", None) or []) - _EXACT_LAYERS
    if layers:
        return f"has layers of the kind {', '.join(sorted(layers))}"
    if ropes := length_bound_ropes(config):
        return f"has position embeddings of the kind {', '.join(sorted(ropes))}"
    return why_unlike(model)


def _attend_segments(query: Tensor, key: Tensor, value: Tensor, layout: Layout, *settings: Any) -> Tensor:
    """(1, H, T, D): each prompt attends to itself, each response to its prompt and itself."""
    dtype = query.dtype
    if query.device.type == "cpu":  # torch's CPU kernel takes longer backward in half precision than in float32
        query, key, value = (t.to(torch.promote_types(dtype, torch.float32)) for t in (query, key, value))
    # One split and one concatenation: slicing each segment out would give every slice a full-size gradient.
    parts = zip(*(t.split(layout.sizes, dim=2) for t in (query, key, value)), strict=True)
    outputs = []
    for lengths in layout.responses:
        q, prompt_key, prompt_value = next(parts)
        outputs.append(_attend(q, prompt_key, prompt_value, *settings))
        for _length in lengths:
            q, k, v = next(parts)
            k, v = torch.cat([prompt_key, k], dim=2), torch.cat([prompt_value, v], dim=2)
            outputs.append(_attend(q, k, v, *settings))
    return torch.cat(outputs, dim=2).to(dtype)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    dropout: float,
    sliding_window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal attention of the last Q of S positions: query (1, H, Q, D), key and value (1, H', S, D)."""
    if softcap is None:
        square = query.shape[2] == key.shape[2] and (sliding_window is None or key.shape[2] <= sliding_window)
        mask = None if square else _mask(query, key, sliding_window)
        # enable_gqa: each key head serves several query heads; copies would be held for the backward pass.
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=square, enable_gqa=True
        )
    # No fused kernel on a CPU computes soft-capped scores (Gemma 2), so they are formed explicitly.
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.tanh(query @ key.transpose(2, 3) * scale / softcap) * softcap
    scores = scores.masked_fill(~_mask(query, key, sliding_window), float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return torch.nn.functional.dropout(weights, p=dropout) @ value


def _mask(query: Tensor, key: Tensor, sliding_window: int | None) -> Tensor:
    """(Q, S), True where a query may look: at itself and before, within the window (measured in positions)."""
    offset = key.shape[2] - query.shape[2]
    rows = torch.arange(query.shape[2], device=query.device)[:, None] + offset
    columns = torch.arange(key.shape[2], device=query.device)[None, :]
    allowed = columns <= rows
    return allowed if sliding_window is None else allowed & (columns > rows - sliding_window)
