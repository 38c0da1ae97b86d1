"""Tiny random models whose next token depends strongly on what stands before it, so that a wrong mask shows."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
}


def tiny_model(architecture: str, tokenizer: Any, **changes: Any) -> Any:
    """Return a random model in float32, the same at each call."""
    settings = SMALL | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id} | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **settings)).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.3)
    return model


def tiny_llama(tokenizer: Any, **changes: Any) -> Any:
    """Return a random Llama."""
    return tiny_model("llama", tokenizer, **changes)
