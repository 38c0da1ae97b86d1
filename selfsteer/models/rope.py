"""The context length of a model, and rotary embeddings that depend on the length of the whole sequence."""

from __future__ import annotations

from typing import Any

_POSITION_FREE = {"default", "linear", "llama3", "yarn", "proportional"}
"""Kinds that depend on a token's own position alone."""


def context_of(config: Any) -> int | None:
    """Return how many tokens a model of this configuration takes; None where it does not say.

    Where rotary embeddings are stretched, ``max_position_embeddings`` is the length before for "dynamic" and, unless
    the configuration gives an original length, "yarn"; for other kinds it is the length after.
    """
    text = config.get_text_config()
    longest: int | None = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    if longest is None or "factor" not in rope:
        return longest
    original = rope.get("original_max_position_embeddings") or longest
    stretched = rope.get("rope_type") in ("dynamic", "yarn")
    return max(longest, int(original * rope["factor"])) if stretched else longest


def length_bound_ropes(config: Any) -> set[str]:
    """Return a model's kinds of rotary embedding that change with the sequence's length ("dynamic", "longrope")."""
    return _kinds(getattr(config.get_text_config(), "rope_parameters", None)) - _POSITION_FREE


def forget_lengths(model: Any) -> None:
    """Embed the next sequence as the first one would be.

    Where a rotary embedding is of the kind "dynamic", transformers keeps the frequencies of the longest sequence so far
    and uses them for shorter ones too, until one is within the original context.
    """
    if "dynamic" not in length_bound_ropes(model.config):
        return
    import torch

    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        for layer_type in kinds if isinstance(kinds, dict) else [None]:
            if hasattr(module, "max_seq_len_cached"):
                # A sequence of one token lies within the original context, so it sets the frequencies back.
                start = torch.zeros(1, 1, dtype=torch.long, device=model.device)
                module(start.float(), start, **({"layer_type": layer_type} if layer_type else {}))


def _kinds(parameters: Any) -> set[str]:
    """Return the kinds of rotary embedding; Gemma 3 has one a kind of layer."""
    if not parameters:
        return {"default"}
    if "rope_type" in parameters:
        return {parameters["rope_type"]}
    return {kind for value in parameters.values() if isinstance(value, dict) for kind in _kinds(value)}
