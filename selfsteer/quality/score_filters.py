"""Filters that use log-probs of the responses under the three prompts."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from selfsteer.errors import ConfigError, InputError
from selfsteer.quality.base import SYMBOLS, Context, Filter
from selfsteer.records import Contrast
from selfsteer.temp_db import Ranked

_STEERED = {  # response -> its own steered prompt, plain prompt, opposite prompt: the order in which m must fall
    "positive_response": ("positive_prompt", "prompt", "negative_prompt"),
    "negative_response": ("negative_prompt", "prompt", "positive_prompt"),
}


class PreferenceOrder(Filter):
    """m(y+|x+) > m(y+|x) > m(y+|x-) and m(y-|x-) > m(y-|x) > m(y-|x+) (paper, section 4, preference filter)."""

    name = "preference_order"
    scored = True
    relax = "take preference_order out: a small model seldom orders all six log-probs"

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the first comparison that fails."""
        for response, prompts in _STEERED.items():
            scores = {prompt: _score(row, self.name, response, prompt) for prompt in prompts}
            for above, below in pairwise(prompts):
                if not scores[above] > scores[below]:
                    return f"{_m(response, above, scores[above])} is not above {_m(response, below, scores[below])}"
        return ""


class Averaged(Filter):
    """Base of the filters whose thresholds are averages over the set, one of y+ and one of y-.

    Attributes:
        thresholds: In place of the averages, e.g. those of an earlier set, from its summary.json:
            {positive_response: -1.2, negative_response: -1.0}, nats per token.
        min: One threshold for both, in place of the averages.
    """

    scored = True
    thresholds: dict[str, float] | None = None
    min: float | None = None

    @field_validator("thresholds")
    @classmethod
    def _are_both(cls, thresholds: dict[str, float] | None) -> dict[str, float] | None:
        if thresholds is not None and thresholds.keys() != _STEERED.keys():
            got = ", ".join(thresholds) or "none"
            what = f"the thresholds of {cls.name} are named {', '.join(_STEERED)}, got {got}"
            raise ConfigError(what, where=f"{cls.name}.thresholds", do=f"give {' and '.join(_STEERED)}")
        return thresholds

    @model_validator(mode="after")
    def _are_given_once(self) -> Self:
        if self.thresholds is not None and self.min is not None:
            where = f"{self.name}.min"
            raise ConfigError(f"{self.name} takes thresholds or min, not both", where=where, do="leave one of them out")
        return self

    @property
    def given(self) -> Mapping[str, float] | None:
        """The thresholds of the settings, in the order of the averages."""
        if self.min is not None:
            return dict.fromkeys(_STEERED, self.min)
        return self.thresholds and {response: self.thresholds[response] for response in _STEERED}

    def fit(self, rows: Iterable[Contrast], context: Context) -> Context | None:
        """Return the averages over the rows."""
        found = averages(map(self.averaged, rows))
        return dataclasses.replace(context, thresholds=found) if found else None

    @property
    def _named(self) -> str:
        return "the average" if self.given is None else "the given threshold"

    def averaged(self, row: Contrast) -> dict[str, float]:
        """Return the numbers whose averages are the thresholds, nats per token."""
        raise NotImplementedError


class NearOnpolicy(Averaged):
    """m(y+|x) and m(y-|x) are each at or above their average over the rows still kept when this filter starts."""

    name = "near_onpolicy"
    relax = "take near_onpolicy out, or give it lower thresholds: without any it compares with the averages of the set"

    def averaged(self, row: Contrast) -> dict[str, float]:
        """Return m of each response under the plain prompt."""
        return {response: _score(row, self.name, response, "prompt") for response in _STEERED}

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the first response below average."""
        for response, average in context.thresholds.items():
            score = _score(row, self.name, response, "prompt")
            if score < average:  # equal passes: of rows that are all alike every one is at the average
                return f"{_m(response, 'prompt', score)} is below {self._named} {average:.4g}"
        return ""


class SteeringGap(Averaged):
    """m(y+|x+)-m(y+|x-) and m(y-|x-)-m(y-|x+) each exceed their average over the rows still kept at the start.

    Strictly, as in the paper: of rows that are all alike, or of a single row, none is left. With ``min: 0`` a
    response has to be likelier under its own principle than under the opposite one, whatever the other rows are like.
    """

    name = "steering_gap"
    relax = "take steering_gap out, or give it lower thresholds: without any it compares with the averages of the set"

    def averaged(self, row: Contrast) -> dict[str, float]:
        """Return the gap of each response."""
        return {response: _gap(row, self.name, response) for response in _STEERED}

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the first response whose gap is too small."""
        for response, average in context.thresholds.items():
            gap = _gap(row, self.name, response)
            if not gap > average:  # strictly, as in the paper
                return f"the gap of {SYMBOLS[response]}, {gap:.4g}, does not exceed {self._named} {average:.4g}"
        return ""


