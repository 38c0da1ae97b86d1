"""Self-Steering Optimization's loss, v1 of arXiv 2410.17131 (the released code's departures are options).

    G = l(x+: y+ > y-) + l(x-: yo > y+)                      steering loss
    W = sigmoid(-(alpha * m(y+|x) + (1 - alpha) * m(y-|x)))  on-policy weight; m = mean log-prob per response token
    L = W * (g * G + l(x: y+ > y-)) + s * SFT(y+|x)          the SFT term (s = 0 in the paper) is outside W, which
                                                             weighs the preference

What the switches leave, with b = l(x: y+ > y-):

    use_steering  use_weight  weight_scope="all"  weight_scope="steering" (the authors' released code)
    yes           yes         W * (g * G + b)     W * g * G + b
    no            yes         W * b               W * b
    yes           no          g * G + b           g * G + b  (the release drops G here)
    no            no          b                   b
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from selfsteer.logprobs.pairs import PairLogps
from selfsteer.losses.base import check_choice
from selfsteer.losses.bundle import SSOLoss, check_coefs, combine, score_views, sft_loss
from selfsteer.views import SSO_VIEWS, View

WEIGHT_SCOPES = ("all", "steering")


def onpolicy_weight(policy: PairLogps, *, alpha: float) -> Tensor:
    """Return W, which is larger the less likely the policy finds its own pair under the plain prompt.

    Args:
        policy: (B,) summed log-probs of y+ (chosen) and y- (rejected) under x, nats: the base view.
        alpha: Share of y+ in the average; ValueError outside [0, 1].

    Returns:
        (B,) weights, at least 1/2 for log-probs at most 0; not reduced, gradients flow through.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"onpolicy_alpha (alpha) must lie in [0, 1], got {alpha}")
    mean = alpha * policy.chosen_mean + (1 - alpha) * policy.rejected_mean
    return torch.sigmoid(-mean)  # arXiv 2410.17131v1, W


def sso_loss(
    policy: dict[View, PairLogps],
    reference: dict[View, PairLogps] | None,
    *,
    base: str = "ipo",
    beta: float = 0.2,
    steering_coef: float = 0.1,
    onpolicy_alpha: float = 0.66,
    use_weight: bool = True,
    use_steering: bool = True,
    weight_scope: Literal["all", "steering"] = "all",
    detach_weight: bool = False,
    sft_coef: float = 0.0,
    label_smoothing: float = 0.0,
    margin: float = 0.0,
) -> SSOLoss:
    """Return SSO's loss of each example and its parts; the module's docstring has the formula and the switches.

    Args:
        policy: (B,) summed log-probs per view, nats: base, and with steering positive and negative. Others are not
            read.
        reference: The same under the reference model; not needed where ``base`` compares with none (simpo, orpo).
        base, beta, label_smoothing, margin: The preference loss l, as ``base_loss`` takes them.
        steering_coef, onpolicy_alpha, sft_coef: g, alpha and s; g and s at least 0, alpha in [0, 1].
        use_weight, use_steering, weight_scope, detach_weight: The ablations; what W multiplies; W without gradient.

    Raises:
        ValueError: As ``base_loss``; or a view is missing, views differ in shape or dtype, a setting has no effect.
    """
    check_choice("weight_scope", weight_scope, WEIGHT_SCOPES)
    check_coefs(steering_coef=steering_coef, sft_coef=sft_coef)
    views = SSO_VIEWS if use_steering else SSO_VIEWS[:1]
    scored = score_views(policy, reference, views, base=base, beta=beta, label_smoothing=label_smoothing, margin=margin)
    if detach_weight and not use_weight:
        raise ValueError("detach_weight=True has no effect with use_weight=False: leave one of them out")
    weight = onpolicy_weight(policy[View.BASE], alpha=onpolicy_alpha)  # checks alpha also where W is switched off
    weight = torch.ones_like(weight) if not use_weight else weight.detach() if detach_weight else weight
    sft = sft_loss(policy[View.BASE])
    coefs = {"steering_coef": steering_coef, "sft_coef": sft_coef}
    return combine(scored, weight, sft, weigh_base=weight_scope == "all" or not use_steering, **coefs)
