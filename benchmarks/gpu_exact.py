"""The parts of benchmarks/gpu.py that compare log-probs and gradients: the chunked head, attention over rows."""

from __future__ import annotations

from functools import cache, partial
from typing import Any
from unittest.mock import patch

import torch
from gpu_scale import CELLS, PAD, Cases, Row, Scale, attending, measured, random_model
from torch import Tensor
from ways import Plain, autocast

from examples import drawn_examples
from selfsteer.logprobs import liger, pair_views, score_cells
from selfsteer.logprobs.chunked_head import LogitTransform, gather_logps, token_logps
from selfsteer.views import SSO_VIEWS


def attention_cases(scale: Scale) -> Cases:
    """FlexAttention against segments and separate sequences, in float32 and bfloat16."""

    @cache
    def model() -> Any:
        return random_model(scale.attention, scale.device)

    (row,) = drawn_examples(1, *scale.row, scale.attention["vocab_size"])

    def scored(how: str, bf16: bool) -> tuple[Tensor, list[Tensor]]:
        """Log-probs (6,) and the gradients of their sum."""
        model().zero_grad()
        with autocast(bf16, scale.device):
            if how == "separate":
                pairs = Plain(model(), None, [row], PAD, bf16).pairs(model(), row)
            else:
                pairs = pair_views(*score_cells(model(), [row], CELLS), CELLS, SSO_VIEWS)
            sums = torch.cat([torch.cat([pairs[view].chosen, pairs[view].rejected]) for view in SSO_VIEWS])
        (sums * torch.linspace(0.5, 1.5, len(sums), device=sums.device)).sum().backward()
        return sums.detach(), [weight.grad for weight in model().parameters()]

    @cache
    def exact() -> tuple[Tensor, list[Tensor]]:
        with attending("segments"):
            sums, gradients = scored("segments", False)
        return sums, [gradient.clone() for gradient in gradients]

    def case(how: str, bf16: bool) -> Row:
        exact()
        with attending("segments" if how == "separate" else how) as used:
            found = measured(partial(scored, how, bf16), scale)
        return {
            **found.figures,
            "logp_gap": (found.result[0] - exact()[0]).abs().max().item(),
            "grad_gap": largest_gap(found.result[1], exact()[1]),
            "note": "; ".join([*used, f"{len(CELLS)} responses of about {scale.row[1]} tokens"]),
        }

    for bf16 in (False, True):
        for how in ("segments", "flex", "separate", *(["chooses"] if bf16 else [])):
            name = {"chooses": "as the package chooses", "separate": "six padded sequences, SDPA"}.get(how, how)
            yield f"{name}, {'bfloat16' if bf16 else 'float32'}", partial(case, how, bf16)


def largest_gap(found: list[Tensor], exact: list[Tensor]) -> float:
    """Return the largest difference over the largest entry of all."""
    gap = max((one.float() - other.float()).abs().max().item() for one, other in zip(found, exact, strict=True))
    return gap / max(other.abs().max().item() for other in exact)


def head_cases(scale: Scale) -> Cases:
    """The head in chunks against full logits, float32 and bfloat16; gaps are to full float32 logits."""
    tokens, width, vocabulary = scale.head

    @cache
    def inputs() -> tuple[torch.nn.Linear, Tensor, Tensor, Tensor]:
        torch.manual_seed(0)
        with torch.device(scale.device):
            head = torch.nn.Linear(width, vocabulary, bias=False)
            torch.nn.init.normal_(head.weight, std=2 * width**-0.5)
            return (
                head,
                torch.randn(tokens, width),
                torch.randint(vocabulary, (tokens,)),
                torch.rand(tokens) / tokens,
            )

    def logps(chunked: bool, bf16: bool) -> list[Tensor]:
        head, hidden, targets, upstream = inputs()
        leaf = hidden.clone().requires_grad_()
        head.zero_grad()
        with autocast(bf16, scale.device):
            if chunked:
                found = token_logps(head, LogitTransform(), leaf, targets, original=head.forward)
            else:
                found = gather_logps(head(leaf), targets)
        (found * upstream).sum().backward()
        return [found.detach(), leaf.grad, head.weight.grad]

    @cache
    def exact() -> list[Tensor]:
        return [tensor.clone() for tensor in logps(False, False)]

    def case(chunked: bool, bf16: bool, with_liger: bool) -> Row:
        if with_liger and not liger.available():
            return {"status": "skip", "note": "liger-kernel >= 0.8.5 and a GPU are not there"}
        exact()
        with patch.object(liger, "available", lambda: with_liger):
            found = measured(partial(logps, chunked, bf16), scale)
        return {
            **found.figures,
            "logp_gap": (found.result[0] - exact()[0]).abs().max().item(),
            "grad_gap": max(largest_gap([one], [other]) for one, other in zip(found.result, exact(), strict=True)),
            "note": f"{tokens} tokens x {vocabulary} words; log-prob difference a token",
        }

    ways = (("full logits", False, False), ("chunked", True, False), ("chunked, Liger's kernel", True, True))
    for bf16 in (False, True):
        for name, chunked, with_liger in ways:
            yield f"{name}, {'bfloat16' if bf16 else 'float32'}", partial(case, chunked, bf16, with_liger)
