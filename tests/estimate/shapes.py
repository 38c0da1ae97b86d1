"""A shape whose costs can be worked out on paper."""

from __future__ import annotations

import dataclasses

from selfsteer.estimate.model_shape import Linear, ModelShape

LINEARS = (
    ("self_attn.q_proj", 8, 8),
    ("self_attn.k_proj", 8, 4),
    ("self_attn.v_proj", 8, 4),
    ("self_attn.o_proj", 8, 8),
    ("mlp.gate_proj", 8, 12),
    ("mlp.up_proj", 8, 12),
    ("mlp.down_proj", 12, 8),
)
"""Of one layer: 64 + 32 + 32 + 64 + 3 * 96 = 480 weights."""


def paper_shape(**changes) -> ModelShape:
    """Llama's layer twice: D 8, two heads of 4, one key head, MLP 12, vocabulary 10, head and embedding one.

    Parameters: 2 * (480 + 16 of norms) + 80 of the embedding + 8 of the last norm = 1080.
    """
    linears = tuple(Linear(f"model.layers.{i}.{name}", *widths) for i in range(2) for name, *widths in LINEARS)
    shape = ModelShape(
        architecture="Paper", parameters=1080, tied=True, hidden=8, query_width=8, key_width=4, intermediate=12,
        heads=2, norms=2, vocabulary=10, windows=(None, None), active=960, linears=linears,
    )  # fmt: skip
    return dataclasses.replace(shape, **changes)
