"""Whether a model has an embedding for every token that its tokenizer may give it."""

from __future__ import annotations

from typing import Any

from selfsteer.errors import ModelError, PromptRefused
from selfsteer.models.bounded_template import apply_template

_TURN: list[dict[str, str]] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"}]
_DIALOGUES: list[list[dict[str, str]]] = [_TURN, [{"role": "system", "content": "Hi"}, *_TURN]]


def fit_vocabulary(tokenizer: Any, rows: int, source: str) -> None:
    """Give a tokenizer a pad token that has an embedding, and check that all other tokens that can occur have one.

    Not every token can occur: many tokenizers have unused special tokens, which neither the chat template nor the end
    of a response writes, and no text ever becomes one. ``rows`` are those of the embedding; more than tokens is usual.

    Raises:
        ModelError: A token that can occur has no embedding.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = None  # padding is masked: any other token will do
    added = tokenizer.added_tokens_decoder
    # A special token is never made from a text, so it counts only if the template or the end of a response writes it.
    of_texts = [id for id in tokenizer.get_vocab().values() if id not in added or not added[id].special]
    written = {id for ids in _rendered(tokenizer, source) for id in ids}
    largest = max([*of_texts, *written, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])])
    if largest < rows:
        return
    source_of_it = "the chat template writes" if largest in written else "the tokenizer has"
    token = f"token {largest} ({tokenizer.convert_ids_to_tokens(largest)!r})"
    raise ModelError(
        f"{source_of_it} {token}, and the model has embeddings for {rows} tokens only (0 to {rows - 1})",
        where=source,
        do="take the tokenizer that the model was trained with; or resize the model's embeddings to the tokenizer "
        "(model.resize_token_embeddings(len(tokenizer))), train the new ones, and save both",
    )


def _rendered(tokenizer: Any, source: str) -> list[list[int]]:
    """Return the ids of dialogues that the chat template takes; none where there is no template.

    Raises :class:`ModelError` where it fails rather than refuses, or is stopped by a limit: so such a template ends a
    command before anything is computed.
    """
    from jinja2 import TemplateError

    found: list[list[int]] = []
    if not tokenizer.chat_template:
        return found
    for messages in _DIALOGUES:
        for cut, cue in ((len(messages) - 1, True), (len(messages), False)):
            try:
                text = apply_template(tokenizer, messages[:cut], cue=cue)
            except PromptRefused as refusal:
                if not isinstance(refusal.__cause__, (TemplateError, TypeError)):
                    do = "take the chat template of the original model"
                    raise ModelError(refusal.what, where=source, do=do) from refusal
                continue
            found.append(tokenizer.encode(text, add_special_tokens=False))
    return found
