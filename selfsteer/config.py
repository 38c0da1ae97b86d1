"""The recipe: one typed tree, read from YAML with dotted overrides. Unknown keys are errors with a suggestion."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from selfsteer.errors import ConfigError, did_you_mean

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
MAX_LEFT_OUT = 0.5
"""Share of a source's rows that can't be used and may be left out, unless a recipe says otherwise."""
GuardAction = Literal["ignore", "warn", "stop", "rollback"]
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""A name that can be a folder's, everywhere."""


class Section(BaseModel):
    """A part of a recipe: an unknown key is an error, and nothing is changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def whole_micro_batches(batch_size: int, micro_batch_size: int) -> None:
    """Raise where an optimiser step is no whole number of micro-batches."""
    if batch_size % min(micro_batch_size, batch_size):
        what = f"micro_batch_size {micro_batch_size} must divide batch_size {batch_size}"
        raise conflict(what, "micro_batch_size", "batch_size")


_GIVEN_TO_TEMPLATES = frozenset(
    """messages conversation tools documents chat_template add_generation_prompt continue_final_message tokenize padding
    truncation max_length return_tensors return_dict return_assistant_tokens_mask tokenizer_kwargs bos_token eos_token
    unk_token sep_token pad_token cls_token mask_token""".split()
)
"""What a chat template gets from the conversation, the tokenizer and the call."""


def _template_kwargs(values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        if name in _GIVEN_TO_TEMPLATES:
            raise conflict(f"{name!r} can't be set: a template gets it from the conversation or the tokenizer")
        if not name.isidentifier():
            raise conflict(f"{name!r} can't be the name of a template's variable")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise conflict(f"the value of {name!r} can't be sent as JSON (a date needs quotes)") from error
    return values


TemplateKwargs = Annotated[dict[str, Any], AfterValidator(_template_kwargs)]
"""Variables of a chat template, e.g. {enable_thinking: false}; one that the template does not mention is an error."""


class ModelSettings(Section):
    """The chat model to align. ``model: NAME`` is short for ``model: {name: NAME}``."""

    name: str = "smollm2-135m"
    """A catalogue name, a local folder or a hub name."""
    revision: str | None = None
    trust_remote_code: bool = False
    device: str = "auto"
    chat_template_kwargs: TemplateKwargs = {}
    """Variables for its chat template, e.g. {enable_thinking: false}, and for that of who answers in its place."""


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
    decontaminate_ngram: Annotated[int, Field(ge=2)] | None = None
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
    heldout: str | Annotated[int, Field(ge=0)] = 16
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
    def _stream_has_a_size(self) -> QuerySettings:
        if (self.round_size is not None) != (self.per_round == "stream"):
            raise conflict("round_size goes with per_round: stream, and that with it", "round_size", "per_round")
        return self

    @model_validator(mode="after")
    def _limited_source(self) -> QuerySettings:
        if self.heldout_limit is not None and isinstance(self.heldout, int):
            raise ValueError(f"heldout_limit is for a held-out source; heldout: {self.heldout} is a number already")
        return self


class ServerSettings(Section):
    """A server to ask, and what that may cost. Prices are per million tokens, in any currency."""

    base_url: str | None = None
    """Where the server is (default: OPENAI_BASE_URL)."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key."""
    concurrency: Positive = 8
    """Requests under way at once."""
    timeout: Annotated[float, Field(gt=0.0)] = 300.0
    """Seconds that the server may keep silent in one request."""
    max_retries: Annotated[int, Field(ge=0)] = 5
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


_HARDWARE = ("device", "precision", "revision", "trust_remote_code")


class WriterSettings(ServerSettings):
    """Who chooses the aspects and writes the principles, if not the policy.

    ``principles.model: NAME`` is short for ``principles.model: {name: NAME}``. Beside an endpoint as policy, what is
    not set about the writer's server is as in ``generation.endpoint``.
    """

    name: str | None = None
    """A chat model (catalogue name, folder, hub name), ``endpoint:MODEL`` or ``scripted``; None is the policy."""
    device: str = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    chat_template_kwargs: TemplateKwargs = {}
    """As of ``model``; for an endpoint they go along in the request."""

    @property
    def kind(self) -> Literal["policy", "local", "endpoint", "scripted"]:
        """What the name stands for."""
        if self.name is None:
            return "policy"
        if self.name.startswith(_ENDPOINT):
            return "endpoint"
        return "scripted" if self.name == "scripted" else "local"

    @property
    def model(self) -> str:
        """The name without the word that says what kind it is."""
        return (self.name or "").removeprefix(_ENDPOINT)

    @property
    def server(self) -> dict[str, Any]:
        """The settings about a server that differ from their defaults."""
        fields = ServerSettings.model_fields.items()
        return {key: getattr(self, key) for key, field in fields if getattr(self, key) != field.default}

    @model_validator(mode="after")
    def _of_this_kind(self) -> WriterSettings:
        if self.kind == "endpoint" and not self.model:
            raise conflict("endpoint: needs the model's name on the server, as in endpoint:my-model", "name")
        hardware = [key for key in _HARDWARE if getattr(self, key) != type(self).model_fields[key].default]
        idle = [*([] if self.kind == "endpoint" else self.server), *([] if self.kind == "local" else hardware)]
        if self.chat_template_kwargs and self.kind in ("policy", "scripted"):
            idle.append("chat_template_kwargs")
        if idle:
            whom = f"the writer {self.name!r} does not go by" if self.name else "no writer is named that goes by"
            raise conflict(f"{whom} {', '.join(idle)}", *idle)
        return self


