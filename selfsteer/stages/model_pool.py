"""The models a run uses, loaded when a stage first needs them and freed when another is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from selfsteer.backends import BACKENDS, Backend, Prompt, may_think
from selfsteer.backends.source import BackendSource, Weights, open_backend
from selfsteer.chat import Chat
from selfsteer.config import RaySettings, Recipe
from selfsteer.models.single_slot import OneHeld
from selfsteer.runs.executor import Executor, InProcess
from selfsteer.runs.ray_executor import RayExecutor, connect
from selfsteer.runs.worker_pool import WorkerPool
from selfsteer.stages.engines import engine_count, environments, gpus_each, ray_share
from selfsteer.stages.principle_model import PrincipleModel

if TYPE_CHECKING:
    from selfsteer.stages.scorer import Scorer


USAGE = "usage.jsonl"
"""The file of a run directory that keeps what endpoints have used up."""


@dataclass(frozen=True)
class Policy:
    """A model of the run: the start (round 0), what a round trained, or another that writes responses.

    Attributes:
        round: The round that trained it.
        path: A folder or a hub name; says nothing of one without weights.
        fingerprint: Names its weights, tokenizer, chat template with its variables, and end tokens: stages that use it
            depend on that.
        backend: Who samples from it.
        name: What rows' provenance calls it.
        options: How it is loaded, for a start that is not in the run directory.
        foreign: Whether it is none of the run's own models, so that its weights stay whole whatever ``train`` says.
        start: The start that it was trained from, whose tokenizer, template and end tokens it has; None for a start.
    """

    round: int
    path: str
    fingerprint: str
    backend: str = "transformers"
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    foreign: bool = False
    start: Policy | None = None

    @property
    def weightless(self) -> bool:
        """Whether it has no weights here: nothing can be scored or trained."""
        return BACKENDS[self.backend].weightless

    def trained(self, round: int, path: str, fingerprint: str, name: str) -> Policy:
        """Return what training made of this one; it lies in the run directory."""
        found = replace(self, round=round, path=path, fingerprint=fingerprint, name=name)
        return replace(found, options={}, start=self.start or self)


def policy_of(fields: Mapping[str, Any]) -> Policy:
    """Return the policy that ``dataclasses.asdict`` told of."""
    return Policy(**{**fields, "start": policy_of(fields["start"]) if fields["start"] else None})


class Lengths(Protocol):
    """What planning needs of a backend: :class:`selfsteer.backends.Backend` has it."""

    @property
    def chat(self) -> Chat | None:
        """The template that renders prompts; None where there are no tokens."""

    @property
    def context(self) -> int | None:
        """Prompt + response tokens that fit, None where there is no limit."""

    def length(self, prompt: Prompt) -> int:
        """Return the length of a prompt."""


@dataclass(frozen=True)
class _TokenLengths:
    """Lengths in the tokens of a local model, which may be loaded in another process."""

    chat: Chat
    context: int | None

    def length(self, prompt: Prompt) -> int:
        return len(self.chat.encode(prompt))


class ModelPool:
    """Holds at most one model in memory: for generation in fast precision, or for scoring in float32.

    With ``train.lora.bits`` its weights are in 4 or 8 bits for everything: that model is the policy, so it generates,
    and its scores are the reference.

    Args:
        runs_code: Whether Python that the recipe names is run (a model's own code, a judge's program). A dry run and an
            estimate leave it alone: the recipe may be someone else's.
    """

    def __init__(self, recipe: Recipe, run_dir: Path, *, runs_code: bool = True) -> None:
        self.recipe, self.run_dir, self.runs_code = recipe, run_dir, runs_code
        self.writer = None if recipe.principles.model.kind == "policy" else PrincipleModel(recipe)
        """The model that writes the principles, where that is not the policy."""
        self._chats: dict[str, Chat] = {}
        self._held = OneHeld()
        self._made_again: dict[str, Callable[[], None]] = {}

    @property
    def weightless(self) -> bool:
        """Whether the run has no model of its own: it makes data, and a backend without weights writes them."""
        return not self.recipe.trains and self.recipe.generation.weightless

    @property
    def name(self) -> str:
        """What the start is called: the recipe's model, or who answers in its place."""
        return self.weightless_policy().name if self.weightless else self.recipe.model.name

    def initial_policy(self, say: Callable[[str], None]) -> Policy:
        """Fetch the recipe's model where it has to be fetched, telling how far, and name its content."""
        if self.weightless:
            return self.weightless_policy()
        settings, generation = self.recipe.model, self.recipe.generation
        backend = "transformers" if generation.weightless else generation.backend
        options = {"trust_remote_code": settings.trust_remote_code, "revision": settings.revision}
        found = self._fetched(settings.name, backend, options, say)
        if settings.chat_template_kwargs:
            self.chat(found)  # raises for a variable that its template does not read
        return replace(found, fingerprint=f"{found.fingerprint} in {self.bits} bits") if self.bits else found

    def responder_model(self, policy: Policy, say: Callable[[str], None]) -> Policy:
        """Return the model that writes the training responses: ``policy``, or in mode offline the recipe's own."""
        settings = self.recipe.generation
        if settings.weightless and not policy.weightless:
            return self.weightless_policy()
        if settings.model is None:
            return policy
        if not policy.fingerprint:  # a dry run for models that are not on this machine
            return Policy(0, settings.model, "", settings.backend, settings.model, foreign=True)
        return replace(self._fetched(settings.model, settings.backend, {}, say), foreign=True)

    def weightless_policy(self) -> Policy:
        """Return the backend without weights that answers in a model's place."""
        backend = self.recipe.generation.backend
        if not BACKENDS[backend].remote:
            return Policy(0, backend, backend, backend, backend)
        model = str(self.recipe.generation.endpoint.model)
        return Policy(0, backend, self._with_kwargs(f"{backend}:{model}"), backend, model)

    def _with_kwargs(self, fingerprint: str) -> str:
        """Return a fingerprint that names the variables of the chat template too."""
        kwargs = self.recipe.model.chat_template_kwargs
        return f"{fingerprint} with {json.dumps(kwargs, sort_keys=True)}" if kwargs else fingerprint

    def _fetched(self, name: str, backend: str, options: dict[str, Any], say: Callable[[str], None]) -> Policy:
        from selfsteer.models import model_fingerprint, resolve, silence_transformers

        silence_transformers()
        told: set[str] = set()

        def progress(phrase: str, share: float) -> None:
            if phrase not in told:
                told.add(phrase)
                say(f"      {phrase} ({share:.0%})")

        path = resolve(name, progress=progress)
        content = model_fingerprint(path, **options, chat=True)
        return Policy(0, path, self._with_kwargs(content), backend, name, options)

    def chat(self, policy: Policy) -> Chat | None:
        """Return the policy's chat template; None where there are no tokens.

        A trained policy has that of its start, so it is known before anything is trained.
        """
        if policy.weightless:
            return None
        policy = policy.start or policy
        if policy.path not in self._chats:
            kwargs = self.recipe.model.chat_template_kwargs
            options = {**policy.options, **({} if self.runs_code else {"trust_remote_code": False})}
            self._chats[policy.path] = Chat.load(
                policy.path, template_kwargs=kwargs, strict=not policy.foreign, **options
            )
        return self._chats[policy.path]

    def may_think(self, policy: Policy) -> bool:
        """Whether the policy may think before it answers."""
        # A plan may be made for a model that is not on this machine; it has no fingerprint, and no template to read.
        return may_think(policy.backend, self.chat(policy) if (policy.start or policy).fingerprint else None)

    def backend(self, policy: Policy) -> Backend:
        """Return a backend that samples from the policy, or that answers in its place."""
        recipe, name = self.recipe, policy.backend
        kwargs = recipe.model.chat_template_kwargs
        if policy.weightless:
            prices = self.writer.prices if self.writer else {}
            usage = self.run_dir / USAGE
            server = BackendSource(recipe.generation, recipe.seed, kwargs, usage=usage, other_prices=prices)
            if not BACKENDS[name].remote:
                return open_backend(name, server)  # holding it would free a model that is needed again
            return self._held.hold((name,), lambda: open_backend(name, server))
        chat, dtype = self.chat(policy), self.precision(recipe.generation.precision)
        assert chat is not None  # only backends without weights have none
        weights = Weights(policy.path, chat, dtype, policy.options, load=lambda: self._load(policy, dtype))
        source = BackendSource(recipe.generation, recipe.seed, kwargs, weights)
        if BACKENDS[name].runs == "model":
            return open_backend(name, source)  # its model is held already, for scoring too

        def start() -> Backend:
            self.make(policy)
            return open_backend(name, source)

        return self._held.hold((name, policy.path, dtype), start)

    def writing_backend(self, policy: Policy) -> Backend:
        """Return the backend that chooses aspects and writes principles: of ``principles.model``, else the policy's."""
        if self.writer is None:
            return self.backend(policy)
        writer = self.writer
        return self._held.hold(("writer",), lambda: writer.open(self.run_dir / USAGE))

    def lengths(self, policy: Policy, context: int | None = None) -> Lengths:
        """Return the lengths of prompts as the policy's backend has them; a local model need not be loaded for it.

        Args:
            context: Tokens that fit, as far as planning has to know.
        """
        chat = self.chat(policy)
        return self.backend(policy) if chat is None else _TokenLengths(chat, context)

    def writing_lengths(self, policy: Policy) -> Lengths:
        """Return the lengths of prompts for :meth:`writing_backend`."""
        if self.writer is None:
            return self.lengths(policy)
        chat = self.writer.chat
        return self.writing_backend(policy) if chat is None else _TokenLengths(chat, None)

    def sampling_executor(self, policy: Policy) -> Executor:
        """Return what does the planned batches of a stage that samples from the policy.

        That is this process, or as many others as ``generation.engines`` says. These are held as a model is: they stay
        until another model is needed here, or until :meth:`free`, so none holds memory while something is trained.
        """
        return self._executor(policy.backend, policy)

    def scoring_executor(self, policy: Policy) -> Executor:
        """Return what does the batches of a stage that scores under the policy; as :meth:`sampling_executor`."""
        return self._executor("transformers", policy)

    def writing_executor(self, policy: Policy) -> Executor:
        """Return what does the batches of a stage that uses :meth:`writing_backend`; as :meth:`sampling_executor`."""
        return self._executor(self.writer.backend, None) if self.writer else self._executor(policy.backend, policy)

    def _executor(self, backend: str, policy: Policy | None) -> Executor:
        device = "" if self.weightless else self.device
        if self.recipe.executor == "ray" and not BACKENDS[backend].remote:
            return self._ray_executor(backend, policy)
        count = engine_count(self.recipe, backend, device)
        if count == 1:
            return InProcess(self)
        if policy is not None:
            self.make(policy)  # the others don't know how
        each = gpus_each(self.recipe, backend)

        def start() -> WorkerPool:
            own = partial(ModelPool, self.recipe, self.run_dir)
            return WorkerPool(own, count, environments=environments(count, each, device))

        pool: WorkerPool = self._held.hold(("engines", count, each), start)
        return pool

    def filtering_executor(self, *, classifies: bool) -> Executor:
        """Return the actors of a stage that needs no model of the run's own; ``classifies``: it has a classifier."""
        return self._ray_executor("transformers" if classifies else "scripted", None)

    def _ray_executor(self, backend: str, policy: Policy | None) -> Executor:
        """Return actors of the Ray cluster; they end with each stage, the connection stays."""
        device = "" if self.weightless else self.device
        if policy is not None:
            self.make(policy)  # they don't know how
        connect(self.recipe.ray.address)

        def start() -> RayExecutor:
            # They load models; what they do themselves is local.
            own = self.recipe.model_copy(update={"executor": "local", "ray": RaySettings()})
            share = partial(ray_share, self.recipe, backend, device)
            return RayExecutor(partial(ModelPool, own, self.run_dir), share)

        executor: RayExecutor = self._held.hold(("ray", backend), start)
        return executor

    def when_gone(self, policy: Policy, make: Callable[[], None]) -> None:
        """Say how a policy's weights are made again, should they be needed when they are not there any more."""
        self._made_again[policy.path] = make

    def make(self, policy: Policy) -> None:
        """Make a policy's weights again where they are gone and :meth:`when_gone` said how."""
        if policy.path in self._made_again and not Path(policy.path).exists():
            self.free()
            self._made_again[policy.path]()

    def scorer(self, policy: Policy) -> Scorer | None:
        """Return what scores responses under the policy, in the precision it is trained in; None without weights."""
        chat = self.chat(policy)
        if chat is None:
            return None
        from selfsteer.stages.scorer import Scorer

        autocast = self.precision(self.recipe.train.precision) == "bfloat16"
        return Scorer(self._load(policy, "float32"), chat, autocast=autocast, max_length=self.recipe.train.max_length)

    def trainable(self, policy: Policy) -> Any:
        """Return the policy with float32 weights, to be trained; it is not held here any more afterwards."""
        model = self._load(policy, "float32")
        self._held.give_away()
        return model

    def sampling_key(self, policy: Policy) -> list[Any]:
        """Return what texts depend on besides the requests: who samples, in what precision, how many at once.

        In vLLM, also on those of its arguments that change more than speed and memory.
        """
        settings = self.recipe.generation
        precision = None if policy.weightless else self.precision(settings.precision)
        own = [policy.backend, policy.fingerprint, precision, settings.batch_of(policy.backend)]
        if not settings.vllm:  # as with all other backends
            return own
        from selfsteer.backends.vllm import acting_on_texts

        options = acting_on_texts(settings.vllm)
        return [*own, options] if options else own

    def precision(self, asked: str) -> str:
        """Return "bfloat16" or "float32" for a recipe's "auto"."""
        from selfsteer.models import pick_dtype

        return pick_dtype(asked, self.device)

    @property
    def bits(self) -> int | None:
        """In how many bits the weights are held, None where they are whole."""
        lora = self.recipe.train.lora
        return None if lora is None or self.weightless else lora.bits

    @cached_property
    def device(self) -> str:
        """The device the recipe asks for, or the best there is; :class:`ConfigError` where nothing can be computed."""
        from selfsteer.backends.local_model import usable_device

        return usable_device(self.recipe.model.device, "model.device")

    def free(self) -> None:
        """Let go of the model in memory."""
        self._held.free()

    def _load(self, policy: Policy, dtype: str) -> Any:
        def load() -> Any:
            from selfsteer.models import load_model

            self.make(policy)
            bits: dict[str, Any] = {"bits": self.bits} if self.bits and not policy.foreign else {}
            return load_model(policy.path, dtype=dtype, device=self.device, **policy.options, **bits)

        return self._held.hold(("transformers", policy.path, dtype), load)
