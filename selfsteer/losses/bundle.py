"""The result of the losses, and the part that SSO and the generator share: several views scored with one base loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfsteer.logprobs.pairs import PairLogps
from selfsteer.losses.base import PairLoss, check_alike, pair_loss, reads
from selfsteer.views import View


@dataclass(frozen=True)
class SSOLoss:
    """A loss and its parts, each (B,), in the dtype of the policy's log-probs; the caller takes the mean of ``loss``.

    The parts are as they entered the loss (in the graph; detach them to log them). A part that is switched off holds
    its neutral value, so that with ``weight_scope="all"`` always
    ``loss = weight * (steering_coef * steering + base) + sft_coef * sft``, and likewise for the other scope.

    Args:
        loss: What to train on.
        base: l of the base view; zeros in ``generator_loss``, which has none.
        steering: Sum of l over the other views used, before ``steering_coef``; zeros without steering.
        weight: W, in [0.5, 1] for log-probs at most 0; ones without the weight and in ``generator_loss``.
        sft: Minus the mean log-prob per token of the chosen response, nats, before ``sft_coef``, whatever ``sft_coef``
            is: of the base view, or summed over the generator's views.
        rewards: (chosen, rejected) rewards of each view that entered the loss, detached: beta times the base loss's
            own log-ratio (the table in ``selfsteer.losses.base``).
        terms: l of each view that entered the loss, detached: before W and the coefficients.
    """

    loss: Tensor
    base: Tensor
    steering: Tensor
    weight: Tensor
    sft: Tensor
    rewards: dict[View, tuple[Tensor, Tensor]]
    terms: dict[View, Tensor]


def score_views(
    policy: Mapping[View, PairLogps],
    reference: Mapping[View, PairLogps] | None,
    views: Sequence[View],
    *,
    base: str,
    beta: float,
    label_smoothing: float,
    margin: float,
) -> dict[View, PairLoss]:
    """Return the base loss and the rewards of each of ``views``; raises as ``base_loss`` does, or if a view is missing.

    A reference is read only by the base losses that compare with one; the others ignore it.
    """
    references: dict[View, PairLogps] = {}
    if reference is not None and reads(base, "reference"):
        references = _pick("reference", reference, views)
    policies = _pick("policy", policy, views)
    named = {"policy": policies, "reference": references}
    check_alike({f"{model}[{view}]": pair for model, pairs in named.items() for view, pair in pairs.items()})
    settings = {"beta": beta, "label_smoothing": label_smoothing, "margin": margin}
    return {view: pair_loss(base, policies[view], references.get(view), **settings) for view in views}


def combine(
    scored: Mapping[View, PairLoss],
    weight: Tensor,
    sft: Tensor,
    *,
    steering_coef: float,
    sft_coef: float,
    weigh_base: bool,
) -> SSOLoss:
    """Add up the losses of the scored views: the base view is l(base), the sum of the others is G; an absent one is 0.

    ``weight`` (B,) is W, or ones, and multiplies l(base) too where ``weigh_base``, else g * G alone; ``sft`` (B,) is
    the SFT loss before its coefficient, nats per token; ``steering_coef`` and ``sft_coef`` are g and s.
    """
    losses = {view: pair.loss for view, pair in scored.items()}
    base = losses.pop(View.BASE, torch.zeros_like(weight))
    steering = torch.stack(list(losses.values())).sum(dim=0) if losses else torch.zeros_like(weight)  # G
    steered = steering_coef * steering
    preference = weight * (steered + base) if weigh_base else weight * steered + base  # arXiv 2410.17131v1, L
    rewards = {view: (pair.chosen_reward.detach(), pair.rejected_reward.detach()) for view, pair in scored.items()}
    terms = {view: pair.loss.detach() for view, pair in scored.items()}
    # Outside W, which weighs the preference: the paper's formula has no SFT term.
    return SSOLoss(preference + sft_coef * sft, base, steering, weight, sft, rewards, terms)


def sft_loss(pair: PairLogps) -> Tensor:
    """(B,) minus the mean log-prob per token of the chosen response, nats: SFT(y_w | x)."""
    return -pair.chosen_mean


def check_coefs(**coefs: float) -> None:
    """Raise ValueError, naming the coefficient, if one is negative or not finite."""
    for name, value in coefs.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {value}")


def _pick(model: str, pairs: Mapping[View, PairLogps], views: Sequence[View]) -> dict[View, PairLogps]:
    """Return the pairs of ``views``, or raise ValueError naming the first that is missing."""
    for view in views:
        if view not in pairs:
            raise ValueError(f"{model} has no log-probs of the view {view.value!r}; it has {[str(v) for v in pairs]}")
    return {view: pairs[view] for view in views}
