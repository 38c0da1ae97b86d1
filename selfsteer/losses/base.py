"""The pairwise preference losses l that steering is built on.

A base loss is one function and one line of ``BASE_LOSSES``. What it reads is in its signature: it takes the policy's
log-probs and ``beta``, and names ``reference``, ``label_smoothing`` or ``margin`` where it uses them. A setting that it
does not name is an error when it is not zero, and a reference that it does not name is not needed.

Each returns a ``PairLoss`` whose rewards are beta times the loss's own log-ratio, in nats:

    name    loss                                                     reward of a response
    dpo     -log sigmoid(chosen - rejected)                          beta * (summed policy - summed reference log-prob)
    ln_dpo  -log sigmoid(chosen - rejected)                          beta * (mean policy - mean reference log-prob)
    hinge   max(0, 1 - (chosen - rejected))                          beta * (summed policy - summed reference log-prob)
    ipo     ((chosen - rejected) / beta - 1 / (2 beta))^2            beta * (mean policy - mean reference log-prob)
    simpo   -log sigmoid(chosen - rejected - margin)                 beta * mean policy log-prob
    orpo    -mean_chosen - beta * log sigmoid(log odds ratio)        beta * log odds of the mean policy log-prob

where `chosen` and `rejected` are the two rewards, and a mean is per response token.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsteer.errors import did_you_mean
from selfsteer.logprobs.pairs import PairLogps

CERTAIN = -1e-6
"""Mean log-prob (nats per token) above which ``orpo`` keeps log(1 - p) constant: float32 can't resolve it there."""


class PairLoss(NamedTuple):
    """The result of a base loss, each (B,), in nats where the loss has a unit; rewards are still in the graph."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


def dpo(policy: PairLogps, reference: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> PairLoss:
    """Direct preference optimisation; ``label_smoothing`` is conservative DPO's share of flipped labels."""
    chosen = beta * (policy.chosen - reference.chosen)
    rejected = beta * (policy.rejected - reference.rejected)
    return PairLoss(_logistic(chosen - rejected, label_smoothing), chosen, rejected)  # arXiv 2305.18290, eq. 7


def ln_dpo(policy: PairLogps, reference: PairLogps, *, beta: float) -> PairLoss:
    """Length-normalised DPO: log-ratios are averaged over tokens, so a response weighs no more for being long."""
    chosen = beta * (policy.chosen_mean - reference.chosen_mean)
    rejected = beta * (policy.rejected_mean - reference.rejected_mean)
    return PairLoss(_logistic(chosen - rejected, 0.0), chosen, rejected)  # arXiv 2411.15124 (Tulu 3), its DPO variant


def ipo(policy: PairLogps, reference: PairLogps, *, beta: float) -> PairLoss:
    """Identity preference optimisation; beta is the paper's tau, and log-ratios are averaged over tokens."""
    chosen = policy.chosen_mean - reference.chosen_mean
    rejected = policy.rejected_mean - reference.rejected_mean
    loss = (chosen - rejected - 1 / (2 * beta)) ** 2  # arXiv 2310.12036, eq. 17, on means (as SSO's release and TRL)
    return PairLoss(loss, beta * chosen, beta * rejected)


def hinge(policy: PairLogps, reference: PairLogps, *, beta: float) -> PairLoss:
    """SLiC's rank-calibration hinge with margin 1 (no regulariser), on log-ratios to the reference."""
    chosen = beta * (policy.chosen - reference.chosen)
    rejected = beta * (policy.rejected - reference.rejected)
    loss = F.relu(1 - (chosen - rejected))  # arXiv 2305.10425, eq. 1; normalised by the reference as in 2309.06657
    return PairLoss(loss, chosen, rejected)


def simpo(policy: PairLogps, *, beta: float, label_smoothing: float = 0.0, margin: float = 0.0) -> PairLoss:
    """Simple preference optimisation; ``margin`` is the paper's gamma, in the units of beta times a mean log-prob."""
    chosen, rejected = beta * policy.chosen_mean, beta * policy.rejected_mean  # arXiv 2405.14734, eq. 4
    return PairLoss(_logistic(chosen - rejected - margin, label_smoothing), chosen, rejected)  # eq. 6


def orpo(policy: PairLogps, *, beta: float) -> PairLoss:
    """Odds-ratio preference optimisation; beta is the paper's lambda, and the SFT term is part of the loss."""
    chosen, rejected = _log_odds(policy.chosen_mean), _log_odds(policy.rejected_mean)  # arXiv 2403.07691, eq. 4
    loss = -policy.chosen_mean - beta * F.logsigmoid(chosen - rejected)  # eq. 6 and 7
    return PairLoss(loss, beta * chosen, beta * rejected)


