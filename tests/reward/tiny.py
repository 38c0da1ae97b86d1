"""Tiny random reward models."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from tests.backends.tiny import SMALL


def reward_model(tokenizer: Any, architecture: str = "llama", *, pad: int | None = 0, **changes: Any) -> Any:
    """A random reward model, the same at each call, whose score depends strongly on every token."""
    tokens = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": pad}
    settings = SMALL | tokens | {"num_labels": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, **(settings | changes))
        model = AutoModelForSequenceClassification.from_config(config).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.3)
    return model
