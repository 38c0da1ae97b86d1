"""Rewards of whole conversations. Training and scoring make their token ids by the same function."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from selfsteer.chat_template import ChatTemplate
from selfsteer.errors import DataError, PromptRefused
from selfsteer.models.rope import context_of, forget_lengths, length_bound_ropes
from selfsteer.records import Message

TokenIds = tuple[int, ...]


def score(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    *,
    batch_size: int = 8,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[float]:
    """Return the reward of each conversation; it does not depend on the others (to 1e-5, in float32).

    Args:
        model: A sequence-classification model with one output, in eval mode (:func:`load_reward_model`).
        conversations: (B,) lists of messages; the last one is the response that is scored.
        batch_size: Conversations in one forward pass; it affects memory, not the result.

    Raises:
        DataError: A conversation is longer than the model's context.
        PromptRefused: The chat template refuses a conversation.
    """
    template, longest = ChatTemplate(tokenizer, template_kwargs), context_of(model.config)
    where = str(getattr(tokenizer, "name_or_path", ""))
    rendered = [conversation_ids(template, messages, where) for messages in conversations]
    for number, ids in enumerate(rendered):
        if longest is not None and len(ids) > longest:
            what = f"a conversation of {len(ids)} tokens does not fit in the model's context of {longest}"
            raise DataError(what, where=f"conversations[{number}]", do="leave it out, or shorten it")
    scores = score_ids(model, rendered, batch_size=batch_size)  # equal conversations once
    return [scores[ids] for ids in rendered]


def conversation_ids(template: ChatTemplate, messages: Sequence[Message], where: str) -> TokenIds:
    """Return the token ids of a whole conversation, with the template's end of the last turn.

    Raises:
        PromptRefused: The template refuses the roles, or a character is a control token by itself.
    """
    try:
        return tuple(template.render(messages, cue=False).ids)
    except PromptRefused as error:
        raise PromptRefused(error.what, where=where, do=error.do) from error


def score_ids(model: Any, conversations: Iterable[TokenIds], *, batch_size: int) -> dict[TokenIds, float]:
    """Return the reward of each distinct rendered conversation; batches have conversations of similar length."""
    ordered = sorted(dict.fromkeys(conversations), key=len)
    scores: dict[TokenIds, float] = {}
    for batch in _batches(model, ordered, batch_size):
        scores |= zip(batch, _forward(model, batch), strict=True)
    return scores


def _batches(model: Any, ordered: Sequence[TokenIds], batch_size: int) -> Iterator[list[TokenIds]]:
    unpadded = bool(length_bound_ropes(model.config))  # such a rope would use the padded length
    batch: list[TokenIds] = []
    for ids in ordered:
        if len(batch) == batch_size or (unpadded and batch and len(ids) != len(batch[0])):
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch


def _forward(model: Any, batch: Sequence[TokenIds]) -> list[float]:
    """Return the rewards of right-padded conversations."""
    import torch

    forget_lengths(model)  # dynamic ropes keep the frequencies of the longest row so far
    width, device = max(map(len, batch)), model.device
    mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids in batch]
    with torch.inference_mode(), _pad_id(model.config.get_text_config(), batch) as pad:
        rows = [[*ids, *[pad] * (width - len(ids))] for ids in batch]
        logits = model(
            input_ids=torch.tensor(rows, device=device), attention_mask=torch.tensor(mask, device=device)
        ).logits
    rewards: list[float] = logits.float().reshape(len(batch)).tolist()
    return rewards


@contextlib.contextmanager
def _pad_id(config: Any, batch: Sequence[TokenIds]) -> Iterator[int]:
    """Yield an id to pad with, with which the model finds the same last token as in each row without padding."""
    # transformers uses the last token that is not the configuration's padding, even in a row without padding. So a
    # configured id stays, and a substitute must end no row: the tokenizer's own is often the end token, and the score
    # would come from the token before it.
    own = config.pad_token_id
    if own is not None and 0 <= own < config.vocab_size:
        yield own
        return
    last = {ids[-1] for ids in batch}
    config.pad_token_id = next(id for id in range(config.vocab_size) if id not in last)
    try:
        yield config.pad_token_id
    finally:
        config.pad_token_id = own