BASE_LOSSES: dict[str, Callable[..., PairLoss]] = {
    "dpo": dpo,
    "ln_dpo": ln_dpo,
    "ipo": ipo,
    "hinge": hinge,
    "simpo": simpo,
    "orpo": orpo,
}


def base_loss(
    name: str,
    policy: PairLogps,
    reference: PairLogps | None,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    margin: float = 0.0,
) -> Tensor:
    """Return the preference loss ``name`` of each pair: (B,) in the dtype of ``policy``; not reduced.

    Args:
        policy: (B,) summed log-probs of both responses under the trained model, nats, with their token counts.
        reference: The same under the reference model; None will do for simpo and orpo, which do not read it.
        beta: Strength of the preference, above 0; each loss's own meaning is in the module's table.
        label_smoothing: Share of labels taken to be flipped, in [0, 0.5); dpo and simpo only.
        margin: SimPO's target margin, at least 0; simpo only.

    Raises:
        ValueError: The name is unknown, a setting is out of range or has no effect in this loss, the reference is
            missing, or policy and reference differ in shape, dtype or response lengths.
    """
    return pair_loss(name, policy, reference, beta=beta, label_smoothing=label_smoothing, margin=margin).loss


def pair_loss(
    name: str, policy: PairLogps, reference: PairLogps | None, *, beta: float, label_smoothing: float, margin: float
) -> PairLoss:
    """Return the loss of ``base_loss`` together with the rewards: same arguments, same errors."""
    inputs = {"reference": reference, "label_smoothing": label_smoothing, "margin": margin}
    if not 0 < beta < math.inf:
        raise ValueError(f"beta must be above 0 and finite, got {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), got {label_smoothing}")
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin must be at least 0 and finite, got {margin}")
    for setting, value in (("label_smoothing", label_smoothing), ("margin", margin)):
        if value and not reads(name, setting):
            users = ", ".join(other for other in BASE_LOSSES if reads(other, setting))
            raise ValueError(f"{setting}={value} has no effect in the base loss {name!r}: it acts in {users} only")
    check_alike({"policy": policy})
    if reads(name, "reference"):
        if reference is None:
            raise ValueError(f"the base loss {name!r} compares with a reference model: pass its log-probs as reference")
        check_alike({"policy": policy, "reference": reference})
        for role in ("chosen_lengths", "rejected_lengths"):
            if (getattr(policy, role) != getattr(reference, role)).any():
                raise ValueError(f"policy and reference differ in {role}: they were scored on other responses")
    read = {key: value for key, value in inputs.items() if reads(name, key)}
    return BASE_LOSSES[name](policy, beta=beta, **read)


def reads(name: str, parameter: str) -> bool:
    """Return whether the base loss ``name`` takes ``parameter``; an unknown name raises ValueError."""
    check_choice("base loss", name, BASE_LOSSES)
    return parameter in inspect.signature(BASE_LOSSES[name]).parameters


def check_choice(what: str, value: str, available: Collection[str]) -> None:
    """Raise ValueError with a suggestion if ``value`` is not one of ``available``."""
    if value not in available:
        raise ValueError(f"unknown {what} {value!r}. {did_you_mean(str(value), available)}")


def check_alike(bundles: Mapping[str, PairLogps]) -> None:
    """Raise ValueError, naming the bundles, if they differ in shape or dtype: neither is broadcast or promoted."""
    shapes = {name: {str(tuple(b.chosen.shape))} for name, b in bundles.items()}
    dtypes = {name: {str(b.chosen.dtype), str(b.rejected.dtype)} for name, b in bundles.items()}
    for what, seen in (("shape", shapes), ("dtype", dtypes)):
        if len(set().union(*seen.values())) > 1:
            shown = ", ".join(f"{name} {' and '.join(sorted(kinds))}" for name, kinds in seen.items())
            raise ValueError(f"log-probs differ in {what}: {shown}")


def _logistic(logits: Tensor, label_smoothing: float) -> Tensor:
    """(B,) -log sigmoid(logits), of which the share ``label_smoothing`` counts with the labels flipped."""
    # Conservative DPO (Mitchell, "A note on DPO with noisy preferences", eq. 3); SimPO's code smooths in the same way
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


def _log_odds(mean_logps: Tensor) -> Tensor:
    """(B,) log p - log(1 - p), nats, for log p = ``mean_logps``; log(1 - p) is clamped, so p = 1 stays finite."""
    return mean_logps - torch.log(-torch.expm1(mean_logps.clamp(max=CERTAIN)))
