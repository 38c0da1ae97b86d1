"""The loss of v2's data generator (arXiv 2410.17131v2, Formulas 1 to 4): steering alone, with an SFT term and no W.

L   = L+ + L-                                    Formula 1
L+  = l(x+: y+ > y-) + s * SFT(y+|x+)            Formula 2
L-  = l(x-: yo > y+) + s * SFT(yo|x-)            Formula 4, negative="original" (View.NEGATIVE)
L-  = l(x-: y- > y+) + s * SFT(y-|x-)            Formula 3, negative="negative" (View.NEGATIVE_STRICT), the weaker one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from selfsteer.logprobs.pairs import PairLogps
from selfsteer.losses.base import check_choice
from selfsteer.losses.bundle import SSOLoss, check_coefs, combine, score_views, sft_loss
from selfsteer.views import View

TERMS = ("positive", "negative")
NEGATIVE_VIEWS: dict[str, View] = {"original": View.NEGATIVE, "negative": View.NEGATIVE_STRICT}


def generator_loss(
    policy: dict[View, PairLogps],
    reference: dict[View, PairLogps] | None,
    *,
    base: str = "dpo",
    beta: float = 0.1,
    sft_coef: float = 0.1,
    negative: Literal["original", "negative"] = "original",
    terms: Sequence[Literal["positive", "negative"]] = ("positive", "negative"),
    label_smoothing: float = 0.0,
    margin: float = 0.0,
) -> SSOLoss:
    """Return the generator's loss of each example and its parts: ``steering`` is the sum of l, ``weight`` is ones.

    Args:
        policy, reference, base, beta, label_smoothing, margin: As of :func:`sso_loss`, for the views of ``terms``.
        sft_coef: s, at least 0; the SFT term is minus the mean log-prob of each view's chosen response.
        negative: What L- prefers to y+ under x-: the original response, or the negative one (an ablation).
        terms: "positive" for L+ and "negative" for L-, in any order; at least one, none twice.

    Raises:
        ValueError: As ``base_loss``; or a view is missing, views differ in shape or dtype, a setting has no effect.
    """
    check_coefs(sft_coef=sft_coef)
    views = generator_views(negative, terms)
    scored = score_views(policy, reference, views, base=base, beta=beta, label_smoothing=label_smoothing, margin=margin)
    sft = torch.stack([sft_loss(policy[view]) for view in views]).sum(dim=0)
    return combine(scored, torch.ones_like(sft), sft, steering_coef=1.0, sft_coef=sft_coef, weigh_base=True)


def generator_views(negative: str, terms: Sequence[str]) -> list[View]:
    """Return the views of ``terms``, or raise ValueError if the two settings don't say which."""
    check_choice("negative", negative, NEGATIVE_VIEWS)
    for term in terms:
        check_choice("term", term, TERMS)
    if not terms or len(set(terms)) < len(terms):
        raise ValueError(f"terms must hold 'positive', 'negative' or both, each once, got {tuple(terms)}")
    if negative != "original" and "negative" not in terms:
        raise ValueError(f"negative={negative!r} has no effect with terms={tuple(terms)}: leave one of them out")
    by_term = {"positive": View.POSITIVE, "negative": NEGATIVE_VIEWS[negative]}
    return [by_term[term] for term in terms]
