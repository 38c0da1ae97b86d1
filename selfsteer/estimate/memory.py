"""Bytes on a device while training, sampling and scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from selfsteer.config import LoraSettings
from selfsteer.estimate.model_shape import ModelShape

BYTES = {"float32": 4, "bfloat16": 2}
STRATEGIES = ("ddp", "zero-1", "zero-2", "zero-3", "fsdp")
HEAD_CHUNK = {"cpu": 2**25, "cuda": 2**27}
"""Logits in memory at once (:mod:`selfsteer.logprobs.chunked_head`); at its peak three tensors have that size."""

PROCESS = {"cpu": 0.6e9, "cuda": 0.6e9}
"""Bytes of a process that has imported torch and transformers; on a GPU, of its CUDA context."""

_SCORED_AT_ONCE = 4096
"""Tokens (:data:`selfsteer.logprobs.scoring.TOKEN_BUDGET`)."""

_QUANTISED = {8: 1.0, 4: 0.5 + 0.127 / 8}
"""Bytes of a weight in int8, or in NF4 with double quantisation (0.127 bits for its constants, arXiv 2305.14314)."""


@dataclass(frozen=True)
class Tuning:
    """The weights that are trained: all, or an adapter of rank ``r`` on a base in float32, 8 or 4 bits.

    ``frozen`` are the bytes of all others, ``states`` those of the optimiser for each trained weight.
    """

    name: str
    trainable: int
    frozen: float
    r: int = 0
    states: float = 8.0

    @property
    def full(self) -> bool:
        """Whether all weights are trained."""
        return self.r == 0


STATES = {"adamw_8bit": 2.0, "adamw_bnb_8bit": 2.0, "paged_adamw_8bit": 2.0, "adafactor": 0.0, "sgd": 0.0}
"""Bytes of the optimiser's states for each weight, where they are not AdamW's two in float32; Adafactor's, a row and a
column of each matrix, are not counted."""


def tuning(shape: ModelShape, lora: LoraSettings | None, bits: int | None = None) -> Tuning:
    """Return the tuning with an adapter (or none) on a base in ``bits`` bits (None: float32)."""
    if lora is None:
        return Tuning("full", shape.parameters, 0)
    own = shape.lora(lora)
    if bits is None:
        return Tuning("LoRA", own, 4.0 * shape.parameters, lora.r)
    packed = sum(linear.inputs * linear.outputs for linear in shape.linears)
    held = _QUANTISED[bits] * packed + 4.0 * (shape.parameters - packed)
    return Tuning(f"QLoRA {bits}", own, held, lora.r)


class Memory(NamedTuple):
    """Bytes on one device at the peak of a training step.

    ``copies`` are weights in the precision of the matrix products: the copies that autocast makes, or, with sharded
    weights, one gathered layer and the head.
    """

    weights: float
    copies: float
    gradients: float
    optimiser: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """Their sum."""
        return sum(self)


def training_memory(
    shape: ModelShape,
    of: Tuning,
    strategy: str,
    devices: int,
    *,
    tokens: float,
    predicted: float,
    precision: str,
    checkpointing: bool,
    device: str,
) -> Memory:
    """Return the memory of one of ``devices``, each with a micro-batch of its own, in a training step.

    Weights, gradients and AdamW's two states are float32 (4 + 4 + 8 bytes a trained weight; :data:`STATES` of other
    optimisers). ZeRO-1 divides the states by the number of devices, ZeRO-2 the gradients too, ZeRO-3 and FSDP the
    weights as well (arXiv 1910.02054, table 1, with float32 weights under autocast in place of half-precision weights
    with float32 masters).

    Args:
        strategy: One of :data:`STRATEGIES`.
        tokens, predicted: Packed tokens of a micro-batch, and its response tokens, which have logits.
        precision: Of the matrix products: "bfloat16" (autocast) or "float32".
    """
    parts = {"ddp": (1, 1, 1), "zero-1": (1, 1, devices), "zero-2": (1, devices, devices)}
    by_weights, by_gradients, by_states = parts.get(strategy, (devices,) * 3)
    weights = of.frozen + 4.0 * of.trainable
    products = shape.active * shape.experts[1] / shape.experts[0] + shape.head
    copies = 0.0 if precision == "float32" else 2.0 * products
    if by_weights > 1:
        copies = BYTES[precision] * (max(products - shape.head, 0) / shape.layers + shape.head)
    layer = layer_activations(shape, precision, full=of.full, r=of.r)
    held = (4 * shape.hidden * shape.layers + layer) if checkpointing else layer * shape.layers
    return Memory(
        weights=weights / by_weights, copies=copies, gradients=4.0 * of.trainable / by_gradients,
        optimiser=of.states * of.trainable / by_states, activations=tokens * (held + 12 * shape.hidden),
        logits=3 * 4.0 * min(HEAD_CHUNK[device], predicted * shape.vocabulary),
    )  # fmt: skip


def layer_activations(shape: ModelShape, precision: str, *, full: bool, r: int = 0) -> float:
    """Return the bytes a token that one layer keeps for its backward pass.

    Counted on Llama's layer with torch's saved-tensor hooks (the tests compare). Norms keep their float32 input and,
    where their weight is trained, their normalised output. Under autocast every product keeps its own copy of its
    input; in float32 products of one input share it, and attention's output is the input of the next product. Attention
    keeps q, k, v, its output and a normaliser a head; a gated MLP keeps three tensors and its last product's input.
    """
    size = BYTES[precision]
    half = precision != "float32"
    d, q, kv, i = shape.hidden, shape.query_width, shape.key_width, shape.intermediate * shape.experts[0]
    norms = shape.norms * (d * (8 if full else 4) + 4)
    inputs = size * (5 * d + q) if half else size * 2 * d
    attention = 8 * q + (4 + size) * kv + 4 * shape.heads
    adapter = size * r * len(shape.linears) / shape.layers
    return norms + inputs + attention + 4 * size * i + adapter


def cache_bytes(shape: ModelShape, tokens: float, precision: str) -> float:
    """Return the bytes of a sequence's KV cache: keys and values of each layer, of at most a window's positions."""
    seen = sum(tokens if window is None else min(tokens, window) for window in shape.windows)
    return 2.0 * BYTES[precision] * shape.key_width * seen


def generation_memory(shape: ModelShape, *, weights: float | None, batch: int, tokens: float, precision: str) -> float:
    """Return the memory of sampling a batch with transformers: weights, KV cache and the logits of one step.

    The logits of a step are held in the precision of the weights and in float32. A cache grows by copying one layer at
    a time. ``weights`` are the bytes of a quantised base.
    """
    cache = batch * cache_bytes(shape, tokens, precision)
    held = BYTES[precision] * shape.parameters if weights is None else weights
    return held + cache * (1 + 1 / shape.layers) + batch * shape.vocabulary * (BYTES[precision] + 4.0)


def scoring_memory(shape: ModelShape, *, weights: float | None, precision: str, device: str) -> float:
    """Return the memory of scoring: float32 weights, autocast's copies, a layer's tensors, a chunk of logits."""
    copies = 0.0 if precision == "float32" else 2.0 * (shape.active + shape.head)
    held = 4.0 * shape.parameters if weights is None else weights
    return held + copies + _SCORED_AT_ONCE * layer_activations(shape, precision, full=True) + 8.0 * HEAD_CHUNK[device]
