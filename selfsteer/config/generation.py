"""The sections `model` and `generation`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from selfsteer.backends.registry import BACKENDS
from selfsteer.config.base import BaseUrl, Natural, Positive, Section, TemplateKwargs, conflict, known_name


class ModelSettings(Section):
    """The chat model to align. ``model: NAME`` is short for ``model: {name: NAME}``."""

    name: str = "smollm2-135m"
    """A catalogue name, a local folder or a hub name."""
    revision: str | None = None
    trust_remote_code: bool = False
    device: str = "auto"
    chat_template_kwargs: TemplateKwargs = {}
    """Variables for its chat template, e.g. {enable_thinking: false}, and for that of a server in its place."""


class LocalModelSettings(Section):
    """How a model on this machine is loaded that is not the policy."""

    device: str = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    chat_template_kwargs: TemplateKwargs = {}
    """Variables for its chat template, e.g. {enable_thinking: false}; for an endpoint they go along in the request."""


class ServerSettings(Section):
    """A server to ask, and what that may cost. Prices are per million tokens, in any currency."""

    base_url: BaseUrl | None = None
    """Where the server is (default: OPENAI_BASE_URL)."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key."""
    concurrency: Positive = 8
    """Requests under way at once."""
    timeout: Annotated[float, Field(gt=0.0, le=1e6)] = 300.0
    """Seconds that the server may keep silent in one request."""
    max_retries: Natural = 5
    """Further tries after a timeout, a lost connection, a damaged answer, status 408, 409, 429 or 5xx."""
    failed: Literal["stop", "drop"] = "stop"
    """What a stage does with requests that still fail at its end: stop, or leave their queries out."""
    max_total_tokens: Positive | None = None
    """Cap on the tokens, of prompts and answers, that the run may use up."""
    max_cost: Annotated[float, Field(gt=0.0)] | None = None
    """Cap on what the run may cost, in the currency of the prices."""
    price_prompt: Annotated[float, Field(ge=0.0)] | None = None
    price_completion: Annotated[float, Field(ge=0.0)] | None = None

    @property
    def prices(self) -> tuple[float, float]:
        """Prices of a million prompt tokens and of a million tokens of answers; 0 where none is given."""
        return self.price_prompt or 0.0, self.price_completion or 0.0

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.max_cost is not None and (self.price_prompt is None or self.price_completion is None):
            what = "max_cost needs the prices per million tokens: set price_prompt and price_completion"
            raise conflict(what, "max_cost")
        return self


class EndpointSettings(ServerSettings):
    """The server that answers with ``backend: endpoint``."""

    model: str | None = None
    """The model's name on the server."""


class RaySettings(Section):
    """The Ray cluster of ``executor: ray``."""

    address: str | None = None
    """HOST:PORT of the cluster's head; local: a new one on this machine. Default: RAY_ADDRESS, else the cluster that
    this machine belongs to, else a new one."""


class RoleSampling(Section):
    """How one of a row's responses is sampled; what is not set is as in ``generation``."""

    temperature: Annotated[float, Field(ge=0.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None


class RolesSettings(Section):
    """The responses that are sampled in a way of their own, in training and held-out rows alike."""

    positive: RoleSampling = RoleSampling()
    """y+."""
    negative: RoleSampling = RoleSampling()
    """y-."""
    original: RoleSampling = RoleSampling()
    """yo, the answer to the plain prompt (v2's code takes the likeliest one: temperature 0)."""


class GenerationSettings(Section):
    """How responses are sampled (paper defaults)."""

    backend: Annotated[str, known_name("backend", BACKENDS)] = "transformers"
    model: str | None = None
    """Mode offline: the model that writes the responses, by catalogue or hub name or folder (default: ``model``)."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.7
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    roles: RolesSettings = RolesSettings()
    max_new_tokens: Positive = 2048
    batch_size: Positive | None = None
    """Requests sampled together: the unit of seeding and of resuming (default: vllm 512, endpoint 128, others 16)."""
    engines: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    """Processes (with executor ray: actors) that sample and score, each with a model or an engine of its own. auto: as
    many as fit on the GPUs; without GPUs one, with executor ray one on each node."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    thinking: Literal["apart", "response"] = "apart"
    """A reasoning model's thoughts: kept apart from the answer, or scored and trained on as part of the response."""
    vllm: dict[str, Any] = {}
    """Further arguments of vllm.LLM, e.g. {tensor_parallel_size: 8}."""
    endpoint: EndpointSettings = EndpointSettings()

    @property
    def weightless(self) -> bool:
        """Whether the backend has no weights that could score the responses."""
        return BACKENDS[self.backend].weightless

    def drawing(self, role: str) -> tuple[float, float]:
        """Return temperature and top_p of the responses of a role."""
        own: RoleSampling = getattr(self.roles, role)
        return (
            self.temperature if own.temperature is None else own.temperature,
            self.top_p if own.top_p is None else own.top_p,
        )

    @property
    def own_drawings(self) -> dict[str, tuple[float, float]]:
        """:meth:`drawing` by role, of the roles that are not sampled as ``generation`` itself says."""
        found = {role: self.drawing(role) for role in RolesSettings.model_fields}
        return {role: own for role, own in found.items() if own != (self.temperature, self.top_p)}

    @property
    def sampling(self) -> str:
        """How responses are sampled, in words: "temperature 0.7, top_p 0.8, 2048 tokens; original: temperature 0.0"."""
        drawn = f"temperature {self.temperature}, top_p {self.top_p}, {self.max_new_tokens} tokens"
        own = self.own_drawings.items()
        return "; ".join([drawn, *(f"{role}: temperature {t}" + f", top_p {p}" * (t > 0) for role, (t, p) in own)])

    @property
    def batch(self) -> int:
        """Requests that are sampled together."""
        return self.batch_of(self.backend)

    def batch_of(self, backend: str) -> int:
        """Return how many requests are sampled together by this backend."""
        return self.batch_size or BACKENDS[backend].batch

    @model_validator(mode="after")
    def _acting(self) -> GenerationSettings:
        for role in RolesSettings.model_fields:
            if getattr(self.roles, role).top_p is not None and not self.drawing(role)[0]:
                what = f"the {role} responses are the likeliest ones (temperature 0), so top_p has no effect on them"
                raise conflict(what, f"roles.{role}.top_p", "temperature")
        remote = BACKENDS[self.backend].remote
        if remote and not self.endpoint.model:
            what = f"backend: {self.backend} needs the model's name on the server: set endpoint.model"
            raise conflict(what, "backend")
        if self.vllm and self.backend != "vllm":
            raise conflict(f"these settings are about the backend vllm, and backend is {self.backend}", "vllm")
        if self.endpoint != EndpointSettings() and not remote:
            raise conflict(f"these settings are about the backend endpoint, and backend is {self.backend}", "endpoint")
        return self


VLLM_TEMPERATURES = (0.01, 2.0)
"""vLLM refuses what is above and samples at 0.01 in place of what is below."""
