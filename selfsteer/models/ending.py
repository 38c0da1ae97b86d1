"""Which tokens end a model's response."""

from __future__ import annotations

from selfsteer.models.configs import end_ids, generation_values


def end_token_ids(name_or_path: str, *, trust_remote_code: bool = False, revision: str | None = None) -> list[int]:
    """Return the end tokens that a model's generation configuration names; [] where it has none.

    A chat model often ends its turn with another token than the tokenizer's eos (Llama 3's ``<|eot_id|>``), and says so
    only there.
    """
    return end_ids(generation_values(name_or_path, revision))