class Margin(Filter):
    """Base of the filters by one number a row: a margin of y+ over y-.

    Attributes:
        min: Least margin; 0 where neither this nor ``top`` is given.
        top: Share of the rows still kept to keep, those with the largest margins; ties at the end are kept.
    """

    what: ClassVar[str]
    min: float | None = None
    top: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.min is not None and self.top is not None:
            where = f"{self.name}.top"
            raise ConfigError(f"{self.name} takes min or top, not both", where=where, do="leave one of them out")
        return self

    @property
    def given(self) -> Mapping[str, float] | None:
        """The least margin, where it is no matter of the set."""
        return None if self.top is not None else {"margin": self.min or 0.0}

    def fit(self, rows: Iterable[Contrast], context: Context) -> Context | None:
        """Return the margin of the last row that is kept."""
        with Ranked() as margins:
            for row in rows:
                margins.add(self.margin(row))
            if not margins.count:
                return None
            last = math.ceil(round((self.top or 0) * margins.count, 9)) - 1  # 0.07 * 100 is above 7
            return dataclasses.replace(context, thresholds={"margin": margins.at(last, descending=True)})

    def reason(self, row: Contrast, context: Context) -> str:
        """State the margin."""
        margin, least = self.margin(row), context.thresholds["margin"]
        return f"{self.what}, {margin:.4g}, is below {least:.4g}" if margin < least else ""

    def margin(self, row: Contrast) -> float:
        """Return the finite number that is compared; a row that lacks it raises :class:`InputError`."""
        raise NotImplementedError


class SteeringMargin(Margin):
    """The steering margin, in nats per token, is too small: the two principles hardly pull the responses apart.

    It says that the prompts matter, not that y+ is better: docs/judging.md found no evidence that it finds right pairs.
    """

    name = "steering_margin"
    what = "the steering margin"
    scored = True
    relax = "lower steering_margin.min, or raise steering_margin.top"

    def margin(self, row: Contrast) -> float:
        """Return the sum of the two gaps."""
        return sum(_gap(row, self.name, response) for response in _STEERED)


class SelfReward(Margin):
    """DLMA's self-reward margin (arXiv 2402.11907) is too small: the steering margin of summed log-probs, in nats."""

    name = "self_reward"
    what = "the self-reward margin"
    scored = True
    relax = "lower self_reward.min, or raise self_reward.top"

    def margin(self, row: Contrast) -> float:
        """Return the sum of the two gaps, each times its response's tokens."""
        for response in _STEERED:
            _gap(row, self.name, response)  # raises, and names a score that is missing
        found = contrastive_likelihood(row)
        if found is None:
            do = "score the rows first (the scores stage keeps the ids), or take steering_margin, which needs no ids"
            raise InputError("filter 'self_reward' needs token ids, to count them", where=f"row {row.id!r}", do=do)
        return found


def averages(figures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each (finite) figure over all rows, as ``statistics.mean`` gives it: exact, then rounded once.

    So equal values do not fall below their mean, as they may with sums of floats.
    """
    sums: dict[str, dict[int, int]] = defaultdict(dict)  # by denominator: powers of two, so few
    count = 0
    for row in figures:
        count += 1
        for name, value in row.items():
            numerator, denominator = value.as_integer_ratio()
            parts = sums[name]
            parts[denominator] = parts.get(denominator, 0) + numerator
    return {name: float(sum(map(Fraction, parts.values(), parts)) / count) for name, parts in sums.items()}


def steering_margin(contrast: Contrast) -> float | None:
    """Return m(y+|x+) - m(y+|x-) + m(y-|x-) - m(y-|x+), nats per token; None where the row lacks these scores.

    A free self-reward: how far the two principles pull the two responses apart.
    """
    gaps = _gaps(contrast)
    return sum(gaps.values()) if gaps else None


def contrastive_likelihood(contrast: Contrast) -> float | None:
    """Return DLMA's self-reward margin (arXiv 2402.11907), nats; None where the row lacks scores or token ids.

    log p(y+|x+) - log p(y+|x-) - (log p(y-|x+) - log p(y-|x-)), each the stored mean times the response's tokens. With
    responses of n+ and n- tokens that is n+ (m(y+|x+) - m(y+|x-)) + n- (m(y-|x-) - m(y-|x+)), where the steering margin
    has 1 in the place of n+ and n-.
    """
    ids = {"positive_response": contrast.positive_token_ids, "negative_response": contrast.negative_token_ids}
    lengths = {response: len(own) for response, own in ids.items() if own is not None}
    gaps = _gaps(contrast)
    return sum(lengths[response] * gap for response, gap in gaps.items()) if gaps and len(lengths) == 2 else None


def _gaps(row: Contrast) -> dict[str, float] | None:
    """Return m(own prompt) - m(opposite prompt) of y+ and y-, nats per token; None where a score is missing."""
    gaps = {}
    for response, (own, _, opposite) in _STEERED.items():
        above, below = _find_score(row, response, own), _find_score(row, response, opposite)
        if above is None or below is None:
            return None
        gaps[response] = above - below
    return gaps


def _find_score(row: Contrast, response: str, prompt: str) -> float | None:
    return ((row.scores or {}).get(response) or {}).get(prompt)


def _score(row: Contrast, name: str, response: str, prompt: str) -> float:
    """Return m(response|prompt); a missing or non-finite one raises and names the filter that needs it."""
    score = _find_score(row, response, prompt)
    if score is None or not math.isfinite(score):
        found = "has no score" if score is None else f"has the score {score}"
        what = f"filter {name!r} needs log-probs, but {response} {found} under {prompt}"
        do = f"score the rows first (the scores stage, with a model that gives log-probs), or take {name} out"
        raise InputError(what, where=f"row {row.id!r}", do=do)
    return score


def _gap(row: Contrast, name: str, response: str) -> float:
    own, _, opposite = _STEERED[response]
    return _score(row, name, response, own) - _score(row, name, response, opposite)


def _m(response: str, prompt: str, score: float) -> str:
    return f"m({SYMBOLS[response]}|{SYMBOLS[prompt]}) = {score:.4g}"
