"""Named filters over contrasts (paper, section 4), how they are configured, and how their counts are read.

A new filter is one class and one line in :data:`FILTERS`; :mod:`selfsteer.quality.chain` runs them.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from selfsteer.errors import ConfigError, InputError, did_you_mean
from selfsteer.quality import leak
from selfsteer.quality.direction import DIRECTIONS, direction_of, pair_lengths
from selfsteer.records import Contrast

FilterSpec = str | Mapping[str, Any]
"""One configuration entry: ``"leak"`` or ``{"direction": {"program": "shorter", "min_ratio": 0.9}}``."""

Role = Literal["positive", "negative", "original"]
_ALL_ROLES: tuple[Role, ...] = ("positive", "negative", "original")
KEPT, DROPPED_BEFORE = "kept", "dropped_before"
_SYMBOLS = {
    "positive_response": "y+",
    "negative_response": "y-",
    "original_response": "yo",
    "prompt": "x",
    "positive_prompt": "x+",
    "negative_prompt": "x-",
}
_STEERED = {  # response -> its own steered prompt, plain prompt, opposite prompt: the order in which m must fall
    "positive_response": ("positive_prompt", "prompt", "negative_prompt"),
    "negative_response": ("negative_prompt", "prompt", "positive_prompt"),
}


@dataclasses.dataclass(frozen=True)
class Context:
    """What a filter knows besides the row: adjectives by aspect, and its own thresholds as fitted to the set."""

    adjectives: Mapping[str, Sequence[str]]
    thresholds: Mapping[str, float]


class Filter(BaseModel):
    """Base of the filters; the fields of a subclass are its settings.

    Attributes:
        name: Its name in a recipe.
        relax: What to change where it drops too much.
        scored: Whether it goes by log-probs, so that rows without scores can't pass it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: ClassVar[str]
    relax: ClassVar[str]
    scored: ClassVar[bool] = False

    def averaged(self, row: Contrast) -> dict[str, float]:
        """Return the numbers (nats per token) whose averages over the rows still kept are this filter's thresholds.

        A filter that defines it costs a pass over the set before the first row is filtered.
        """
        return {}

    def reason(self, row: Contrast, context: Context) -> str:
        """Return why ``row`` must be dropped, "" where it passes."""
        raise NotImplementedError


class Empty(Filter):
    """A response holds nothing. Part of every configuration: a mean log-prob of no token does not exist."""

    name = "empty"
    relax = "look at the generation settings: the model answers with nothing"

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the empty responses."""
        empty = [f"{role} response" for role in row.roles if not getattr(row, f"{role}_response").strip()]
        return f"no text in the {' and the '.join(empty)}" if empty else ""


class Identical(Filter):
    """Two of the three responses are equal but for white space (paper, section 4, cleaning)."""

    name = "identical"
    relax = "sample at a higher temperature, or use principles that differ more"

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the first pair that is equal."""
        texts: dict[str, list[str]] = {role: getattr(row, f"{role}_response").split() for role in row.roles}
        for one, other in combinations(row.roles, 2):
            if texts[one] == texts[other]:
                return f"{_SYMBOLS[f'{one}_response']} equals {_SYMBOLS[f'{other}_response']}"
        return ""


class Leak(Filter):
    """y+ or y- gives away its principle; the signs are described in :mod:`selfsteer.quality.leak`.

    Attributes:
        ngram: Consecutive words repeated from the principle or the steering message that count as a leak.
        share: Share of the principle's 4-grams, scattered, that counts as a leak.
        self_reference: Whether to look for "as a concise assistant", "the guidelines I follow" and the like.
    """

    name = "leak"
    relax = "raise leak.ngram or leak.share, or ask more firmly in the steering template not to reveal the principles"
    ngram: int = Field(default=8, ge=4)
    share: float = Field(default=0.6, gt=0, le=1)
    self_reference: bool = True

    def reason(self, row: Contrast, context: Context) -> str:
        """Quote what leaked. The original response was told nothing, so it has nothing to leak."""
        for role in ("positive", "negative"):
            why = self._leak(getattr(row, f"{role}_response"), _guidance(row, role, context))
            if why:
                return f"{_SYMBOLS[f'{role}_response']} {why}"
        return ""

    def _leak(self, text: str, guidance: leak.Guidance) -> str:
        if label := leak.surviving_label(text, guidance):
            return f"carries the label {label!r}"
        if run := leak.repeated_run(text, guidance, self.ngram):
            return f"repeats its instructions: {run!r}"
        share = leak.repeated_share(text, guidance)
        if share >= self.share:
            return f"repeats {share:.0%} of its principle's {leak.SHARE_NGRAM}-grams (leak.share {self.share:g})"
        phrase = leak.self_reference(text, guidance) if self.self_reference else ""
        return f"speaks of its instructions: {phrase!r}" if phrase else ""


