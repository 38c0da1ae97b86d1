"""The sections `queries` and `preferences`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from selfsteer.config.base import MAX_LEFT_OUT, Natural, Positive, Section, Share, conflict


class BenchmarkSettings(Section):
    """A benchmark whose questions no query may repeat. A string is short for ``{source: STRING}``."""

    source: str
    """A source as of ``queries``."""
    field: str | None = None
    """The column that holds the question: text, a list of texts or messages (default: a known name)."""
    dataset_split: str = "train"
    """The split of a hub data set."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


class SourceSettings(Section):
    """Where queries come from."""

    source: str = "builtin:quickstart"
    """JSONL, JSON, Parquet, Arrow, CSV or text file, a folder of them, hub data set, or a built-in set."""
    field: str | None = None
    dataset_split: str = "train"
    limit: Positive | None = None
    """Take the first so many that are there; the checks come after that."""
    max_left_out: Share = MAX_LEFT_OUT
    """Stop where a larger share of rows can't be used: malformed, of no known form, refused by the chat template."""


class CheckSettings(Section):
    """Which queries are left out of those to train on (or to grow from)."""

    min_chars: Positive | None = None
    max_chars: Positive | None = None
    near_duplicates: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Leave out what is at least this similar to an earlier query."""
    decontaminate: list[BenchmarkSettings] = []
    """Benchmarks: queries that share a run of words with one of them are left out."""
    decontaminate_ngram: Annotated[int, Field(ge=2, le=1000)] | None = None
    """How many words in a row (default: 13)."""

    @model_validator(mode="after")
    def _acting(self) -> CheckSettings:
        if self.min_chars and self.max_chars and self.min_chars > self.max_chars:
            raise conflict(f"min_chars {self.min_chars} is more than max_chars {self.max_chars}", "min_chars")
        if self.decontaminate_ngram and not self.decontaminate:
            raise conflict("decontaminate_ngram needs benchmarks: set decontaminate", "decontaminate_ngram")
        return self


_CHECKS = {*CheckSettings.model_fields, "languages"}


class QuerySettings(CheckSettings, SourceSettings):
    """The queries. ``queries: FILE`` is short for ``queries: {source: FILE}``."""

    languages: Annotated[list[str], Field(min_length=1)] | None = None
    """Leave out what is certainly in none of these languages, e.g. [en, de]."""
    heldout: str | Natural = 16
    """Queries to measure on, never trained on: a source of its own, or how many to split off.

    No check leaves them out.
    """
    heldout_limit: Positive | None = None
    """Take the first so many of a held-out source."""
    per_round: Literal["all", "split", "stream"] = "all"
    """Which training queries a round answers: all; one of ``rounds`` disjoint parts; the next ``round_size``."""
    round_size: Positive | None = None
    """Queries of a round with ``per_round: stream``."""

    @property
    def checks(self) -> dict[str, Any]:
        """The settings of the checks alone, by name."""
        return self.model_dump(include=_CHECKS)

    @property
    def unchecked(self) -> QuerySettings:
        """These settings without the checks."""
        fields = type(self).model_fields
        return self.model_copy(update={name: fields[name].get_default() for name in _CHECKS})

    @model_validator(mode="after")
    def _sizes_act(self) -> QuerySettings:
        if (self.round_size is not None) != (self.per_round == "stream"):
            raise conflict("round_size goes with per_round: stream, and that with it", "round_size", "per_round")
        if self.heldout_limit is not None and isinstance(self.heldout, int):
            raise ValueError(f"heldout_limit is for a held-out source; heldout: {self.heldout} is a number already")
        return self


class PreferenceSettings(Section):
    """Annotated preferences in place of generated ones; ``preferences: FILE`` is short for its ``source``.

    The checks of ``queries`` look at their prompts.
    """

    source: str | None = None
    """A file, a folder or a hub data set of preference pairs, in any form of docs/data.md."""
    dataset_split: str = "train"
    limit: Positive | None = None
