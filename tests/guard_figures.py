"""Held-out figures of a policy, made up, for tests of guards."""

from __future__ import annotations

from typing import Any

from selfsteer.confidence_intervals import bootstrap, wilson
from selfsteer.evaluation.guards import RoundFigures

N = 16


def figures(round: int = 1, *, kept: tuple[int, int] | None = None, **changes: Any) -> RoundFigures:
    """A round of 16 held-out queries of which all guards are quiet, with what a test changes."""
    return RoundFigures(round, measures(**changes), kept or ((24, 32) if round else None))


def measures(
    *,
    lengths: list[int] | None = None,
    cut: int = 0,
    positive: list[float] | None = None,
    negative: list[float] | None = None,
    margins: list[float] | None = None,
    right: int = 14,
    tied: int = 0,
    n: int = N,
    looping: int = 0,
    drops: list[float] | None = None,
) -> dict[str, Any]:
    accuracy = right + tied / 2
    return {
        "n": n,
        "length": {"original": {"values": lengths or [100] * n, "capped_share": cut / n}},
        "mean_logps": {
            "positive_response": {"prompt": {"values": positive or [-1.0] * n}},
            "negative_response": {"prompt": {"values": negative or [-1.0] * n}},
        },
        "steering_margin": {"values": margins or [0.2] * n},
        "signal": {"by": "shorter", "accuracy": accuracy / n, "interval": wilson(accuracy, n)},
        "distinct": {"looping": looping},
        "divergence": {"mean": sum(drops) / len(drops), "interval": bootstrap(drops), "n": len(drops)}
        if drops
        else None,
    }