class DirectionFilter(Filter):
    """A program must find that y+ differs from y- of the same row the right way; ties fail.

    Attributes:
        program: A name of :data:`selfsteer.quality.DIRECTIONS`.
        min_ratio: The shorter of the two is at most this share of the longer one; None asks for any difference.
    """

    name = "direction"
    relax = "raise or remove direction.min_ratio, or take direction out"
    program: str
    min_ratio: float | None = Field(default=None, gt=0, le=1)

    @field_validator("program")
    @classmethod
    def _is_known(cls, program: str) -> str:
        if program not in DIRECTIONS:
            hint = did_you_mean(program, DIRECTIONS)
            raise ConfigError(f"unknown direction program {program!r}", where="direction.program", do=hint)
        return program

    def reason(self, row: Contrast, context: Context) -> str:
        """State the two lengths."""
        sign, lengths = direction_of(self.program, row), pair_lengths(row)
        seen = f"y+ has length {lengths[0]}, y- {lengths[1]}"
        if sign <= 0:
            return f"not {self.program}: {seen}{'' if sign else ' (a tie, or cut off)'}"
        if self.min_ratio is not None and min(lengths) > self.min_ratio * max(lengths):
            return f"{self.program} by too little (direction.min_ratio {self.min_ratio:g}): {seen}"
        return ""


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


class NearOnpolicy(Filter):
    """m(y+|x) and m(y-|x) are each at or above their average over the rows still kept when this filter starts."""

    name = "near_onpolicy"
    scored = True
    relax = "take near_onpolicy out, or generate more rows: its thresholds are the set's own averages"

    def averaged(self, row: Contrast) -> dict[str, float]:
        """Return m of each response under the plain prompt."""
        return {response: _score(row, self.name, response, "prompt") for response in _STEERED}

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the first response below average."""
        for response, average in context.thresholds.items():
            score = _score(row, self.name, response, "prompt")
            if score < average:
                return f"{_m(response, 'prompt', score)} is below the average {average:.4g}"
        return ""


class SteeringGap(Filter):
    """m(y+|x+)-m(y+|x-) and m(y-|x-)-m(y-|x+) each exceed their average over the rows still kept at the start.

    Strictly, as in the paper: of rows that are all alike, or of a single row, none is left.
    """

    name = "steering_gap"
    scored = True
    relax = "take steering_gap out, or generate more rows: its thresholds are the set's own averages"

    def averaged(self, row: Contrast) -> dict[str, float]:
        """Return the gap of each response."""
        return {response: _gap(row, self.name, response) for response in _STEERED}

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the first response whose gap is too small."""
        for response, average in context.thresholds.items():
            gap = _gap(row, self.name, response)
            if not gap > average:
                return f"the gap of {_SYMBOLS[response]}, {gap:.4g}, does not exceed the average {average:.4g}"
        return ""


