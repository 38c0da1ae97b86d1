"""The principle pair of a query (p+, p-) and the system messages that it becomes (PAPER 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from selfsteer.errors import PrincipleError
from selfsteer.principles.principle_set import PrincipleSet, Steering
from selfsteer.principles.prompt_templates import render

Sign = Literal["positive", "negative"]


@dataclasses.dataclass(frozen=True)
class PrinciplePair:
    """p+ and p- for one query. A principle joins those of the aspects, one a line; it is what ``Contrast`` stores."""

    aspects: list[str]
    positive_adjectives: list[str]
    negative_adjectives: list[str]
    positive_principle: str
    negative_principle: str
    steering: Steering = "full"


def pair_for(principle_set: PrincipleSet, aspects: Sequence[str]) -> PrinciplePair:
    """Return the set's own pair for the given aspects, in their order.

    Raises:
        PrincipleError: There is no aspect, one is named twice, or the set does not have it.
    """
    if not aspects or len(set(aspects)) < len(aspects):
        what = f"no principle pair can be made of the aspects {list(aspects)}"
        raise PrincipleError(what, do="name at least one, and each once")
    found = [principle_set.aspect(name) for name in aspects]
    return PrinciplePair(
        aspects=list(aspects),
        positive_adjectives=[aspect.positive for aspect in found],
        negative_adjectives=[aspect.negative for aspect in found],
        positive_principle="\n".join(aspect.positive_principle for aspect in found),
        negative_principle="\n".join(aspect.negative_principle for aspect in found),
        steering=principle_set.steering,
    )


def steering_message(pair: PrinciplePair, sign: Sign) -> str:
    """Return the text that steers a response: it goes to the system role (:func:`selfsteer.principles.steer`)."""
    if sign == "positive":
        adjectives, principle, quality = pair.positive_adjectives, pair.positive_principle, "good"
    else:
        adjectives, principle, quality = pair.negative_adjectives, pair.negative_principle, "bad"
    return render("steer", pair.steering, adjectives=adjectives, principle=principle, quality=quality)
