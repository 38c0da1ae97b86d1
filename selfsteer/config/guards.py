"""The section `guards`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from selfsteer.config.base import Section, Share

GuardAction = Literal["ignore", "warn", "stop", "rollback"]


class Guard(Section):
    """One guard. It fires where the 95 % interval of its figure lies beyond a threshold as a whole.

    The report shows each one's docstring.
    """

    action: GuardAction | None = None
    """What its firing does (default: guards.action)."""


class LengthGuard(Guard):
    """Plain answers explode, collapse, or run into the token limit.

    They are compared query by query with those of the start and of the policy that the round began from.
    """

    max_ratio: Annotated[float, Field(gt=1.0)] = 3.0
    """Largest mean length, as a multiple of the start's."""
    max_ratio_per_round: Annotated[float, Field(gt=1.0)] = 1.75
    """Largest mean length, as a multiple of that of the policy the round began from."""
    min_ratio: Share = 0.25
    """Smallest mean length, as a multiple of the start's."""
    max_cut_rise: Share = 0.5
    """How far the share of answers cut off at the token limit, whose length is unknown, may rise above the start's."""


class OnpolicynessGuard(Guard):
    """Would the policy write y⁺ and y⁻ without a principle?

    If their tokens are less than half as likely as at the start, its own data no longer teach it much.
    """

    min_ratio: Share = 0.5
    """Smallest on-policyness, as a multiple of the start's."""


class SteeringMarginGuard(Guard):
    """Do the principles still matter? Near zero, nothing distinguishes y⁺ from y⁻."""

    min_ratio: Share = 0.25
    """Smallest margin, as a multiple of the start's."""


class SignalAccuracyGuard(Guard):
    """Is y⁺ still the better response, by a program or else by the judge?"""

    min_accuracy: Share = 0.5
    """Smallest accuracy, unless the start's is smaller: then the start's."""
    max_drop: Share = 0.25
    """How far it may fall below the start's."""


class KeptGuard(Guard):
    """Do the filters still keep rows to train on? Compared with the first round."""

    min_ratio: Share = 0.5
    """Smallest share, as a multiple of the first round's."""


class RepetitionGuard(Guard):
    """Answers of which more than half of the word 4-grams are repeats."""

    max_rise: Share = 0.25
    """How far it may rise above the start's."""


class DivergenceGuard(Guard):
    """How much less likely, per token, the start's own plain answers became.

    It is an estimate of the KL divergence from the start to the policy.
    """

    max_nats: Annotated[float, Field(gt=0.0)] = 1.0


class NotFiniteGuard(Guard):
    """A loss, a gradient, a weight or a held-out figure that is not finite."""


class GuardSettings(Section):
    """The guards that check every round, what happens where one fires, and which policy is the run's.

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
    not_finite: NotFiniteGuard = NotFiniteGuard()
