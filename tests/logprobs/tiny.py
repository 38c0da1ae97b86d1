"""Tiny random models of the architectures that are promised to share prompts exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from selfsteer.logprobs import PromptRow

_SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 5},
    "gemma2": {"sliding_window": 5, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"sliding_window": 5, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    "phi3": {},
}


def tiny_model(name: str, dtype: torch.dtype = torch.float64, **overrides: Any) -> Any:
    """Build a random model whose logits are spread enough to show a wrong mask."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(_SMALL | ARCHITECTURES.get(name, {}) | overrides))
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model


def separate(model: Any, rows: Sequence[PromptRow]) -> list[Tensor]:
    """Plain transformers, one unpadded sequence a response: log-softmax over all logits, gathered."""
    found = []
    for row in rows:
        sums = []
        for response in row.responses:
            ids = torch.tensor([[*row.prompt, *response]])
            logps = torch.log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
            picked = logps[len(row.prompt) - 1 : -1].gather(1, ids[0, len(row.prompt) :, None])
            sums.append(picked.sum())
        found.append(torch.stack(sums))
    return found
