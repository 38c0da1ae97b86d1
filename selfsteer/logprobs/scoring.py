"""Log-probs of responses under prompts: trainer, filters and evaluation all come here."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from selfsteer.chat import Chat
from selfsteer.contrast import contrast_of, with_token_ids
from selfsteer.logprobs.cells import Cell, PromptRow, cell_positions, rows_of, view_cells
from selfsteer.logprobs.chunked_head import gather_logps, head_in_chunks
from selfsteer.logprobs.packing import pack
from selfsteer.logprobs.pairs import PairLogps
from selfsteer.logprobs.row_attention import attends_rows, recomputes, row_attention_on, shares_prompts, unwrapped
from selfsteer.logprobs.sharded import is_sharded, most_anywhere
from selfsteer.models.rope import forget_lengths
from selfsteer.records import Contrast
from selfsteer.views import PAIRINGS, SSO_VIEWS, View

TOKEN_BUDGET = 4096
"""Tokens that are scored at once. It bounds memory, not the result."""


def score_responses(
    model: Any, rows: Sequence[PromptRow], *, token_budget: int = TOKEN_BUDGET, wide_head: bool = False
) -> list[Tensor]:
    """Return for each row the summed log-probs of its R responses, (R,), nats, float32 or better, with gradients.

    The result does not depend on which rows are scored together. A row longer than ``token_budget`` is scored alone.
    With ``wide_head`` the head of a model in half precision is computed in float32: half precision rounds logits to an
    eighth or so, which matters where two tokens at one place are compared.

    Where the model's weights are sharded, all processes have to call it together, each with as many rows as the others.

    Raises:
        ValueError: A prompt or a response is empty.
        RuntimeError: Gradient checkpointing is on outside :func:`selfsteer.logprobs.row_attention_on`.
    """
    if not shares_prompts(model):
        alone = []
        for row in rows:
            scores = []
            for response in row.responses:
                forget_lengths(unwrapped(model))  # dynamic RoPE would keep the frequencies of the longest one so far
                scores += _score_packed(model, [PromptRow(row.prompt, [response])], wide_head, whole=True)
            alone.append(torch.cat(scores))
        return alone
    # The backward pass attends again: outside the context it would do so by the model's own attention.
    if torch.is_grad_enabled() and recomputes(model) and not attends_rows(model):
        raise RuntimeError("with gradient checkpointing, hold row_attention_on(model) until after backward()")
    groups = list(_groups(rows, token_budget))
    if is_sharded(model):
        groups = _cut_into(groups, most_anywhere(len(groups), next(model.parameters()).device))
    with row_attention_on(model):
        return [scores for group in groups for scores in _score_packed(model, group, wide_head)]


def prepare_scoring(model: Any) -> None:
    """Find out now how this model attends and what its head does; later calls only look it up.

    It runs the model a few times. Once weights are sharded, a process that had to ask would wait for those that know.
    """
    shares_prompts(model)
    with head_in_chunks(model):
        pass


def _groups(rows: Sequence[PromptRow], token_budget: int) -> Iterator[list[PromptRow]]:
    """Cut rows into runs of at most ``token_budget`` tokens, in order."""
    group: list[PromptRow] = []
    used = 0
    for row in rows:
        size = len(row.prompt) + sum(map(len, row.responses))
        if group and used + size > token_budget:
            yield group
            group, used = [], 0
        group.append(row)
        used += size
    if group:
        yield group


def _cut_into(groups: list[list[PromptRow]], count: int) -> list[list[PromptRow]]:
    """Cut groups of rows further, the one with the most rows first, until there are ``count``; the order stays.

    Each forward pass of a sharded model gathers weights from all processes, so all of them have to do equally many.
    """
    groups = list(groups)
    while len(groups) < count:
        place = max(range(len(groups)), key=lambda index: len(groups[index]))
        whole = groups[place]
        groups[place : place + 1] = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    return groups


def score_cells(
    model: Any,
    contrasts: Sequence[Contrast],
    cells: Sequence[Cell],
    *,
    max_length: int | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> tuple[Tensor, Tensor]:
    """Return (B, C) summed log-probs in nats and (B, C) response token counts of C cells of each contrast.

    ``max_length`` cuts responses as :func:`selfsteer.logprobs.cells.rows_of` does.
    """
    rows = [rows_of(contrast, cells, max_length) for contrast in contrasts]
    flat = torch.cat(score_responses(model, [row for own in rows for row in own], token_budget=token_budget))
    lengths = [len(ids) for own in rows for row in own for ids in row.responses]
    counts = torch.tensor(lengths, device=flat.device)
    order = cell_positions(cells)  # rows group the cells by prompt
    return flat.view(len(rows), len(cells))[:, order], counts.view(len(rows), len(cells))[:, order]


def pair_views(sums: Tensor, counts: Tensor, cells: Sequence[Cell], views: Sequence[View]) -> dict[View, PairLogps]:
    """Pick each view's chosen and rejected columns out of (B, C) scores."""
    index = {cell: i for i, cell in enumerate(cells)}
    pairs = {}
    for view in views:
        pairing = PAIRINGS[view]
        chosen, rejected = (index[Cell(role, pairing.prompt)] for role in (pairing.chosen, pairing.rejected))
        pairs[view] = PairLogps(sums[:, chosen], sums[:, rejected], counts[:, chosen], counts[:, rejected])
    return pairs


