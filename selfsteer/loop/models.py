"""The models a run uses, loaded when a stage first needs them and freed when another is asked for."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selfsteer.backends import Backend
from selfsteer.backends.scripted import ScriptedBackend
from selfsteer.chat import Chat
from selfsteer.config import Recipe

if TYPE_CHECKING:
    from selfsteer.loop.scoring import Scorer


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

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.scripted = recipe.generation.backend == "scripted"
        self._chats: dict[str, Chat] = {}
        self._held: tuple[tuple[str, str], Any] | None = None

    def start(self, say: Callable[[str], None]) -> Policy:
        """Fetch the recipe's model where it has to be fetched, telling how far, and name its weights."""
        if self.scripted:
            return Policy(0, "scripted", "scripted")
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
        """Return the policy's chat template; None for the scripted backend."""
        if self.scripted:
            return None
        if policy.path not in self._chats:
            from selfsteer.models import end_token_ids, load_tokenizer

            options = self._options(policy)
            tokenizer = load_tokenizer(policy.path, **options)
            self._chats[policy.path] = Chat(tokenizer, end_token_ids(policy.path, **options))
        return self._chats[policy.path]

    def backend(self, policy: Policy) -> Backend:
        """Return a backend that samples from the policy."""
        chat = self.chat(policy)
        if chat is None:
            return ScriptedBackend()
        from selfsteer.backends.transformers import TransformersBackend

        dtype = self.precision(self.recipe.generation.precision)
        return TransformersBackend(self._load(policy, dtype), chat)

    def scorer(self, policy: Policy) -> Scorer | None:
        """Return what scores responses under the policy, in the precision it is trained in; None when scripted."""
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
        return None if lora is None or self.scripted else lora.bits

    @property
    def device(self) -> str:
        """The device the recipe asks for, or the best there is."""
        from selfsteer.models import pick_device

        asked = self.recipe.model.device
        return pick_device() if asked == "auto" else asked

    def free(self) -> None:
        """Let go of the model in memory."""
        self._held = None
        gc.collect()

    def _load(self, policy: Policy, dtype: str) -> Any:
        wanted = (policy.path, dtype)
        if self._held is None or self._held[0] != wanted:
            self.free()
            from selfsteer.models import load_model

            options = self._options(policy) | ({"bits": self.bits} if self.bits else {})
            self._held = (wanted, load_model(policy.path, dtype=dtype, device=self.device, **options))
        return self._held[1]

    def _options(self, policy: Policy) -> dict[str, Any]:
        """A trained policy lies in the run directory: revision and remote code concern the start alone."""
        if policy.round:
            return {}
        return {"trust_remote_code": self.recipe.model.trust_remote_code, "revision": self.recipe.model.revision}
