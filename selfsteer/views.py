"""The three views of a contrast: the only place where chosen and rejected are assigned (paper, section on the loss)."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from selfsteer.records import Contrast


class View(StrEnum):
    """A preference pair under its own prompt. ``NEGATIVE_STRICT`` is Formula 3 of v2, an ablation."""

    BASE = "base"
    POSITIVE = "positive"
    NEGATIVE = "negative"
    NEGATIVE_STRICT = "negative_strict"


class Pairing(NamedTuple):
    """Which prompt a view uses, and which roles are its chosen and rejected responses."""

    prompt: str
    chosen: str
    rejected: str


PAIRINGS: dict[View, Pairing] = {
    View.BASE: Pairing("prompt", "positive", "negative"),  # (x : y+ > y-)
    View.POSITIVE: Pairing("positive_prompt", "positive", "negative"),  # (x+: y+ > y-)
    View.NEGATIVE: Pairing("negative_prompt", "original", "positive"),  # (x-: yo > y+)
    View.NEGATIVE_STRICT: Pairing("negative_prompt", "negative", "positive"),  # (x-: y- > y+)
}

SSO_VIEWS = (View.BASE, View.POSITIVE, View.NEGATIVE)


def harmful_target(contrast: Contrast, view: View) -> bool:
    """Return whether the chosen response of ``view``, what a model would learn to say, is a y- that may do harm.

    That is one flagged as harmful, or of unknown harm (:data:`selfsteer.records.HARM_UNKNOWN`).
    """
    return PAIRINGS[view].chosen == "negative" and bool(contrast.negative_harmful)


# A policy that was trained on means can lower its summed margin by shortening answers, so tables name the scale.
SCALES = {True: "per token", False: "summed"}
"""The names of implicit rewards, by whether they are means per token."""
