"""The models a run uses, loaded when a stage first needs them and freed when another is asked for."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfsteer.backends import Backend
from selfsteer.backends.scripted import ScriptedBackend
from selfsteer.chat import Chat
from selfsteer.config import Recipe
from selfsteer.loop.writer import Writer

if TYPE_CHECKING:
    from selfsteer.loop.scoring import Scorer


USAGE = "usage.jsonl"
"""The file of a run directory that keeps what endpoints have used up."""


@dataclass(frozen=True)
class Policy:
    """A policy of the run: the start (round 0) or what a round trained.

    ``fingerprint`` names its weights: stages that use it depend on that. ``path`` is a folder or a hub name.
    """

    round: int
    path: str
    fingerprint: str


class Models:
    """Holds at most one model in memory: for generation in fast precision, or for scoring in float32.

    With ``train.lora.bits`` its weights are in 4 or 8 bits for everything: that model is the policy, so it generates,
    and its scores are the reference.
    """

    def __init__(self, recipe: Recipe, run_dir: Path) -> None:
        self.recipe, self.run_dir = recipe, run_dir
        self.weightless = recipe.generation.backend in ("scripted", "endpoint")
        self.writer = None if recipe.principles.model.kind == "policy" else Writer(recipe)
        """The model that writes the principles, where that is not the policy."""
        self._chats: dict[str, Chat] = {}
        self._held: tuple[tuple[str, ...], Any] | None = None

    @property
    def name(self) -> str:
        """What the start is called: the recipe's model, or who answers in its place."""
        settings = self.recipe.generation
        if settings.backend == "endpoint":
            return str(settings.endpoint.model)
        return "scripted" if settings.backend == "scripted" else self.recipe.model.name

    def start(self, say: Callable[[str], None]) -> Policy:
        """Fetch the recipe's model where it has to be fetched, telling how far, and name its weights."""
        if self.weightless:
            backend = self.recipe.generation.backend
            return Policy(0, backend, "scripted" if backend == "scripted" else f"endpoint:{self.name}")
        from selfsteer.models import model_fingerprint, quiet, resolve

        quiet()
        told: set[str] = set()

        def progress(phrase: str, share: float) -> None:
            if phrase not in told:
                told.add(phrase)
                say(f"      {phrase} ({share:.0%})")

        settings = self.recipe.model
        path = resolve(settings.name, progress=progress)
        weights = model_fingerprint(path, settings.revision)
        return Policy(0, path, f"{weights} in {self.bits} bits" if self.bits else weights)

    def chat(self, policy: Policy) -> Chat | None:
        """Return the policy's chat template; None where there are no tokens."""
        if self.weightless:
            return None
        if policy.path not in self._chats:
            from selfsteer.models import end_token_ids, load_tokenizer

            options = self._options(policy)
            tokenizer = load_tokenizer(policy.path, **options)
            self._chats[policy.path] = Chat(tokenizer, end_token_ids(policy.path, **options))
        return self._chats[policy.path]

    def backend(self, policy: Policy) -> Backend:
        """Return a backend that samples from the policy, or that stands for it."""
        settings = self.recipe.generation
        if settings.backend == "scripted":
            return ScriptedBackend()
        if settings.backend == "endpoint":
            return self._hold(("endpoint",), self._endpoint)
        chat = self.chat(policy)
        assert chat is not None  # only the two above have none
        dtype = self.precision(settings.precision)
        if settings.backend == "vllm":
            return self._hold(("vllm", policy.path, dtype), lambda: self._vllm(policy, chat, dtype))
        from selfsteer.backends.transformers import TransformersBackend

        return TransformersBackend(self._load(policy, dtype), chat)

    def _endpoint(self) -> Backend:
        from selfsteer.backends.endpoint import open_endpoint

        others = self.writer.prices if self.writer else {}
        return open_endpoint(self.recipe.generation.endpoint, self.run_dir / USAGE, others=others)

    def writing_backend(self, policy: Policy) -> Backend:
        """Return who chooses aspects and writes principles: the model that the recipe names for it, else the policy."""
        if self.writer is None:
            return self.backend(policy)
        writer = self.writer
        return self._hold(("writer",), lambda: writer.open(self.run_dir / USAGE))

    def _vllm(self, policy: Policy, chat: Chat, dtype: str) -> Backend:
        from selfsteer.backends.vllm import VllmBackend

        settings = self.recipe.generation
        return VllmBackend(
            policy.path, chat, dtype=dtype, options=settings.vllm, seed=self.recipe.seed, **self._options(policy)
        )

    def scorer(self, policy: Policy) -> Scorer | None:
        """Return what scores responses under the policy, in the precision it is trained in; None without weights."""
        chat = self.chat(policy)
        if chat is None:
            return None
        from selfsteer.loop.scoring import Scorer

        autocast = self.precision(self.recipe.train.precision) == "bfloat16"
        return Scorer(self._load(policy, "float32"), chat, autocast=autocast, max_length=self.recipe.train.max_length)

    def trainable(self, policy: Policy) -> Any:
        """Return the policy with float32 weights, to be trained; it is not held here any more afterwards."""
        model = self._load(policy, "float32")
        self._held = None
        return model

    def precision(self, asked: str) -> str:
        """Return "bfloat16" or "float32" for a recipe's "auto"."""
        from selfsteer.models import pick_dtype

        return pick_dtype(asked, self.device)

    @property
    def bits(self) -> int | None:
        """In how many bits the weights are held, None where they are whole."""
        lora = self.recipe.train.lora
        return None if lora is None or self.weightless else lora.bits

    @property
    def device(self) -> str:
        """The device the recipe asks for, or the best there is."""
        from selfsteer.models import pick_device

        asked = self.recipe.model.device
        return pick_device() if asked == "auto" else asked

    def free(self) -> None:
        """Let go of the model in memory."""
        if self._held is not None and hasattr(self._held[1], "close"):
            self._held[1].close()
        self._held = None
        gc.collect()

    def _load(self, policy: Policy, dtype: str) -> Any:
        def load() -> Any:
            from selfsteer.models import load_model

            options = self._options(policy) | ({"bits": self.bits} if self.bits else {})
            return load_model(policy.path, dtype=dtype, device=self.device, **options)

        return self._hold(("transformers", policy.path, dtype), load)

    def _hold(self, wanted: tuple[str, ...], load: Callable[[], Any]) -> Any:
        """Return what is held under that name, in place of whatever else is."""
        if self._held is None or self._held[0] != wanted:
            self.free()
            self._held = (wanted, load())
        return self._held[1]

    def _options(self, policy: Policy) -> dict[str, Any]:
        """A trained policy lies in the run directory: revision and remote code concern the start alone."""
        if policy.round:
            return {}
        return {"trust_remote_code": self.recipe.model.trust_remote_code, "revision": self.recipe.model.revision}
