"""Configurations of models that are asked about most, so that an estimate of them needs no hub."""

from __future__ import annotations

from typing import Any

_QWEN2 = {"model_type": "qwen2", "max_position_embeddings": 32768}
_LLAMA = {"model_type": "llama", "vocab_size": 128256, "max_position_embeddings": 131072}
_HEADS_OF_LLAMA = {"num_attention_heads": 32, "num_key_value_heads": 8}


def _sizes(layers: int, hidden: int, intermediate: int) -> dict[str, int]:
    return {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": intermediate}


def _qwen2(layers: int, hidden: int, intermediate: int, heads: tuple[int, int], tied: bool) -> dict[str, Any]:
    own = {"num_attention_heads": heads[0], "num_key_value_heads": heads[1], "tie_word_embeddings": tied}
    return _QWEN2 | _sizes(layers, hidden, intermediate) | own | {"vocab_size": 151936 if tied else 152064}


_KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2-7B": _qwen2(28, 3584, 18944, (28, 4), tied=False),
    "Qwen/Qwen2.5-0.5B": _qwen2(24, 896, 4864, (14, 2), tied=True),
    "Qwen/Qwen2.5-1.5B": _qwen2(28, 1536, 8960, (12, 2), tied=True),
    "Qwen/Qwen2.5-3B": _qwen2(36, 2048, 11008, (16, 2), tied=True),
    "Qwen/Qwen2.5-7B": _qwen2(28, 3584, 18944, (28, 4), tied=False),
    "Qwen/Qwen2.5-14B": _qwen2(48, 5120, 13824, (40, 8), tied=False),
    "Qwen/Qwen2.5-32B": _qwen2(64, 5120, 27648, (40, 8), tied=False),
    "meta-llama/Llama-3.1-8B": _LLAMA | _HEADS_OF_LLAMA | _sizes(32, 4096, 14336) | {"tie_word_embeddings": False},
    "meta-llama/Llama-3.2-1B": _LLAMA | _HEADS_OF_LLAMA | _sizes(16, 2048, 8192) | {"tie_word_embeddings": True},
    "meta-llama/Llama-3.2-3B": _LLAMA
    | _sizes(28, 3072, 8192)
    | {"num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True},
}
"""By the name of the pretrained model; facts of its config.json. One that was tuned on instructions has the same."""


def known_config(name: str) -> dict[str, Any] | None:
    """Return the sizes in the configuration of a hub model, or of the pretrained model of an instruct model."""
    return _KNOWN.get(name.removesuffix("-Instruct"))