_ENDPOINT = "endpoint:"


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
    thinking_max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens that are added to these for thoughts where the model may think first, by its template or behind a server
    (default: generation.max_new_tokens)."""
    below_chance: Literal["refuse", "warn"] = "refuse"
    """What a run does where y+ turns out better than y- in less than half of the pairs."""


WEIGHTLESS = ("scripted", "endpoint")
"""Backends that hold no weights here: what they write can't be scored by them."""


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

    backend: Literal["transformers", "vllm", "endpoint", "scripted"] = "transformers"
    model: str | None = None
    """Mode offline: who writes the responses, a catalogue name, a local folder or a hub name (default: ``model``)."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.7
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    roles: RolesSettings = RolesSettings()
    max_new_tokens: Positive = 2048
    batch_size: Positive | None = None
    """Requests sampled together: the unit of seeding and of going on (default: vllm 512, endpoint 128, others 16)."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    thinking: Literal["apart", "response"] = "apart"
    """A reasoning model's thoughts: kept apart from the answer, or scored and trained on as part of the response."""
    vllm: dict[str, Any] = {}
    """Further arguments of vllm.LLM, e.g. {tensor_parallel_size: 8}."""
    endpoint: EndpointSettings = EndpointSettings()

    @property
    def weightless(self) -> bool:
        """Whether who writes the responses has no weights that could score them."""
        return self.backend in WEIGHTLESS

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
        own = {role: _drawn(*found) for role, found in self.own_drawings.items()}
        drawn = f"temperature {self.temperature}, top_p {self.top_p}, {self.max_new_tokens} tokens"
        return "; ".join([drawn, *(f"{role}: {words}" for role, words in own.items())])

    @property
    def batch(self) -> int:
        """Requests that are sampled together."""
        return self.batch_of(self.backend)

    def batch_of(self, backend: str) -> int:
        """Return how many requests are sampled together by this backend."""
        return self.batch_size or {"vllm": 512, "endpoint": 128}.get(backend, 16)

    @model_validator(mode="after")
    def _top_p_acts(self) -> GenerationSettings:
        for role in RolesSettings.model_fields:
            if getattr(self.roles, role).top_p is not None and not self.drawing(role)[0]:
                what = f"the {role} responses are the likeliest ones (temperature 0), so top_p has no effect on them"
                raise conflict(what, f"roles.{role}.top_p", "temperature")
        return self

    @model_validator(mode="after")
    def _of_this_backend(self) -> GenerationSettings:
        if self.backend == "endpoint" and not self.endpoint.model:
            raise conflict("backend: endpoint needs the model's name on the server: set endpoint.model", "backend")
        for name, settings in (("vllm", self.vllm), ("endpoint", self.endpoint != EndpointSettings())):
            if settings and self.backend != name:
                raise conflict(f"these settings are about the backend {name}, and backend is {self.backend}", name)
        return self


def _drawn(temperature: float, top_p: float) -> str:
    return f"temperature {temperature}" + f", top_p {top_p}" * (temperature > 0)


class HarmSettings(Section):
    """A text-classification model that says which y- are harmful; they are flagged, not dropped."""

    classifier: str
    """A local folder or a hub name."""
    label: str
    """The model's label for harmful texts, e.g. "toxic"."""
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Least probability of the label at which y- is flagged."""
    revision: str | None = None


class RewardFilterSettings(Section):
    """The reward model that the filter ``reward_margin`` goes by; it computes in float32."""

    model: str
    """A local folder or a hub name: a sequence-classification model with one output."""
    revision: str | None = None
    chat_template_kwargs: TemplateKwargs = {}
    """Variables for its chat template."""


class QualitySettings(Section):
    """What happens to the sampled responses before they are trained on."""

    clean: bool = True
    """Strip leaked labels and end cut-off sentences."""
    filters: list[str | dict[str, Any]] = [
        "identical",
        "leak",
        "repetition",
        "refusal_mismatch",
        "duplicates",
        "language_mismatch",
        {"steering_gap": {"min": 0.0}},
    ]
    """In the order in which they run; docs/quality.md has them all. The paper's are identical, leak, preference_order,
    near_onpolicy and steering_gap without ``min``: they keep a few rows of a hundred."""
    harm: HarmSettings | None = None
    """Flag harmful y- by a classifier too, besides those that an aspect of the principle set flags."""
    reward: RewardFilterSettings | None = None
    """Whose margin the filter ``reward_margin`` goes by."""


class LoraSettings(Section):
    """LoRA in place of full fine-tuning."""

    r: Positive = 16
    alpha: Positive = 32
    dropout: Share = 0.0
    target_modules: str | list[str] = "all-linear"
    bits: Literal[4, 8] | None = None
    """QLoRA: hold the base's weights in 4 bits (NF4) or 8 (int8). Needs a CUDA GPU and the extra ``qlora``."""


SUMMED_LOSSES = ("dpo", "hinge")
"""The base losses that compare sums of log-probs; the others compare means per token."""


def per_token(objective: str, base_loss: str | None) -> bool:
    """Return whether a loss compares means per token: its implicit reward is then such a mean, else a sum."""
    return objective == "sft" or base_loss not in SUMMED_LOSSES


