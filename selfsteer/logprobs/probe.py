"""Whether a model attends as :func:`selfsteer.logprobs.row_attention.row_attention` does, found by running the model.

The positions that a layer may attend to reach attention in two ways: as a mask, and as arguments (a sliding window).
Row attention forms no mask, so it is exact only where the arguments say all that the mask says. Architectures differ
in that, and a table of their names would miss some (as one missed Qwen2-MoE).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

_NAME = "selfsteer_probe"
_IDS = (2, 3)
"""Any two tokens; some models don't count what they take for padding, which mostly comes before these."""
_REACH = 1 << 20
"""Positions that masks are compared over; a longer window is none."""
_IRREGULAR = -1
_known: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def why_unlike(model: Any) -> str:
    """Return why row attention would compute something else than a transformers model does, "" where it does not.

    The model runs twice over two tokens, without attention; the answer is kept as long as the model lives.
    """
    if model not in _known:
        _known[model] = _ask(model)
    return _known[model]


class _UnlikeError(Exception):
    """Says what differs."""


@torch.no_grad()
def _ask(model: Any) -> str:
    device = next(model.parameters()).device
    before, calls = model.config._attn_implementation, list[str]()
    model.set_attn_implementation(_NAME)
    try:
        # Dropout draws here; it must not change what is drawn later.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            ids = torch.tensor([_IDS], device=device)
            found = []
            for positions in ({}, {"position_ids": torch.arange(len(_IDS), device=device)[None]}):
                torch.manual_seed(0)
                found.append(model(input_ids=ids, use_cache=False, selfsteer_layout=calls, **positions).logits)
            if not torch.equal(*found):
                return "counts positions in a way of its own"
    except _UnlikeError as error:
        return str(error)
    finally:
        model.set_attn_implementation(before)
    attends_everywhere = len(calls) >= len(found) * model.config.get_text_config().num_hidden_layers
    return "" if attends_everywhere else "has layers without attention"


def _check(
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
    selfsteer_layout: list[str] | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Take the place of attention: (1, T, H, D) zeros, or :class:`_UnlikeError`."""
    if selfsteer_layout is None:
        raise _UnlikeError("does not pass the layout on to its attention")
    unheeded = [name for name, value in others.items() if isinstance(value, Tensor) and name != "position_ids"]
    if unheeded:
        raise _UnlikeError(f"attends by {', '.join(unheeded)}, which rows do not compute")
    window = _REACH if sliding_window is None else min(sliding_window, _REACH)
    seen = set() if attention_mask is None else set(attention_mask.flatten().tolist())
    if seen != {window}:
        hidden = window == _REACH and len(seen) == 1 and seen != {_IRREGULAR}
        own = "keeps its sliding window from its attention" if hidden else "masks its attention in a way of its own"
        raise _UnlikeError(own)
    selfsteer_layout.append(type(module).__name__)
    return value.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None


def _window(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Tensor],
    device: torch.device,
    allow_is_causal_skip: bool = True,
    **_: Any,
) -> Tensor:
    """Return, in place of a mask, (B, 1, Q, S) times its sliding window, or :data:`_IRREGULAR`.

    ``mask_function`` says whether a query attends to a key: (batch, head, q_idx, kv_idx) -> bool. Without
    ``allow_is_causal_skip`` the mask is more than causal and windowed, and may know the places of this input alone.
    """
    found = _IRREGULAR
    if allow_is_causal_skip:
        zero, keys = torch.zeros((), dtype=torch.long, device=device), torch.arange(_REACH, device=device)
        queries = torch.tensor([0, _REACH // 2, _REACH - 1], device=device)[:, None]
        allowed = mask_function(zero, zero, queries, keys)
        window = int(allowed[-1].sum())
        if torch.equal(allowed, (keys <= queries) & (keys > queries - window)):
            found = window
    return torch.full((batch_size, 1, q_length, kv_length), found, device=device)


AttentionInterface.register(_NAME, _check)
AttentionMaskInterface.register(_NAME, _window)