class Truncated(Filter):
    """A response ran into its length limit.

    Attributes:
        roles: The responses that must have ended by themselves.
    """

    name = "truncated"
    relax = "raise the limit of new tokens, or name fewer responses in truncated.roles"
    roles: tuple[Role, ...] = Field(default=_ALL_ROLES, min_length=1)

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the cut-off responses."""
        cut = [_SYMBOLS[f"{role}_response"] for role in self.roles if getattr(row, f"{role}_finish") == "length"]
        return f"{' and '.join(cut)} ran into the length limit" if cut else ""


class Repetition(Filter):
    """A response loops: too many of its word 4-grams are repeats of earlier ones.

    Attributes:
        max_share: Largest share of repeated 4-grams (1 - distinct / all). Plain prose stays under about 0.1.
        min_ngrams: A response with fewer 4-grams is too short to judge.
        roles: The responses that are looked at.
    """

    name = "repetition"
    relax = "raise repetition.max_share, or sample at a higher temperature"
    max_share: float = Field(default=0.5, ge=0, lt=1)
    min_ngrams: int = Field(default=12, ge=1)
    roles: tuple[Role, ...] = Field(default=_ALL_ROLES, min_length=1)

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the first response that loops."""
        for role in self.roles:
            grams = leak.ngrams(getattr(row, f"{role}_response"), 4)
            share = 1 - len(set(grams)) / len(grams) if grams else 0.0
            if len(grams) >= self.min_ngrams and share > self.max_share:
                return f"{share:.0%} of the 4-grams of {_SYMBOLS[f'{role}_response']} are repeats"
        return ""


class LengthRatio(Filter):
    """The longer of y+ and y- is too many times as long as the other (tokens where there are ids, else words).

    Attributes:
        max_ratio: Largest ratio of the longer to the shorter.
    """

    name = "length_ratio"
    relax = "raise length_ratio.max_ratio"
    max_ratio: float = Field(default=4.0, ge=1)

    def reason(self, row: Contrast, context: Context) -> str:
        """State the two lengths."""
        positive, negative = pair_lengths(row)
        if max(positive, negative) > self.max_ratio * max(1, min(positive, negative)):
            return f"y+ has length {positive}, y- {negative} (length_ratio.max_ratio {self.max_ratio:g})"
        return ""


FILTERS: dict[str, type[Filter]] = {
    "empty": Empty,
    "identical": Identical,
    "leak": Leak,
    "direction": DirectionFilter,
    "truncated": Truncated,
    "repetition": Repetition,
    "length_ratio": LengthRatio,
    "preference_order": PreferenceOrder,
    "near_onpolicy": NearOnpolicy,
    "steering_gap": SteeringGap,
}


@dataclasses.dataclass(frozen=True)
class FilterReport:
    """What filtering did.

    Attributes:
        rows: All rows, in the order and number given; a dropped one has ``kept=False`` and its ``drop_reason``.
        counts: Rows dropped by each filter, in order, then those "kept"; rows that came in dropped are counted first,
            as "dropped_before", where there are any. The values add up to the number of rows.
        thresholds: What the filters fitted to the set, "filter.response": nats per token.
    """

    rows: list[Contrast]
    counts: dict[str, int]
    thresholds: dict[str, float]

    @property
    def kept(self) -> list[Contrast]:
        """The rows that survived."""
        return [row for row in self.rows if row.kept]


def parse_filters(spec: Sequence[FilterSpec | Filter]) -> list[Filter]:
    """Return the filters that ``spec`` names, ``empty`` first (added where it is missing).

    Raises:
        ConfigError: A name or a setting is unknown, a value is out of range, or a filter is named twice.
    """
    if isinstance(spec, str | Mapping):
        raise ConfigError("filters must be a list", where="filters", do=f"write [{spec!r}] for a single filter")
    parsed = [_parse(entry, f"filters[{i}]") for i, entry in enumerate(spec)]
    names = [step.name for step in parsed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"named twice: {', '.join(twice)}", where="filters", do="name each filter once")
    return [Empty(), *(step for step in parsed if step.name != "empty")]