class TrainSettings(Section):
    """What is minimised, against which reference, on which rounds' data (v1 defaults), and the optimiser.

    ``mode: generator`` has v2's defaults: objective base, base_loss dpo, beta 0.1, batch_size 256.
    """

    objective: Literal["sso", "base", "sft"] = "sso"
    """SSO's loss; the base view's preference loss alone (PBAA); or fine-tuning on y+, without preferences."""
    reference: Literal["round-start", "first", "ema"] = "round-start"
    """What a round is compared with: the policy it starts from (v1), the run's start, or an average of the weights."""
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """With ``reference: ema``: after a round the average is decay * average + (1 - decay) * new policy."""
    older_rounds: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    """Of how many rounds before it a round trains on the data again."""
    base_loss: str = "ipo"
    beta: Annotated[float, Field(gt=0.0)] = 0.2
    steering_coef: Annotated[float, Field(ge=0.0)] = 0.1
    onpolicy_alpha: Share = 0.66
    use_weight: bool = True
    use_steering: bool = True
    weight_scope: Literal["all", "steering"] = "all"
    detach_weight: bool = False
    sft_coef: Annotated[float, Field(ge=0.0)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    margin: float = 0.0
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-7
    epochs: Positive = 1
    batch_size: Positive = 32
    """Examples per optimiser step."""
    micro_batch_size: Positive = 2
    """Examples in memory at once; gradients accumulate to ``batch_size``."""
    max_length: Positive = 2048
    """Tokens of the longest of a row's prompts + response; a longer response is cut under all of them at that place,
    without an end label."""
    warmup_ratio: Share = 0.1
    """Share of the steps, rounded up, in which the learning rate rises; the last of these has all of it. Then it falls
    along a cosine. No step has rate 0 (docs/training.md)."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    adam_betas: tuple[Share, Share] = (0.9, 0.95)
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """bfloat16: autocast over float32 weights. Pure bfloat16 weights would swallow steps this small."""
    gradient_checkpointing: bool = False
    lora: LoraSettings | None = None
    save_steps: Positive = 50
    """Optimiser steps between checkpoints that an interrupted training goes on from."""
    show_examples: Annotated[int, Field(ge=0)] = 0
    """Print so many training examples before the first step, decoded, with the role of each token."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> TrainSettings:
        whole_micro_batches(self.batch_size, self.micro_batch_size)
        return self


class GeneratorSettings(Section):
    """``mode: generator``: how the data generator is trained (v2, Formulas 1 to 4). The rest is as in ``train``."""

    objective: ClassVar[str] = "generator"
    queries: Positive = 8000
    """It is trained on so many of a round's queries, the first ones; on all where there are fewer."""
    keep: bool = False
    """Keep its weights; else they are removed when it has answered."""
    terms: Annotated[list[Literal["positive", "negative"]], Field(min_length=1)] = ["positive", "negative"]
    """L+ and L-, or one of them."""
    negative: Literal["original", "negative"] = "original"
    """What L- prefers to y+ under x-: yo (Formula 4), or y- itself (Formula 3, the weaker one)."""
    allow_harmful_targets: bool = False
    """With ``negative: negative``: also train towards y- that are, or may be, harmful; else such rows are left out."""
    base_loss: str = "dpo"
    beta: Annotated[float, Field(gt=0.0)] = 0.1
    sft_coef: Annotated[float, Field(ge=0.0)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    margin: float = 0.0
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-7
    epochs: Positive = 1
    batch_size: Positive = 32


class PreferenceSettings(Section):
    """Annotated preferences in place of generated ones; ``preferences: FILE`` is short for its ``source``.

    The checks of ``queries`` look at their prompts.
    """

    source: str | None = None
    """A file, a folder or a hub data set of preference pairs, in any form of docs/data.md."""
    dataset_split: str = "train"
    limit: Positive | None = None


class JudgeSettings(Section):
    """Who says which of two responses is better. ``judge: NAME`` is short for ``judge: {name: NAME}``."""

    name: str | None = None
    """A chat model (catalogue name, folder, hub name), ``reward:MODEL``, ``implicit:POLICY@REFERENCE``,
    ``endpoint:MODEL`` or ``program:PROGRAM``."""
    per_token: bool | None = None
    """``implicit:`` compares means per token, or (false) sums. Default: as the loss that trained the policy, which its
    folder names; else sums."""
    mode: Literal["logprobs", "text"] = "logprobs"
    """How a language model answers: by the log-probs of the two labels, or by what it writes."""
    max_tokens: Positive | None = None
    """Mode text: tokens of a reply, thoughts included (default: 16, and 2,048 more where the model may think)."""
    template: str | None = None
    """A Jinja file of your own for the question."""
    by: Literal["overall", "aspects"] = "overall"
    """What it is asked to judge by: overall quality, or the aspects that a row was steered by."""
    base_url: str | None = None
    """Where the endpoint is (default: OPENAI_BASE_URL)."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the endpoint's key."""
    device: str = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    chat_template_kwargs: TemplateKwargs = {}
    """Variables for its chat template, e.g. {enable_thinking: false}; for an endpoint they go along in the request."""

    @model_validator(mode="after")
    def _of_this_mode(self) -> JudgeSettings:
        if self.max_tokens is not None and self.mode != "text":
            raise conflict("max_tokens is about what a judge writes: set mode: text", "max_tokens")
        return self


class EvaluationSettings(Section):
    """What is measured on the held-out queries, before and after."""

    direction: str | None = None
    """Program that says which way y+ must differ from y- (default: what the principle set names)."""
    per_token: bool | None = None
    """Implicit rewards are means per token, or (false) sums. Default: as ``train.base_loss`` compares them."""
    samples: Annotated[int, Field(ge=0)] = 3
    """How many queries the report shows side by side."""


class _Guard(Section):
    """One guard. It fires where the 95 % interval of its figure lies beyond a threshold as a whole."""

    action: GuardAction | None = None
    """What its firing does (default: what guards.action says)."""


class LengthGuard(_Guard):
    """Length of the plain held-out answers, compared query by query."""

    max_ratio: Annotated[float, Field(gt=1.0)] = 3.0
    """Largest mean length, as a multiple of the start's."""
    max_ratio_per_round: Annotated[float, Field(gt=1.0)] = 1.75
    """Largest mean length, as a multiple of that of the policy the round began from."""
    min_ratio: Share = 0.25
    """Smallest mean length, as a multiple of the start's."""
    max_cut_rise: Share = 0.5
    """How far the share of answers cut off at the token limit, whose length is unknown, may rise above the start's."""


class OnpolicynessGuard(_Guard):
    """On-policyness of y+ and of y-, each by itself."""

    min_ratio: Share = 0.5
    """Smallest on-policyness, as a multiple of the start's."""


class SteeringMarginGuard(_Guard):
    """Steering margin of the held-out pairs, where the start's lies above zero."""

    min_ratio: Share = 0.25
    """Smallest margin, as a multiple of the start's."""


class SignalAccuracyGuard(_Guard):
    """Share of held-out pairs whose y+ is better, by program or else by the judge; ties count half."""

    min_accuracy: Share = 0.5
    """Smallest accuracy, unless the start's is smaller: then the start's."""
    max_drop: Share = 0.25
    """How far it may fall below the start's."""


class KeptGuard(_Guard):
    """Share of a round's training rows that the filters keep."""

    min_ratio: Share = 0.5
    """Smallest share, as a multiple of the first round's."""


class RepetitionGuard(_Guard):
    """Share of plain held-out answers that loop: more than half of their word 4-grams are repeats."""

    max_rise: Share = 0.25
    """How far it may rise above the start's."""


class DivergenceGuard(_Guard):
    """How much less likely the start's plain held-out answers became, nats per token."""

    max_nats: Annotated[float, Field(gt=0.0)] = 1.0


class GuardSettings(Section):
    """What is watched after every round, what happens where something fires, and which policy the run hands out.

    ``ignore``: not looked at; ``warn``: said; ``stop``: the round is given up and the run ends; ``rollback``: the round
    is given up and the next one starts from the last good policy.
    """

    action: GuardAction = "stop"
    best: Literal["last", "signal_accuracy", "implicit_accuracy", "onpolicyness"] = "last"
    """Which of the good rounds' policies is the run's: the last, or the one with the largest held-out figure."""
    length: LengthGuard = LengthGuard()
    onpolicyness: OnpolicynessGuard = OnpolicynessGuard()
    steering_margin: SteeringMarginGuard = SteeringMarginGuard()
    signal_accuracy: SignalAccuracyGuard = SignalAccuracyGuard()
    kept: KeptGuard = KeptGuard()
    repetition: RepetitionGuard = RepetitionGuard()
    divergence: DivergenceGuard = DivergenceGuard()
    not_finite: _Guard = _Guard()


class Recipe(Section):
    """Everything a run depends on."""

    name: Annotated[str, Field(pattern=_NAME)] = "run"
    mode: Literal["online", "generator", "offline", "data-only"] = "online"
    """Who writes the data: the newest policy (v1); a generator trained from it (v2); any model, once; no training."""
    rounds: Positive = 1
    seed: Annotated[int, Field(ge=0)] = 0
    model: ModelSettings = ModelSettings()
    queries: QuerySettings = QuerySettings()
    preferences: PreferenceSettings = PreferenceSettings()
    principles: PrincipleSettings = PrincipleSettings()
    generation: GenerationSettings = GenerationSettings()
    quality: QualitySettings = QualitySettings()
    generator: GeneratorSettings = GeneratorSettings()
    train: TrainSettings = TrainSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    judge: JudgeSettings = JudgeSettings()
    guards: GuardSettings = GuardSettings()

    @property
    def trains(self) -> bool:
        """Whether the run trains a policy."""
        return self.mode != "data-only"

    @property
    def implicit_per_token(self) -> bool:
        """Whether implicit rewards are means per token."""
        asked = self.evaluation.per_token
        return per_token(self.train.objective, self.train.base_loss) if asked is None else asked

    @property
    def thinking_tokens(self) -> int:
        """Tokens for the thoughts of a model that chooses aspects or writes principles, where it may think."""
        own = self.principles.thinking_max_tokens
        return self.generation.max_new_tokens if own is None else own

    @property
    def writes_itself(self) -> bool:
        """Whether the policy, or a generator made of it, writes what it is trained on."""
        foreign = self.generation.model is not None or self.generation.weightless or self.preferences.source is not None
        return self.mode != "offline" or not foreign

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_v2(cls, values: Any) -> Any:
        """Give ``mode: generator`` the policy's settings of v2 where the recipe says nothing else."""
        if not isinstance(values, dict) or values.get("mode") != "generator":
            return values
        given = values.get("train", {})
        if not isinstance(given, dict):
            return values
        sft = given.get("objective") == "sft"
        return {**values, "train": _V2_POLICY | ({} if sft else _V2_PREFERENCE) | given}

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for what, *keys in _inconsistencies(self):
            raise conflict(what, *keys)
        return self


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
    in_context_grown: Annotated[int, Field(ge=0)] = 2
    """self-instruct: how many of these are grown ones, once there are any."""
    per_request: Positive = 8
    """self-instruct: new queries that a request asks for."""
    operations: Annotated[
        list[Literal["constrain", "deepen", "concretise", "reason", "broaden"]], Field(min_length=1)
    ] = [
        "constrain",
        "deepen",
        "concretise",
        "reason",
        "broaden",
    ]
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

    seed: Annotated[int, Field(ge=0)] = 0
    model: ModelSettings = ModelSettings()
    queries: SeedSettings = SeedSettings()
    generation: GenerationSettings = GenerationSettings()
    augment: AugmentSettings = AugmentSettings()

    @model_validator(mode="after")
    def _thoughts_apart(self) -> Growth:
        if self.generation.thinking != "apart":
            raise conflict("thoughts are no part of a query: leave generation.thinking out", "generation.thinking")
        if self.generation.own_drawings:
            what = "queries have no roles: set generation.temperature and generation.top_p"
            raise conflict(what, "generation.roles")
        self.recipe  # noqa: B018  (what a recipe refuses is refused here)
        return self

    @property
    def recipe(self) -> Recipe:
        """The recipe that opens the same model and backend."""
        return Recipe(mode="data-only", seed=self.seed, model=self.model, generation=self.generation)


_V2_POLICY: dict[str, Any] = {"objective": "base", "batch_size": 256}
_V2_PREFERENCE: dict[str, Any] = {"base_loss": "dpo", "beta": 0.1}


def _inconsistencies(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    """Yield what does not go together, each as a sentence and the dotted keys it is about."""
    yield from _of_the_mode(recipe)
    yield from _of_the_rounds(recipe)
    yield from _of_the_backend(recipe)
    if recipe.judge.name is None and recipe.judge != JudgeSettings():
        yield "these settings are about a judge, and none is named: set judge.name", "judge"


def _of_the_mode(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    mode, generation = recipe.mode, recipe.generation
    if generation.weightless and mode in ("online", "generator"):
        what = f"the {generation.backend} backend has no weights to train: set mode: data-only (or offline)"
        yield what, "generation.backend", "mode"
    if generation.model is not None and mode != "offline":
        yield (
            f"another model than the policy writes the responses in mode offline only, not in {mode}",
            "generation.model",
        )
    if generation.model is not None and generation.weightless:
        yield f"generation.model has no effect with the backend {generation.backend}", "generation.model"
    if mode != "generator" and recipe.generator != GeneratorSettings():
        yield f"these settings are about mode generator, and mode is {mode}", "generator", "mode"
    taught = recipe.generator.negative == "negative" and "negative" in recipe.generator.terms
    if recipe.generator.allow_harmful_targets and not taught:
        what = "allow_harmful_targets needs y- as a target: set generator.negative to negative, and L- among the terms"
        yield what, "generator.allow_harmful_targets", "generator.negative"
    guided = recipe.principles.strategy == "guideline" and recipe.quality.harm is None
    if taught and guided and not recipe.generator.allow_harmful_targets:
        what = (
            "y- is a target, and nobody knows whether a written guideline asks for harm: let a classifier look "
            "(quality.harm), or set generator.allow_harmful_targets: true"
        )
        yield what, "generator.negative", "principles.strategy", "quality.harm"
    size = recipe.generator.batch_size
    if mode == "generator" and size % min(recipe.train.micro_batch_size, size):
        what = f"train.micro_batch_size {recipe.train.micro_batch_size} must divide the generator's batch_size"
        yield what, "generator.batch_size", "train.micro_batch_size"
    if mode == "generator" and recipe.train.objective == "sso":
        what = "mode generator trains the policy on the base view (v2): set train.objective to base or sft"
        yield what, "train.objective", "mode"
    yield from _of_preferences(recipe)


def _of_preferences(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    settings = recipe.preferences
    if settings.source is None and settings != PreferenceSettings():
        yield (
            "these settings are about annotated preferences, and there are none: set preferences.source",
            "preferences",
        )
    if settings.source is None:
        return
    if recipe.mode != "offline":
        yield f"annotated preferences are trained on in mode offline, not in {recipe.mode}", "preferences", "mode"
    if recipe.train.objective == "sso":
        what = "annotated preferences have no principles to steer by: set train.objective to base or sft"
        yield what, "train.objective", "preferences"
    if recipe.generation.model is not None or recipe.generation.weightless:
        yield "with annotated preferences nobody writes responses", "generation.model", "generation.backend"
    if recipe.queries.per_round != "all":
        yield "with annotated preferences no queries are answered", "queries.per_round"


def _of_the_rounds(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    train = recipe.train
    if recipe.mode == "data-only" and recipe.rounds > 1:
        yield (
            "data-only never changes the policy, so more than one round repeats itself: set rounds: 1",
            "rounds",
            "mode",
        )
    if recipe.mode == "offline" and recipe.rounds > 1:
        yield "offline data are made once: set rounds: 1 (train.epochs passes over them again)", "rounds", "mode"
    later = {"train.reference": train.reference != "round-start", "train.older_rounds": train.older_rounds != 0}
    for key in (key for key, given in later.items() if given):
        if recipe.rounds == 1:
            yield f"{key} makes a difference from the second round on, and rounds is 1", key, "rounds"
    if train.reference != "ema" and train.ema_decay != TrainSettings().ema_decay:
        yield "ema_decay goes with train.reference: ema", "train.ema_decay", "train.reference"
    if train.reference != "round-start" and train.objective == "sft":
        yield "sft compares with no reference", "train.reference", "train.objective"
    if train.reference == "ema" and train.lora is not None:
        what = (
            "an average of adapters is not the adapter of the average: train whole weights, or take another reference"
        )
        yield what, "train.reference", "train.lora"
    if train.older_rounds != "all" and train.older_rounds >= recipe.rounds > 1:
        yield (
            f"of {recipe.rounds} rounds none has {train.older_rounds} before it: set all",
            "train.older_rounds",
            "rounds",
        )


VLLM_TEMPERATURES = (0.01, 2.0)
"""vLLM refuses what is above and samples at 0.01 in place of what is below."""


def _of_the_backend(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    if recipe.model.chat_template_kwargs and recipe.generation.backend == "scripted" and not recipe.trains:
        what = "the scripted backend has no chat template to set variables of"
        yield what, "model.chat_template_kwargs", "generation.backend"
    if recipe.generation.backend != "vllm":
        return
    temperatures = {"generation.temperature": recipe.generation.temperature} | {
        f"generation.roles.{role}.temperature": temperature
        for role, (temperature, _) in recipe.generation.own_drawings.items()
    }
    if recipe.principles.model.kind in ("policy", "local"):
        temperatures["principles.choice_temperature"] = recipe.principles.choice_temperature
    least, most = VLLM_TEMPERATURES
    for key, temperature in temperatures.items():
        if temperature and not least <= temperature <= most:
            yield f"vLLM can't sample at temperature {temperature:g}: give 0 (greedy), or {least:g} to {most:g}", key
    if recipe.train.lora is not None and recipe.train.lora.bits:
        what = "vLLM would sample from whole weights, which are not the policy: take another backend, or no bits"
        yield what, "train.lora.bits", "generation.backend"
    for key, device in (("model", recipe.model.device), ("principles.model", recipe.principles.model.device)):
        if device not in ("auto", "cpu", "cuda"):
            what = f"vLLM chooses its device by itself: set CUDA_VISIBLE_DEVICES, and {key}.device to auto"
            yield what, f"{key}.device", "generation.backend"


SHORTHAND = {"model": "name", "queries": "source", "preferences": "source", "judge": "name", "principles.model": "name"}
"""Sections that may be given as one string: it sets this key, and all others take their defaults; but an override by
other queries leaves what is not about the old ones."""


class Setting(NamedTuple):
    """A value for a dotted key, and where it was given."""

    key: str
    value: Any
    where: str


def load_recipe(path: str | Path, overrides: Sequence[str] = (), settings: Sequence[Setting] = ()) -> Recipe:
    """Read a recipe file (or the name of a shipped recipe) and apply ``key=value`` overrides.

    Args:
        path: The file or the name.
        overrides: As on the command line.
        settings: Values by dotted key that act before the overrides do: what makes a variant of a sweep.

    Raises:
        ConfigError: The file is missing or is no YAML mapping; a key is unknown or given twice; a value is wrong.
    """
    return load_tree(Recipe, path, overrides, settings)


def load_tree(
    kind: type[Tree], path: str | Path, overrides: Sequence[str] = (), settings: Sequence[Setting] = ()
) -> Tree:
    """Read a file (or a shipped one by name) of any kind of recipe, as :func:`load_recipe` does."""
    file = find_recipe(path)
    values, lines = _read_file(file)
    for setting in settings:
        _set(values, lines, tuple(setting.key.split(".")), setting.value, setting.where)
    for override in overrides:
        _apply_override(values, lines, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explain(error.errors(), file, lines, kind) from error


class SweepSettings(Section):
    """A sweep file: one recipe, and in what its variants differ."""

    name: Annotated[str, Field(pattern=_NAME)] = "sweep"
    recipe: str
    """A shipped recipe, or a file, relative to the sweep file."""
    variants: dict[str, dict[str, Any] | None] = {}
    """By name, settings as of a recipe, nested or by dotted keys; without any it is the recipe as it is."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """By dotted key, values: each variant under each combination of them."""
    seeds: list[Annotated[int, Field(ge=0)]] = []
    """Each variant under each of these seeds."""


class SweepFile(NamedTuple):
    """A sweep file that was read."""

    settings: SweepSettings
    file: Path
    lines: dict[tuple[str, ...], str]
    """Where each key was given."""


def load_sweep(path: str | Path) -> SweepFile:
    """Read a sweep file, or the shipped sweep of that name; raises :class:`ConfigError`."""
    file = _find(path, shipped_sweeps(), Path("recipes/sweeps"), "sweep")
    values, lines = _read_file(file)
    try:
        return SweepFile(SweepSettings.model_validate(values), file, lines)
    except ValidationError as error:
        raise _explain(error.errors(), file, lines, SweepSettings) from error


def recipe_from(
    values: Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = (), source: str = "command line"
) -> Recipe:
    """Return a recipe of given values, without a file, with overrides; raises :class:`ConfigError`.

    Args:
        values: As a recipe file has them, short forms too.
        overrides: "key=value", or values by dotted key.
        source: Where the values come from, for messages.
    """
    return _from_values(Recipe, values, overrides, source)


def growth_from(overrides: Sequence[str]) -> Growth:
    """Return what `selfsteer augment` is told by ``key=value`` overrides; raises :class:`ConfigError`."""
    return _from_values(Growth, {"generation": {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 512}}, overrides)


def _from_values(
    kind: type[Tree],
    values: Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any],
    source: str = "command line",
) -> Tree:
    values = _expanded(copy.deepcopy(dict(values)), ())
    lines: Lines = {}
    for override in overrides if not isinstance(overrides, Mapping) else ():
        _apply_override(values, lines, override)
    for key, value in overrides.items() if isinstance(overrides, Mapping) else ():
        _set(values, lines, tuple(key.split(".")), value, f"override {key!r}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explain(error.errors(), Path(source), lines, kind) from error


def read_recipe(
    recipe: Recipe | str | Path | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Recipe:
    """Return a recipe given in any form, with overrides; raises :class:`ConfigError`.

    Args:
        recipe: A recipe, a file or the name of a shipped one, or values.
        overrides: "key=value", or values by dotted key.
    """
    if isinstance(recipe, str | Path):
        if not isinstance(overrides, Mapping):
            return load_recipe(recipe, overrides)
        values, _ = _read_file(find_recipe(recipe))
        return recipe_from(values, overrides, str(recipe))
    values = recipe.model_dump() if isinstance(recipe, Recipe) else dict(recipe)
    return recipe_from(values, overrides, "the recipe given")


def template_kwargs(given: Sequence[str]) -> dict[str, Any]:
    """Return chat template variables that were given as NAME=VALUE on the command line; raises :class:`ConfigError`."""
    values: dict[str, Any] = {}
    for one in given:
        _apply_override(values, {}, one)
    return judge_settings({"chat_template_kwargs": values}).chat_template_kwargs


def judge_settings(values: dict[str, Any]) -> JudgeSettings:
    """Return the settings of a judge that was named on the command line; raises :class:`ConfigError`."""
    try:
        return JudgeSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"--{'-'.join(map(str, first['loc'])).replace('_', '-')}"
        given = "" if first["type"] == "conflict" else f", got {first['input']!r}"
        raise ConfigError(f"{first['msg']}{given}", where=where, do="correct that value") from error


def dump_recipe(recipe: Section) -> str:
    """Return the resolved recipe as YAML that :func:`load_recipe` (or :func:`load_tree`) reads back."""
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def find_recipe(path: str | Path) -> Path:
    """Return the file itself, else the shipped recipe of that name; raises :class:`ConfigError` where neither is."""
    return _find(path, shipped_recipes(), Path("recipes"), "recipe")


def _find(path: str | Path, shipped: Mapping[str, Path], folder: Path, what: str) -> Path:
    """Return the file itself, else the shipped one of that name, which may be given with the ``folder`` it comes in."""
    file = Path(path)
    if file.is_file():
        return file
    name = file.name.removesuffix(".yaml")
    if name in shipped and file.parent in (Path(), folder):
        return shipped[name]
    raise ConfigError(f"no such {what}", where=str(path), do=did_you_mean(name, shipped))


def shipped_recipes() -> dict[str, Path]:
    """Names and files of the recipes that come with the package."""
    return {file.stem: file for file in sorted(_shipped().glob("*.yaml"))}


def shipped_sweeps() -> dict[str, Path]:
    """Names and files of the sweeps that come with the package."""
    return {file.stem: file for file in sorted(_shipped().glob("sweeps/*.yaml"))}


def _shipped() -> Path:
    package = Path(str(files("selfsteer")))
    return next((f for f in (package / "recipes", package.parent / "recipes") if f.is_dir()), package)


Tree = TypeVar("Tree", bound=Section)
Key = tuple[str, ...]
Lines = dict[Key, str]
"""Where each key was given: "file:line" or "command line: key=value"."""
_COMMAND_LINE = "command line: "


class _Loader(yaml.SafeLoader):
    """Reads ``1e-5`` as the number that people mean by it; YAML 1.1 takes it for text."""


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that :class:`_Loader` would take for a number."""


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z")
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _read_file(file: Path) -> tuple[dict[str, Any], Lines]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the recipe is not UTF-8: {error.reason}", where=str(file), do="save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"can't read the recipe: {error.strerror}", where=str(file)) from error
    lines: Lines = {}
    value = _parse_yaml(text, (), lines, lambda line: f"{file}:{line}")
    if not isinstance(value, dict | None):
        raise ConfigError(
            "a recipe is a mapping of keys to values", where=f"{file}:1", do="see recipes/quickstart.yaml"
        )
    return value or {}, lines


def _parse_yaml(text: str, path: Key, lines: Lines, where: Callable[[int], str]) -> Any:
    """Return the value that stands at ``path``, noting in ``lines`` where its keys were given.

    Args:
        text: YAML.
        path: The key that the value belongs to, () for a whole recipe.
        lines: Is added to.
        where: Names a line of the text, counted from 1.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _plain(node, path, lines, where)
    except yaml.MarkedYAMLError as error:
        what, line = error.problem, error.problem_mark.line + 1 if error.problem_mark else 1
    except yaml.reader.ReaderError as error:
        what, line = f"character {error.character!r}: {error.reason}", text.count("\n", 0, error.position) + 1
    except RecursionError:
        what, line = "it contains itself", 1
    do = "correct that line; text with special characters needs quotes"
    raise ConfigError(f"this is no valid YAML: {what}", where=where(line), do=do)


def _plain(node: yaml.Node, path: Key, lines: Lines, where: Callable[[int], str]) -> Any:
    """Turn a YAML node into plain values, noting where each key was given; a key given twice is an error."""
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, place = str(key_node.value), where(key_node.start_mark.line + 1)
            if key in result:
                raise ConfigError(f"key {'.'.join((*path, key))!r} is given twice", where=place, do="keep one of them")
            lines[(*path, key)] = place
            value = _plain(value_node, (*path, key), lines, where)
            result[key] = _expand(path, key, value)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*path, str(i)), lines, where) for i, child in enumerate(node.value)]
    try:
        return _Loader("").construct_object(node)
    except ValueError as error:
        raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error


def _expand(path: Key, key: str, value: Any) -> Any:
    inner = SHORTHAND.get(".".join((*path, key)))
    return {inner: value} if inner and isinstance(value, str) else value


def _expanded(values: dict[str, Any], path: Key) -> dict[str, Any]:
    """Return values with every short form written out."""
    inner = {key: _expanded(value, (*path, key)) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: _expand(path, key, value) for key, value in inner.items()}


def _apply_override(values: dict[str, Any], lines: Lines, override: str) -> None:
    key, separator, text = override.partition("=")
    path, where = tuple(key.strip().split(".")), _COMMAND_LINE + override
    if not separator or not all(path):
        raise ConfigError("an override has the form key=value", where=where, do="for example train.beta=0.1")
    _set(values, lines, path, _parse_yaml(text, path, lines, lambda line: where), where)


def _set(values: dict[str, Any], lines: Lines, path: Key, value: Any, where: str) -> None:
    """Put a value where a dotted key says."""
    target = values
    for depth, part in enumerate(path[:-1], start=1):
        if not isinstance(target.get(part), dict):
            target[part] = {}
            lines[path[:depth]] = where
        target = target[part]
    before, given = target.get(path[-1]), _expand(path[:-1], path[-1], value)
    if path == ("queries",) and isinstance(value, str) and isinstance(before, dict):
        given = _kept_for_other_queries(before) | given
    target[path[-1]] = given
    lines[path] = where


def _kept_for_other_queries(before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that stay where another source of queries is named: those that are not about the old one.

    Held-out queries from a file of the old source's kind would measure something else than what is aligned on.
    """
    apart = isinstance(before.get("heldout"), str)
    gone = {"field", "dataset_split", "limit", *(("heldout", "heldout_limit") if apart else ())}
    return {key: value for key, value in before.items() if key not in gone}


def _explain(errors: Sequence[ErrorDetails], file: Path, lines: Lines, kind: type[BaseModel] = Recipe) -> ConfigError:
    """Turn the first of pydantic's errors into one message; a union's errors, one a member, are a single one."""
    # A misspelt key comes after the one that it leaves missing.
    error = min(errors, key=lambda found: (not _other_command(found), found["type"] == "missing"))
    path = _blamed(error, lines)
    same = [other for other in errors if _blamed(other, lines) == path]
    where = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), str(file))
    more = f" ({len(errors) - len(same)} more)" if len(errors) > len(same) else ""
    key = ".".join(path) or "recipe"
    if error["type"] == "extra_forbidden":
        do = _other_command(error) or did_you_mean(path[-1], _keys_at(kind, path[:-1]))
        return ConfigError(f"unknown key {key!r}{more}", where=where, do=do)
    message = "; or: ".join(other["msg"] for other in same)
    given = "" if error["type"] == "conflict" else f", got {error['input']!r}"
    return ConfigError(f"wrong value for {key!r}: {message}{given}{more}", where=where, do="correct that value")


_COMMAND_OF = {"sets": "reward", "recipe": "sweep", "queries": "run"}
"""By a key that only its files have, the command that a file is for."""


def _other_command(error: ErrorDetails) -> str:
    """Return what to do with a file that is another command's, going by an unknown key; "" where it is none."""
    loc = error["loc"]
    command = _COMMAND_OF.get(str(loc[0])) if error["type"] == "extra_forbidden" and len(loc) == 1 else None
    return f"that is a key of `selfsteer {command}`: give the file to that command" if command else ""


def conflict(what: str, *keys: str) -> PydanticCustomError:
    """An error about several ``keys`` of a section (dotted) that don't go together."""
    return PydanticCustomError("conflict", "{what}", {"what": what, "keys": keys})


def _blamed(error: ErrorDetails, lines: Lines) -> Key:
    """Return the key an error is about; of keys in conflict, one from the command line, else one from the file."""
    path = tuple(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return path
    path = tuple(part for part in path if not _is_branch(part))
    keys = [(*path, *key.split(".")) for key in error.get("ctx", {}).get("keys", ())]
    given = [key for key in keys if key in lines]
    overridden = [key for key in given if lines[key].startswith(_COMMAND_LINE)]
    return [*overridden, *given, *keys, path][0]


def _is_branch(part: str) -> bool:
    """Pydantic names the member of a union it tried ("str", "constrained-int") in an error's location."""
    return part in ("str", "int", "float") or part.startswith(("constrained-", "list[", "dict[", "literal["))


def _keys_at(section: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    named = False
    for part in path:
        if part.isdigit() or named:  # a place in a list, or a name in a mapping, whose kind the step before has found
            named = False
            continue
        annotation = section.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        section = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
        named = getattr(annotation, "__origin__", None) is dict
    return list(section.model_fields)
