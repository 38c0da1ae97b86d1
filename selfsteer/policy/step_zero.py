"""Checks before the first optimiser step, when the policy still is its own reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from selfsteer.logprobs import PairLogps
from selfsteer.policy.adapters import is_quantised
from selfsteer.views import View

_TOLERANCE = {"no": 1e-4, "fp16": 0.005, "bf16": 0.02}
"""Largest |policy - reference| mean log-prob before the first step, nats per token, by accelerate's mixed precision.
float16 has three bits of mantissa more than bfloat16."""
_QUANTISED_TOLERANCE = 0.05
"""The same for weights in 4 or 8 bits, whatever the precision around them: they multiply in bfloat16 or int8, and which
activations int8 rounds depends on what else is in the micro-batch."""

_KNOWN: dict[str, tuple[str, Callable[[float], float]]] = {
    "dpo": ("ln 2", lambda beta: math.log(2)),
    "ln_dpo": ("ln 2", lambda beta: math.log(2)),
    "ipo": ("1/(4 beta^2)", lambda beta: 1 / (4 * beta**2)),
    "hinge": ("", lambda beta: 1.0),
}
"""Each base loss's value of a pair on which policy and reference agree, by name and by beta. Smoothing labels does not
change it; simpo and orpo compare with no reference, so they start anywhere."""


def start_tolerance(mixed_precision: str, model: Any) -> float:
    """Return how far, in nats per token, rounding may set the policy apart from its reference before any step."""
    tolerance = _TOLERANCE.get(mixed_precision, _TOLERANCE["bf16"])
    return max(tolerance, _QUANTISED_TOLERANCE) if is_quantised(model) else tolerance


def start_gaps(policy: Mapping[View, PairLogps], reference: Mapping[View, PairLogps]) -> Tensor:
    """Return (V,): each view's largest |policy - reference| of a response's mean log-prob, nats per token."""
    gaps = []
    for view, pair in policy.items():
        chosen = pair.chosen_mean - reference[view].chosen_mean
        rejected = pair.rejected_mean - reference[view].rejected_mean
        # The largest gap, not the mean: one wrong row of a batch must show.
        gaps.append(torch.stack([chosen, rejected]).detach().abs().max())
    return torch.stack(gaps)


def start_line(base_loss: str, beta: float, terms: Mapping[str, float]) -> str:
    """Return the sentence on the unweighted ``terms`` of step 0, by view; "" where their value is not known before."""
    if base_loss not in _KNOWN:
        return ""
    formula, value = _KNOWN[base_loss]
    means = ", ".join(f"{view} {mean:.5g}" for view, mean in terms.items())
    expected = f"{formula} = {value(beta):.5g}" if formula else f"{value(beta):.5g}"
    return f"step 0: {base_loss} {means} ({expected} expected)"
