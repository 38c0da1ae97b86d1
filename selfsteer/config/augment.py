"""What `selfsteer augment` depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from selfsteer.config.base import Natural, Positive, Section, Seed, conflict
from selfsteer.config.generation import GenerationSettings, ModelSettings
from selfsteer.config.loading import from_values
from selfsteer.config.queries import CheckSettings, SourceSettings
from selfsteer.config.recipe import Recipe


class SeedSettings(CheckSettings, SourceSettings):
    """The seed set of ``selfsteer augment``, and which of the grown queries are kept."""

    min_chars: Positive | None = 12
    max_chars: Positive | None = 2000
    near_duplicates: Annotated[float, Field(gt=0.0, le=1.0)] | None = 0.7
    languages: Literal["seeds", "any"] | Annotated[list[str], Field(min_length=1)] = "seeds"
    """Keep the languages of the seeds, those that are named, or any."""


class AugmentSettings(Section):
    """How a query set is grown."""

    method: Literal["self-instruct", "evolve"] = "self-instruct"
    in_context: Positive = 8
    """self-instruct: queries that a request shows."""
    in_context_grown: Natural = 2
    """self-instruct: how many of these are grown ones, once there are any."""
    per_request: Positive = 8
    """self-instruct: new queries that a request asks for."""
    operations: Annotated[
        list[Literal["constrain", "deepen", "concretise", "reason", "broaden"]], Field(min_length=1)
    ] = ["constrain", "deepen", "concretise", "reason", "broaden"]
    """evolve: what is done to a query, in turn."""
    max_depth: Positive = 4
    """evolve: how often a query and what came of it are evolved."""
    patience: Positive = 3
    """Give up after so many rounds in a row that kept less than one query in twenty of those asked for."""

    @model_validator(mode="after")
    def _of_this_method(self) -> AugmentSettings:
        if self.in_context_grown >= self.in_context:
            raise conflict("in_context_grown leaves no room for seeds within in_context", "in_context_grown")
        ours = {
            "evolve": {"operations", "max_depth"},
            "self-instruct": {"in_context", "in_context_grown", "per_request"},
        }
        for method, names in ours.items():
            foreign = sorted(names & self.model_fields_set)
            if foreign and method != self.method:
                raise conflict(f"{foreign[0]} is about {method}, and method is {self.method}", foreign[0])
        return self


class Growth(Section):
    """Everything that ``selfsteer augment`` depends on, but how many queries are wanted."""

    seed: Seed = 0
    model: ModelSettings = ModelSettings()
    queries: SeedSettings = SeedSettings()
    generation: GenerationSettings = GenerationSettings()
    augment: AugmentSettings = AugmentSettings()

    @model_validator(mode="after")
    def _thoughts_apart(self) -> Growth:
        if self.generation.thinking != "apart":
            raise conflict("thoughts are not part of a query: leave generation.thinking out", "generation.thinking")
        if self.generation.engines != "auto":
            raise conflict("new queries are sampled in one process: leave generation.engines out", "generation.engines")
        if self.generation.own_drawings:
            what = "queries have no roles: set generation.temperature and generation.top_p"
            raise conflict(what, "generation.roles")
        self.recipe  # noqa: B018  (what a recipe refuses is refused here)
        return self

    @property
    def recipe(self) -> Recipe:
        """The recipe that opens the same model and backend."""
        return Recipe(mode="data-only", seed=self.seed, model=self.model, generation=self.generation)


def growth_from(overrides: Sequence[str]) -> Growth:
    """Return the settings of `selfsteer augment` from ``key=value`` overrides; raises :class:`ConfigError`."""
    return from_values(Growth, {"generation": {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 512}}, overrides)
