"""Two baselines in the form of the others: the base view's preference loss alone (PBAA), and SFT on y+."""

from __future__ import annotations

import torch

from selfsteer.logprobs.pairs import PairLogps
from selfsteer.losses.bundle import SSOLoss, combine, sft_loss
from selfsteer.losses.sso import sso_loss
from selfsteer.views import View


def base_view_loss(
    policy: dict[View, PairLogps],
    reference: dict[View, PairLogps] | None,
    *,
    base: str = "ipo",
    beta: float = 0.2,
    sft_coef: float = 0.0,
    label_smoothing: float = 0.0,
    margin: float = 0.0,
) -> SSOLoss:
    """Return l(x: y+ > y-) + s * SFT(y+|x): SSO without G and W, which is PBAA; v2 trains its policy with it.

    The arguments, of which the base view's log-probs alone are read, and the errors are those of :func:`sso_loss`.
    """
    settings = {"base": base, "beta": beta, "label_smoothing": label_smoothing, "margin": margin}
    return sso_loss(policy, reference, **settings, sft_coef=sft_coef, use_weight=False, use_steering=False)  # type: ignore[arg-type]


def supervised_loss(policy: dict[View, PairLogps], reference: dict[View, PairLogps] | None = None) -> SSOLoss:
    """Return SFT(y+|x), minus the mean log-prob per token of the base view's chosen response, nats; no preference.

    The other views and ``reference`` are not read.
    """
    sft = sft_loss(policy[View.BASE])
    return combine({}, torch.ones_like(sft), sft, steering_coef=0.0, sft_coef=1.0, weigh_base=True)
