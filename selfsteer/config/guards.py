"""The section `guards`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from selfsteer.config.base import Section, Share

GuardAction = Literal["ignore", "warn", "stop", "rollback"]


class _Guard(Section):
    """One guard. It fires where the 95 % interval of its figure lies beyond a threshold as a whole."""

    action: GuardAction | None = None
    """What its firing does (default: what guards.action says)."""


class LengthGuard(_Guard):
    """Length of the plain held-out answers, compared query by query."""

    max_ratio: Annotated[float, Field(gt=1.0)] = 3.0
    """Largest mean length, as a multiple of the start's."""
    max_ratio_per_round: Annotated[float, Field(gt=1.0)] = 1.75
    """Largest mean length, as a multiple of that of the policy the round began from."""
    min_ratio: Share = 0.25
    """Smallest mean length, as a multiple of the start's."""
    max_cut_rise: Share = 0.5
    """How far the share of answers cut off at the token limit, whose length is unknown, may rise above the start's."""


class OnpolicynessGuard(_Guard):
    """On-policyness of y+ and of y-, each by itself."""

    min_ratio: Share = 0.5
    """Smallest on-policyness, as a multiple of the start's."""


class SteeringMarginGuard(_Guard):
    """Steering margin of the held-out pairs, where the start's lies above zero."""

    min_ratio: Share = 0.25
    """Smallest margin, as a multiple of the start's."""


class SignalAccuracyGuard(_Guard):
    """Share of held-out pairs whose y+ is better, by program or else by the judge; ties count half."""

    min_accuracy: Share = 0.5
    """Smallest accuracy, unless the start's is smaller: then the start's."""
    max_drop: Share = 0.25
    """How far it may fall below the start's."""


class KeptGuard(_Guard):
    """Share of a round's training rows that the filters keep."""

    min_ratio: Share = 0.5
    """Smallest share, as a multiple of the first round's."""


class RepetitionGuard(_Guard):
    """Share of plain held-out answers that loop: more than half of their word 4-grams are repeats."""

    max_rise: Share = 0.25
    """How far it may rise above the start's."""


class DivergenceGuard(_Guard):
    """How much less likely the start's plain held-out answers became, nats per token."""

    max_nats: Annotated[float, Field(gt=0.0)] = 1.0


class GuardSettings(Section):
    """What is watched after every round, what happens where something fires, and which policy the run hands out.

    ``ignore``: not checked; ``warn``: a warning; ``stop``: the round is rejected and the run ends; ``rollback``: the
    round is rejected and the next one starts from the last good policy.
    """

    action: GuardAction = "stop"
    best: Literal["last", "signal_accuracy", "implicit_accuracy", "onpolicyness"] = "last"
    """Which of the good rounds' policies is the run's: the last, or the one with the largest held-out figure."""
    length: LengthGuard = LengthGuard()
    onpolicyness: OnpolicynessGuard = OnpolicynessGuard()
    steering_margin: SteeringMarginGuard = SteeringMarginGuard()
    signal_accuracy: SignalAccuracyGuard = SignalAccuracyGuard()
    kept: KeptGuard = KeptGuard()
    repetition: RepetitionGuard = RepetitionGuard()
    divergence: DivergenceGuard = DivergenceGuard()
    not_finite: _Guard = _Guard()
