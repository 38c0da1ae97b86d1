"""Principle sets: the aspects of quality that answers are steered along, and how to choose among them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from selfsteer.errors import PrincipleError, did_you_mean
from selfsteer.files import fingerprint
from selfsteer.limits import LARGEST

Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Steering = Literal["full", "relative", "direct", "adjectives"]
_NAME = re.compile(r"[^\W_]([\w &/'-]*[^\W_])?")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Aspect(_Part):
    """One aspect of quality, with the two principles that steer along it."""

    name: Text
    positive: Text
    """Adjective for an answer that is good in this aspect, e.g. "accurate"."""
    negative: Text
    meaning: Text
    """What a good answer does, in the third person: the chooser reads "Accuracy: states facts correctly"."""
    positive_principle: Text
    negative_principle: Text
    direction: Text | None = None
    """Name of a program that says which way y+ must differ from y- in this aspect (default: the set's)."""
    extra: bool = False
    """Never chosen, but added to a share of the queries (v1: Concision, to 20 %)."""
    harmful_negative: bool = False
    """The negative principle asks for what may do harm, so every y- steered along this aspect is flagged as harmful."""


class Example(_Part):
    """A query that shows the chooser which aspects matter for it, the most important first."""

    query: Text
    aspects: list[str] = Field(min_length=1)


class PrincipleSet(_Part):
    """A named set of aspects. :func:`selfsteer.principles.load_set` reads one from YAML."""

    name: Text
    version: Positive
    description: str = ""
    direction: Text | None = None
    """Name of a program that says which way y+ must differ from y-, e.g. "shorter"."""
    aspects_per_query: Positive
    steering: Steering = "full"
    """"full": adjectives, principles, a request not to reveal them (the paper's); "relative": the same, with
    "relatively good" or "bad" for the adjectives (v2's code); "direct": the principles alone; "adjectives": the
    adjectives alone, as RLCD steers."""
    fallback: list[str] = []
    """Aspects for a query for which the model named none, the first choice first (default: the order of the set)."""
    aspects: list[Aspect]
    few_shot: list[Example] = []

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name what reaches a model: no description, no layout of the file, no flags of harm."""
        # A flag of harm reaches no prompt, and is not worth sampling everything again; the contrasts are keyed by it.
        return fingerprint(self.model_dump(exclude={"description": True, "aspects": {"__all__": {"harmful_negative"}}}))

    @property
    def choosable(self) -> list[Aspect]:
        """The aspects to choose from: all but the extra ones."""
        return [aspect for aspect in self.aspects if not aspect.extra]

    @property
    def extras(self) -> list[Aspect]:
        """The aspects that are added to a share of the queries."""
        return [aspect for aspect in self.aspects if aspect.extra]

    @property
    def harmful(self) -> list[str]:
        """Names of the aspects whose negative principle asks for harm."""
        return [aspect.name for aspect in self.aspects if aspect.harmful_negative]

    @property
    def adjectives(self) -> dict[str, tuple[str, str]]:
        """The positive and the negative adjective of each aspect."""
        return {aspect.name: (aspect.positive, aspect.negative) for aspect in self.aspects}

    def direction_of(self, aspects: Sequence[str]) -> str | None:
        """Return the direction program of a row: that of its only aspect, or the set's.

        A row that is steered along several aspects at once has no single aspect's program. One without aspects follows
        a guideline that was written for it, about which the set says nothing.
        """
        if not aspects:
            return None
        own = self.aspect(aspects[0]).direction if len(aspects) == 1 else None
        return own or self.direction

    def aspect(self, name: str) -> Aspect:
        """Return an aspect by its exact name; :class:`PrincipleError` if the set has none of that name."""
        for aspect in self.aspects:
            if aspect.name == name:
                return aspect
        do = did_you_mean(name, [aspect.name for aspect in self.aspects])
        raise PrincipleError(f"{name!r} is no aspect of the principle set {self.name!r}", do=do)

    @model_validator(mode="after")
    def _check(self) -> PrincipleSet:
        for at, what, do in _problems(self):
            raise PydanticCustomError("principle_set", "{what}", {"what": what, "do": do, "at": at})
        return self


Problem = tuple[tuple[str | int, ...], str, str]
"""Where in the set, what is wrong, what to do."""


def _problems(principles: PrincipleSet) -> Iterator[Problem]:
    seen: set[str] = set()
    for i, aspect in enumerate(principles.aspects):
        if not _NAME.fullmatch(aspect.name):
            do = "use a word or a short phrase of letters, digits, blanks and hyphens"
            yield ("aspects", i, "name"), f"{aspect.name!r} can't be an aspect's name", do
        if aspect.name.casefold() in seen:
            yield ("aspects", i, "name"), f"two aspects have the name {aspect.name!r}", "give each a name of its own"
        seen.add(aspect.name.casefold())
        for good, bad in (("positive", "negative"), ("positive_principle", "negative_principle")):
            if getattr(aspect, good).casefold() == getattr(aspect, bad).casefold():
                what = f"{good} and {bad} of {aspect.name!r} are the same"
                yield ("aspects", i, bad), what, "equal ones steer nowhere: make them opposites"
    choosable = [aspect.name for aspect in principles.choosable]
    count = principles.aspects_per_query
    if count > len(choosable):
        what = f"aspects_per_query is {count}, but there are only {len(choosable)} aspects to choose from"
        yield ("aspects_per_query",), what, "lower it, or add aspects (those with extra: true are not chosen)"
    yield from _reference_problems(("fallback",), principles.fallback, choosable)
    for i, example in enumerate(principles.few_shot):
        yield from _reference_problems(("few_shot", i, "aspects"), example.aspects, choosable)


def _reference_problems(at: tuple[str | int, ...], names: Sequence[str], choosable: Sequence[str]) -> Iterator[Problem]:
    for i, name in enumerate(names):
        if name not in choosable:
            yield (*at, i), f"{name!r} is no aspect that can be chosen", did_you_mean(name, choosable)
        if name in names[:i]:
            yield (*at, i), f"{name!r} is named twice", "name each aspect once"
