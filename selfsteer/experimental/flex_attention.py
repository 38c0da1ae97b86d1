"""Attention over prompt-sharing rows in one FlexAttention kernel, for CUDA.

Attending segment by segment launches kernels for every segment of every layer, and a response's needs a dense mask.
Here one kernel runs over the packed sequence and skips the blocks in which nothing attends to anything.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from selfsteer.errors import SelfsteerWarning
from selfsteer.logprobs.packing import Layout

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether a query attends to a key: (batch, head, q_idx, kv_idx) -> bool."""

_HALF = (torch.float16, torch.bfloat16)
_CAPABILITY = (8, 0)
_HEAD_DIMS = range(16, 257)
_BLOCK = 128
_CACHED_MASKS = 16
_MOST_KERNELS = 64
_TRIALS = (Layout((100,), ((60, 0, 70),)), Layout((150, 40), ((90, 30), (50,))))
_TRIAL_WINDOW = 64
_TRIAL_TOLERANCE = 0.05


def row_mask(layout: Layout, device: torch.device | str, sliding_window: int | None) -> MaskMod:
    """Return the FlexAttention mask_mod of packed rows: whether token ``q_idx`` attends to token ``kv_idx``.

    A token sees an unbroken run of its own segment that ends at itself, and an unbroken run of its row's prompt that
    ends with the prompt. So a few numbers a query say it all, the window too, and the kernel looks nothing up by key.

    Args:
        layout: The packed segments, T tokens.
        sliding_window: How far a query looks back, itself included, in positions (they restart after the prompt for
            every response); None: all the way.
    """
    own_from, prompt_from, prompt_to = (run.to(device) for run in _runs(layout, sliding_window))

    def mask(_batch: Tensor, _head: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        own = (own_from[q_idx] <= kv_idx) & (kv_idx <= q_idx)
        return own | ((prompt_from[q_idx] <= kv_idx) & (kv_idx < prompt_to[q_idx]))

    return mask


def flex_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
) -> Tensor:
    """Attend within each prompt, and from each response to its prompt and itself; (1, T, H, D).

    On CUDA the kernel is compiled. Elsewhere it is computed densely, for tests only: torch's gradients of that are
    wrong under gradient checkpointing with a soft cap (seen with torch 2.13; compiled ones are right).

    Args:
        query: (1, H, T, D). key, value: (1, H', T, D) with H a multiple of H'.
        layout: The packed segments, T tokens.
        scaling: Factor of the scores; None: D ** -0.5.
        sliding_window: As in :func:`row_mask`.
        softcap: Scores become softcap * tanh(score / softcap).
    """
    attend: Any = _compiled() if query.is_cuda else flex_attention
    dtype = _dtype(query)
    output: Tensor = attend(
        query.to(dtype),
        key.to(dtype),
        value.to(dtype),
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=_block_mask(layout, sliding_window, query.device),
        # torch.compile turns a float with a second value into a variable and compiles again; None stays a constant.
        scale=None if scaling == query.shape[-1] ** -0.5 else scaling,
        enable_gqa=True,
    )
    return output.transpose(1, 2).contiguous()


def supports(
    query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, softcap: float | None, dropout: float
) -> bool:
    """Return whether :func:`flex_rows` computes this, and better than segment by segment.

    The conditions: no dropout, which FlexAttention doesn't have; an NVIDIA GPU that has bfloat16; half precision
    (autocast's counts: in float32 the backward kernel's tiles are tiny); head dimensions that the kernels have tiles
    for (Triton multiplies no fewer than 16; powers of two aren't needed); more than one block of tokens, since torch
    takes another kernel below; torch.compile not switched off; and a trial of the kernels, which some boards fail for
    want of shared memory.
    """
    if dropout or not query.is_cuda or query.shape[2] <= _BLOCK or torch._dynamo.config.disable:
        return False
    dtypes = {_dtype(tensor) for tensor in (query, key, value)}
    if len(dtypes) > 1 or not dtypes <= set(_HALF) or not {query.shape[-1], value.shape[-1]} <= set(_HEAD_DIMS):
        return False
    shape = (query.shape[1], key.shape[1], query.shape[-1], value.shape[-1])
    return _capable(query.device) and _passes_trial(query.device, *dtypes, shape, scaling, softcap)