def score_views(
    model: Any,
    processing_class: Any,
    contrasts: Iterable[Contrast | Mapping[str, Any]],
    *,
    views: Sequence[View] = SSO_VIEWS,
    max_length: int | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> dict[View, PairLogps]:
    """Return each view's log-probs under ``model``: (B,) in the order of ``contrasts``, with gradients.

    Args:
        processing_class: Its tokenizer (rows without ids of its own are tokenised) or a :class:`Chat`.
        contrasts: B rows with the columns of :class:`Contrast`: a datasets.Dataset or a sequence of either form. Rows
            that are not ``kept`` are scored too.
        max_length: Tokens of a row's longest prompt + response; longer responses are cut without an end token, at the
            same place in all views.
        token_budget: Tokens scored at once.
    """
    chat = processing_class if isinstance(processing_class, Chat) else Chat(processing_class)
    cells = view_cells(views)
    rows = [with_token_ids(row, chat) for row in map(contrast_of, contrasts)]
    sums, counts = score_cells(model, rows, cells, max_length=max_length, token_budget=token_budget)
    return pair_views(sums, counts, cells, views)


def _score_packed(model: Any, rows: Sequence[PromptRow], wide_head: bool, *, whole: bool = False) -> list[Tensor]:
    """Score rows in one forward pass; the head runs only where a response token is predicted."""
    packed = pack(rows, next(model.parameters()).device, whole=whole)
    inputs: dict[str, Any] = {"input_ids": packed.input_ids, "use_cache": False}
    if attends_rows(model):
        inputs |= {"position_ids": packed.position_ids, "selfsteer_layout": packed.layout}
    # A few models take no ``logits_to_keep`` and compute the logits of all tokens.
    keeps = "logits_to_keep" in inspect.signature(unwrapped(model).forward).parameters
    with head_in_chunks(model, wide=wide_head) as chunked:
        if chunked:
            inputs["selfsteer_targets"] = packed.targets
        if chunked or keeps:
            inputs["logits_to_keep"] = packed.predictors
        output = model(**inputs)
        if chunked:
            logps = output["logps"]
        else:
            logits = output.logits[0]
            logps = gather_logps(logits if keeps else logits[packed.predictors], packed.targets)
    sums = torch.stack([part.sum() for part in logps.split(packed.counts)])
    return list(sums.split([len(row.responses) for row in rows]))