def averages(figures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over all rows, as ``statistics.mean`` gives it: exact, then rounded once.

    So equal values do not fall below their mean, as they may with sums of floats.

    Args:
        figures: Finite values by name, the same names for each row.
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
    cells = [
        (_find_score(contrast, response, own), _find_score(contrast, response, opposite))
        for response, (own, _, opposite) in _STEERED.items()
    ]
    gaps = [own - opposite for own, opposite in cells if own is not None and opposite is not None]
    return sum(gaps) if len(gaps) == len(cells) else None


def counts_table(counts: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Return (filter, rows dropped, rows left) in order, from the ``counts`` of a :class:`FilterReport`."""
    left, table = sum(counts.values()), []
    for name, dropped in _drops(counts).items():
        left -= dropped
        table.append((name, dropped, left))
    return table


def advice(counts: Mapping[str, int]) -> str:
    """Return what to relax if nothing survived; "" where a row did."""
    if counts.get(KEPT):
        return ""
    drops = _drops(counts)
    worst = max(drops, key=lambda name: drops[name], default="")
    if not worst or not drops[worst]:
        return "no row reached quality control: look at the stages before it"
    if worst == DROPPED_BEFORE:
        return f"{drops[worst]} rows were dropped before quality control: read their drop_reason"
    return f"{worst!r} dropped most ({drops[worst]} of {sum(counts.values())} rows): {FILTERS[worst].relax}"


def _drops(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name != KEPT}


def _parse(entry: FilterSpec | Filter, where: str) -> Filter:
    if isinstance(entry, Filter):
        return entry
    name, settings = _name_and_settings(entry, where)
    if name not in FILTERS:
        raise ConfigError(f"unknown filter {name!r}", where=where, do=did_you_mean(name, FILTERS))
    try:
        return FILTERS[name].model_validate(settings)
    except ValidationError as error:
        raise _config_error(FILTERS[name], error, f"{where}.{name}") from error


def _name_and_settings(entry: object, where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, settings),) = entry.items()
        if settings is None or isinstance(settings, Mapping):  # YAML writes "leak:" with nothing after it as None
            return str(name), dict(settings or {})
    raise ConfigError(f"can't read the filter {entry!r}", where=where, do="write a name, or {name: {setting: value}}")


def _config_error(kind: type[Filter], error: ValidationError, where: str) -> ConfigError:
    first = error.errors()[0]
    setting = ".".join(map(str, first["loc"]))
    where = f"{where}.{setting}"
    if first["type"] != "extra_forbidden":
        return ConfigError(f"filter {kind.name!r}: {first['msg']}", where=where, do=f"set {setting} to a valid value")
    hint = did_you_mean(setting, kind.model_fields) if kind.model_fields else f"{kind.name!r} has no settings"
    return ConfigError(f"filter {kind.name!r} has no setting {setting!r}", where=where, do=hint)


def _guidance(row: Contrast, role: str, context: Context) -> leak.Guidance:
    steered: Iterable[dict[str, str]] = getattr(row, f"{role}_prompt")
    return leak.Guidance(
        principle=getattr(row, f"{role}_principle"),
        system=tuple(message["content"] for message in steered if message["role"] == "system"),
        query=tuple(message["content"] for message in row.prompt),
        adjectives=tuple(word for aspect in row.aspects for word in context.adjectives.get(aspect, ())),
    )


def _find_score(row: Contrast, response: str, prompt: str) -> float | None:
    return ((row.scores or {}).get(response) or {}).get(prompt)


def _score(row: Contrast, name: str, response: str, prompt: str) -> float:
    """Return m(response|prompt); a missing or non-finite one raises and names the filter that needs it."""
    score = _find_score(row, response, prompt)
    if score is None or not math.isfinite(score):
        found = "has no score" if score is None else f"has the score {score}"
        raise InputError(
            f"filter {name!r} needs log-probs, but {response} {found} under {prompt}",
            where=f"row {row.id!r}",
            do=f"score the rows first (the scores stage, with a model that gives log-probs), or take {name} out",
        )
    return score


def _gap(row: Contrast, name: str, response: str) -> float:
    own, _, opposite = _STEERED[response]
    return _score(row, name, response, own) - _score(row, name, response, opposite)


def _m(response: str, prompt: str, score: float) -> str:
    return f"m({_SYMBOLS[response]}|{_SYMBOLS[prompt]}) = {score:.4g}"
