"""Filters that judge a row by its own texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal

from pydantic import Field, field_validator

from selfsteer.errors import ConfigError, did_you_mean
from selfsteer.language_id import language
from selfsteer.quality import leak
from selfsteer.quality.base import ALL_ROLES, SYMBOLS, Context, Filter, Role
from selfsteer.quality.direction import DIRECTIONS, direction_of, pair_lengths
from selfsteer.quality.refusals import phrases_fingerprint, refusal
from selfsteer.records import Contrast

_RUN, _MIN_RUNS = 12, 60  # characters in a run, and runs that a text needs before a share of them means anything


class Empty(Filter):
    """A response holds nothing. Part of every configuration: a mean log-prob of no token does not exist."""

    name = "empty"
    relax = "check the generation settings: the model's responses are empty"

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the empty responses."""
        empty = [f"{role} response" for role in row.roles if not getattr(row, f"{role}_response").strip()]
        return f"no text in the {' and the '.join(empty)}" if empty else ""


class Identical(Filter):
    """Two of the responses are equal but for white space (paper, section 4, cleaning)."""

    name = "identical"
    relax = "sample at a higher temperature, or use principles that differ more"

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the first pair that is equal."""
        texts: dict[str, list[str]] = {role: getattr(row, f"{role}_response").split() for role in row.roles}
        for one, other in combinations(row.roles, 2):
            if texts[one] == texts[other]:
                return f"{SYMBOLS[f'{one}_response']} equals {SYMBOLS[f'{other}_response']}"
        return ""


class Leak(Filter):
    """y+ or y- gives away its principle; the signs are described in :mod:`selfsteer.quality.leak`.

    Attributes:
        ngram: Consecutive words repeated from the principle or the steering message that count as a leak.
        share: Share of the principle's 4-grams, scattered, that counts as a leak.
        self_reference: Whether to search for "as a concise assistant", "the guidelines I follow" and the like.
    """

    name = "leak"
    relax = "raise leak.ngram or leak.share, or ask more firmly in the steering template not to reveal the principles"
    ngram: int = Field(default=8, ge=4, le=1000)
    share: float = Field(default=0.6, gt=0, le=1)
    self_reference: bool = True

    def reason(self, row: Contrast, context: Context) -> str:
        """Quote what leaked. The original response has no instructions, so it has nothing to leak."""
        for role in ("positive", "negative"):  # yo was sampled without principles
            steered: Iterable[dict[str, str]] = getattr(row, f"{role}_prompt")
            guidance = leak.Guidance(
                principle=getattr(row, f"{role}_principle"),
                system=tuple(message["content"] for message in steered if message["role"] == "system"),
                query=tuple(message["content"] for message in row.prompt),
                adjectives=tuple(word for aspect in row.aspects for word in context.adjectives.get(aspect, ())),
            )
            why = self._leak(getattr(row, f"{role}_response"), guidance)
            if why:
                return f"{SYMBOLS[f'{role}_response']} {why}"
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
        return f"refers to its instructions: {phrase!r}" if phrase else ""


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


class Truncated(Filter):
    """A response ran into its length limit."""

    name = "truncated"
    relax = "raise the limit of new tokens, or name fewer responses in truncated.roles"
    roles: tuple[Role, ...] = Field(default=ALL_ROLES, min_length=1)

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the cut-off responses."""
        cut = [SYMBOLS[f"{role}_response"] for role in self.roles if getattr(row, f"{role}_finish") == "length"]
        return f"{' and '.join(cut)} ran into the length limit" if cut else ""