def _runs(layout: Layout, sliding_window: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """(T,) int32 each: where the run of a query's own segment starts, and where that of its prompt starts and ends.

    A prompt's token has its prompt as its own segment, and the other run is empty.
    """
    segments: list[tuple[int, int, int]] = []
    start = 0
    for prompt, responses in zip(layout.prompts, layout.responses, strict=True):
        first = start
        for size, before in ((prompt, 0), *((size, prompt) for size in responses)):
            segments.append((start, first, before))
            start += size
    start_of, first_of, before_of = torch.tensor(segments).repeat_interleave(torch.tensor(layout.sizes), dim=0).T
    own_from, prompt_from = start_of, first_of
    if sliding_window is not None:
        queries = torch.arange(start)
        out_of_reach = queries - start_of + before_of + 1 - sliding_window  # positions at the row's start
        own_from = torch.maximum(start_of, queries + 1 - sliding_window)
        prompt_from = first_of + out_of_reach.clamp(min=0)
    return own_from.int(), prompt_from.int(), (first_of + before_of).int()


@functools.lru_cache(maxsize=_CACHED_MASKS)
def _block_mask(layout: Layout, sliding_window: int | None, device: torch.device) -> Any:
    """The mask with its blocks; all layers of a forward pass and of its recomputation share it."""
    length = sum(layout.sizes)
    # A tensor made in inference mode could not be saved for a later backward pass.
    with torch.inference_mode(False), torch.no_grad():
        return create_block_mask(row_mask(layout, device, sliding_window), None, None, length, length, device=device)


@functools.cache
def _compiled(backend: str | Callable[..., Any] = "inductor") -> Callable[..., Any]:
    """The compiled kernel: for one length at first, then for any.

    torch gives up compiling after 8 kinds of call (a model's shapes, its precision, gradients or none, ...) and would
    compute densely from then on, with wrong gradients under gradient checkpointing: hence the limit and ``fullgraph``,
    which makes that an error.
    """
    kernel: Any = torch.compile(flex_attention, fullgraph=True, backend=backend)

    def attend(*tensors: Tensor, **options: Any) -> Tensor:
        with torch._dynamo.config.patch(cache_size_limit=_MOST_KERNELS):
            output: Tensor = kernel(*tensors, **options)
        return output

    return attend


def _capped(softcap: float) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    def cap(score: Tensor, _batch: Tensor, _head: Tensor, _q_idx: Tensor, _kv_idx: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return cap


def _dtype(tensor: Tensor) -> torch.dtype:
    """What autocast would make of it, as it does for scaled_dot_product_attention."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


@functools.cache
def _capable(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= _CAPABILITY


@functools.cache
def _passes_trial(
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    scaling: float | None,
    softcap: float | None,
) -> bool:
    """Run the kernels forward and backward on a little, once; one warning where that fails.

    The backward kernel is compiled in the backward pass only, too late to take another way.
    """
    try:
        gaps = [_trial_gap(layout, device, dtype, shape, scaling, softcap) for layout in _TRIALS]
        reason = "" if all(gap <= _TRIAL_TOLERANCE for gap in gaps) else f"is off by {gaps}"
    except Exception as error:  # noqa: BLE001 - whatever a compiler, a driver or a board raises: there is another way
        reason = f"fails ({type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]})"
    if reason:
        warnings.warn(
            f"FlexAttention {reason} on {device}, so rows are attended to segment by segment (slower, same numbers)",
            SelfsteerWarning,
            stacklevel=2,
        )
    return not reason


def _trial_gap(
    layout: Layout,
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    scaling: float | None,
    softcap: float | None,
) -> float:
    """Largest error of the output and of the gradients, over each one's largest value."""
    heads, key_heads, head_dim, value_dim = shape
    sizes = ((heads, head_dim), (key_heads, head_dim), (key_heads, value_dim))
    options: dict[str, Any] = {"scaling": scaling, "sliding_window": _TRIAL_WINDOW, "softcap": softcap}
    plain = torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False)
    # Hooks of its own: those of gradient checkpointing around it would run the model again for what is saved here.
    with plain[0], plain[1], plain[2], torch.autograd.graph.saved_tensors_hooks(_same, _same):
        draw = torch.Generator().manual_seed(0)  # the global one stays as it is
        inputs = [torch.randn(1, n, sum(layout.sizes), dim, generator=draw).to(device, dtype) for n, dim in sizes]
        found = _with_gradients(lambda q, k, v: flex_rows(q, k, v, layout, **options), inputs)
        wanted = _with_gradients(lambda q, k, v: _dense(q, k, v, layout, **options), [t.float() for t in inputs])
    pairs = zip(found, wanted, strict=True)
    return torch.stack([(one.float() - other).abs().max() / other.abs().max() for one, other in pairs]).max().item()


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _with_gradients(attend: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = attend(*leaves)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.device)
    return [output.detach(), *torch.autograd.grad((output.float() * weights).sum(), leaves)]


def _dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
) -> Tensor:
    """The same from the definition, all scores at once; (1, T, H, D)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    tokens = torch.arange(query.shape[2], device=query.device)
    allowed = row_mask(layout, query.device, sliding_window)(tokens, tokens, tokens[:, None], tokens[None, :])
    return (scores.masked_fill(~allowed, float("-inf")).softmax(dim=-1) @ value).transpose(1, 2)
