"""The model that chooses aspects and writes principles where it is not the policy (``principles.model``)."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfsteer.backends import BACKENDS, Backend, may_think
from selfsteer.backends.source import BackendSource, Weights, open_backend
from selfsteer.config import EndpointSettings, Recipe
from selfsteer.files import fingerprint

if TYPE_CHECKING:
    from selfsteer.backends.local_model import LocalModel
    from selfsteer.chat import Chat

_KEY = "principles.model"


class PrincipleModel:
    """Opens the model that a recipe names to write principles. Nothing is loaded before :meth:`open`.

    A local one runs in the policy's backend where that has weights, else in transformers.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.settings = recipe, recipe.principles.model

    @property
    def name(self) -> str:
        """What it is called in provenance."""
        return str(self.settings.name)

    @property
    def backend(self) -> str:
        """The name of the backend that it runs in."""
        if self.settings.kind != "local":
            return self.settings.kind
        return "transformers" if self.recipe.generation.weightless else self.recipe.generation.backend

    @property
    def fingerprint(self) -> str:
        """What its answers depend on: its content, precision and vLLM's arguments, or its name on a server."""
        if self.settings.kind != "local":
            kwargs = self.settings.chat_template_kwargs
            return " ".join([self.name, *([json.dumps(kwargs, sort_keys=True)] if kwargs else [])])
        from selfsteer.backends.vllm import acting_on_texts

        options = acting_on_texts(self.recipe.generation.vllm)
        return " ".join([self._local.fingerprint, *([fingerprint(options)] if options else [])])

    @property
    def may_think(self) -> bool:
        """Whether it may think before it answers."""
        return may_think(self.backend, self.chat)

    @property
    def chat(self) -> Chat | None:
        """Its chat template; None for a server, which renders the prompts by itself."""
        return self._local.chat if self.settings.kind == "local" else None

    @property
    def batch(self) -> int:
        """Queries that it is asked about together."""
        return self.recipe.generation.batch_of(self.backend)

    @property
    def failed(self) -> Literal["stop", "drop"]:
        """What becomes of queries for which its server gives no answer."""
        return self._endpoint.failed if self.settings.remote else "stop"

    @property
    def prices(self) -> dict[str, tuple[float, float]]:
        """The prices of its answers, by its name on the server; nothing where they cost nothing."""
        return {self.settings.model: self._endpoint.prices} if self.settings.remote else {}

    def check(self) -> None:
        """Raise :class:`InputError` where it can't be used, before anything else is computed."""
        if self.settings.remote:
            self.open(None)
        elif self.settings.kind == "local":
            self._local.device  # noqa: B018  # raises where there is no such device
            if self.settings.chat_template_kwargs:
                self._local.chat  # noqa: B018  # raises where its template does not read them

    def check_model(self) -> None:
        """Raise :class:`ModelError` where a local writer's tokenizer can't be used, or does not suit its embeddings."""
        if self.settings.kind == "local":
            self._local.chat  # noqa: B018

    def open(self, usage: Path | None) -> Backend:
        """Load it, or connect to it.

        Raises:
            ModelError, ConfigError, FetchError: It can't be used, or not with these settings.
        """
        seed, kwargs = self.recipe.seed, self.settings.chat_template_kwargs
        if not BACKENDS[self.backend].weightless:
            local = self._local
            weights = Weights(local.source, local.chat, local.dtype, local.options, local.model)
            return open_backend(self.backend, BackendSource(self.recipe.generation, seed, kwargs, weights))
        policy = self.recipe.generation.endpoint
        prices = {policy.model: policy.prices} if policy.model else {}
        capped = self.settings.max_total_tokens is not None or self.settings.max_cost is not None
        where = "generation.endpoint" if policy.model and not capped else _KEY
        settings = self.recipe.generation.model_copy(update={"endpoint": self._endpoint})
        source = BackendSource(settings, seed, kwargs, usage=usage, other_prices=prices, where=where)
        return open_backend(self.backend, source)

    @cached_property
    def _endpoint(self) -> EndpointSettings:
        """What the recipe says of its server; beside an endpoint as policy the rest is as there."""
        values: dict[str, Any] = self.settings.server | {"model": self.settings.model}
        return self.recipe.generation.endpoint.model_copy(update=values)

    @cached_property
    def _local(self) -> LocalModel:
        from selfsteer.backends.local_model import LocalModel
        from selfsteer.models import resolve, silence_transformers

        silence_transformers()
        return LocalModel(self.settings, resolve(self.name), f"{_KEY}.device")