class Repetition(Filter):
    """A response loops: too many of its word 4-grams are repeats of earlier ones.

    Where there are too few words to judge by ("哈哈哈哈", "!!!!", scripts without spaces), its runs of 12 characters
    are counted in their place, once there are 60 of them.

    Attributes:
        max_share: Largest share of repeated 4-grams (1 - distinct / all). Plain prose stays under about 0.1.
        min_ngrams: A response with fewer 4-grams has too few words to judge by.
    """

    name = "repetition"
    relax = "raise repetition.max_share, or sample at a higher temperature"
    max_share: float = Field(default=0.5, ge=0, lt=1)
    min_ngrams: int = Field(default=12, ge=1)
    roles: tuple[Role, ...] = Field(default=ALL_ROLES, min_length=1)

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the first response that loops."""
        for role in self.roles:
            text = getattr(row, f"{role}_response")
            grams: Sequence[object] = leak.ngrams(text, 4)
            least, unit = self.min_ngrams, "4-grams"
            if len(grams) < least:
                packed = "".join(text.split())
                grams = [packed[start : start + _RUN] for start in range(len(packed) - _RUN + 1)]
                least, unit = _MIN_RUNS, f"runs of {_RUN} characters"
            share = 1 - len(set(grams)) / len(grams) if len(grams) >= least else 0.0
            if share > self.max_share:
                return f"{share:.0%} of the {unit} of {SYMBOLS[f'{role}_response']} are repeats"
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


class RefusalMismatch(Filter):
    """One of y+ and y- refuses and the other does not: the pair would teach refusing, or not refusing, alone.

    What counts as a refusal is described in :mod:`selfsteer.quality.refusals`.

    Attributes:
        drop: Which mismatch is dropped: "positive" where y+ refuses and y- does not, "negative" the other way, "any".
        except_aspects: Rows that are steered along one of these pass: there a refusal may be the point. None: Safety
            and every aspect whose negative principle asks for harm.
    """

    name = "refusal_mismatch"
    relax = (
        "name only one kind of mismatch in refusal_mismatch.drop, or more aspects in refusal_mismatch.except_aspects"
    )
    drop: Literal["any", "positive", "negative"] = "any"
    except_aspects: tuple[str, ...] | None = None

    @property
    def content(self) -> str:
        """Names the phrases that refuse."""
        return phrases_fingerprint()

    def reason(self, row: Contrast, context: Context) -> str:
        """Quote the refusal."""
        passing = ("Safety", *context.harmful) if self.except_aspects is None else self.except_aspects
        if not set(row.aspects).isdisjoint(passing):
            return ""
        found = {role: refusal(getattr(row, f"{role}_response")) for role in ("positive", "negative")}
        who = [role for role, words in found.items() if words]
        if len(who) != 1 or self.drop not in ("any", who[0]):
            return ""
        one, other = ("y+", "y-") if who[0] == "positive" else ("y-", "y+")
        return f"{one} refuses ({found[who[0]]!r}), {other} does not"


class LanguageMismatch(Filter):
    """A response is in another language than the query's last turn, where both are certain.

    A query that names a language ("in Spanish", "translate this") passes: it may ask for another language.
    """

    name = "language_mismatch"
    relax = "name fewer responses in language_mismatch.roles, or take language_mismatch out"
    roles: tuple[Role, ...] = Field(default=ALL_ROLES, min_length=1)

    def reason(self, row: Contrast, context: Context) -> str:
        """Name the two languages."""
        query = row.prompt[-1]["content"]
        asked = None if _LANGUAGES.search(query) else language(query)
        if asked is None:
            return ""
        for role in self.roles:
            found = language(getattr(row, f"{role}_response"))
            if found not in (None, asked):
                return f"{SYMBOLS[f'{role}_response']} is in the language {found!r}, the query in {asked!r}"
        return ""


_LANGUAGES = re.compile(
    r"\btransl|\btraduc|\btradui|\btraduz|übersetz|\bvertaal|перевед|翻译|翻譯|翻訳|번역|ترجم|\blanguage|\bsprache|\bidioma|\blangue\b"
    r"|\b(?:arabic|bengali|catalan|chinese|czech|danish|dutch|english|finnish|french|german|greek|hebrew|hindi|hungarian"
    r"|indonesian|irish|italian|japanese|korean|latin|malay|mandarin|norwegian|persian|polish|portuguese|romanian|russian"
    r"|spanish|swahili|swedish|tamil|thai|turkish|ukrainian|urdu|vietnamese|welsh"
    r"|englisch|deutsch|französisch|spanisch|anglais|allemand|français|espagnol|inglés|alemán|francés|español|inglese"
    r"|tedesco|francese|spagnolo|inglês|alemão|francês|espanhol)",
    re.IGNORECASE,
)
