"""Which tokens end a model's response."""

from __future__ import annotations

from typing import Any


def end_token_ids(name_or_path: str, *, trust_remote_code: bool = False, revision: str | None = None) -> list[int]:
    """Return the end tokens that a model's generation configuration names; [] where it has none.

    A chat model often ends its turn with another token than the tokenizer's eos (Llama 3's ``<|eot_id|>``), and says so
    only there.
    """
    from transformers import GenerationConfig

    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        config = GenerationConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code, **options)
    except OSError:  # most models have no such file
        return []
    ids = config.eos_token_id
    return list(ids) if isinstance(ids, list) else [ids] if ids is not None else []
