"""The section `principles`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from selfsteer.backends.registry import BACKENDS
from selfsteer.config.base import Natural, Positive, Section, Share, conflict
from selfsteer.config.generation import LocalModelSettings, ServerSettings


class WriterSettings(ServerSettings, LocalModelSettings):
    """Who chooses the aspects and writes the principles, if not the policy.

    ``principles.model: NAME`` is short for ``principles.model: {name: NAME}``. Beside an endpoint as policy, what is
    not set about the writer's server is as in ``generation.endpoint``.
    """

    name: str | None = None
    """A chat model (catalogue name, folder, hub name), ``endpoint:MODEL`` or ``scripted``; None is the policy."""

    @property
    def kind(self) -> str:
        """What the name stands for: "policy", "local", or a backend without weights."""
        if self.name is None:
            return "policy"
        backend, colon, _ = self.name.partition(":")
        found = BACKENDS.get(backend)
        return backend if found and found.weightless and found.remote == bool(colon) else "local"

    @property
    def remote(self) -> bool:
        """Whether it is a model behind a server."""
        return self.kind in BACKENDS and BACKENDS[self.kind].remote

    @property
    def model(self) -> str:
        """The name without the backend in front."""
        return (self.name or "").removeprefix(f"{self.kind}:")

    @property
    def server(self) -> dict[str, Any]:
        """The settings about a server that differ from their defaults."""
        fields = ServerSettings.model_fields.items()
        return {key: getattr(self, key) for key, field in fields if getattr(self, key) != field.default}

    @model_validator(mode="after")
    def _of_this_kind(self) -> WriterSettings:
        if self.remote and not self.model:
            raise conflict(f"{self.kind}: needs the model's name on the server, as in {self.kind}:my-model", "name")
        fields = LocalModelSettings.model_fields.items()
        local = [key for key, field in fields if getattr(self, key) != field.default]
        idle = [] if self.remote else [*self.server]
        if self.kind != "local":  # a server takes variables of the template
            idle += [key for key in local if not (self.remote and key == "chat_template_kwargs")]
        if idle:
            keys = ", ".join(idle)
            what = f"the writer {self.name!r} does not use {keys}" if self.name else f"{keys} needs principles.model"
            raise conflict(what, *idle)
        return self


class PrincipleSettings(Section):
    """How each query gets its principle pair."""

    set: str = "quality"
    """A shipped set or the path of a YAML file."""
    strategy: Literal["fixed", "per_aspect", "guideline"] = "fixed"
    """The set's own pair of each chosen aspect; a pair written for each of them and this query (the paper's v1); or one
    good and one bad guideline written for the query, without aspects (v2)."""
    model: WriterSettings = WriterSettings()
    aspects_per_query: Positive | None = None
    """How many aspects the model picks for a query (default: what the set says)."""
    choice: Literal["first", "shuffled"] = "first"
    """Which of the aspects that the model names a query gets: the first ones; or any, in random order, with random
    others where it names too few (v1's code)."""
    choice_temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """Temperature of the model's choice, sampled with ``generation.top_p``; 0 is greedy (v1's code: 0.7)."""
    per_round: Literal["fixed", "redrawn"] = "fixed"
    """What is drawn at random for a query, its extra aspects and a sampled or shuffled choice: the same random numbers
    in all rounds, or others in each (v1's code)."""
    steering: Literal["full", "relative", "direct", "adjectives"] | None = None
    """What the steering message says: adjectives, principles and discretion; the same, with "relatively good" or "bad"
    for the adjectives (v2's code); the principles alone; the adjectives alone (default: what the set says)."""
    extra_rate: Share = 0.2
    """Share of the queries that get the set's extra aspect (Concision in ``quality``) as well."""
    choice_max_tokens: Positive = 24
    """Tokens of the answer that names the aspects."""
    writing_max_tokens: Positive = 240
    """Tokens of each pair of principles that is written, with the JSON around it."""
    thinking_max_tokens: Natural | None = None
    """Tokens that are added to these for thoughts where the model may think first, by its template or behind a server
    (default: generation.max_new_tokens)."""
    below_chance: Literal["refuse", "warn"] = "refuse"
    """What a run does where y+ turns out better than y- in less than half of the pairs."""
