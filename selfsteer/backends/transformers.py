"""Generation with transformers' own ``generate``: batched, sorted, seeded, with the shared prefix computed once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from selfsteer.backends.base import Completion, Prompt, Sampling
from selfsteer.backends.nucleus import NucleusSampler
from selfsteer.chat import Chat


class TransformersBackend:
    """Completions from a loaded causal language model.

    Args:
        model: A model in eval mode, in the precision to generate with.
        chat: Its template.
    """

    name = "transformers"

    def __init__(self, model: Any, chat: Chat) -> None:
        self.model, self.chat = model, chat
        self._prefix: tuple[tuple[int, ...], Any] = ((), None)
        config = type(model.generation_config)()
        pad = chat.tokenizer.pad_token_id
        config.pad_token_id = chat.end_ids[0] if pad is None else pad
        config.eos_token_id = list(chat.end_ids)
        self._config = config

    @property
    def context(self) -> int | None:
        """Positions the model was made for, None where its configuration names none."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def length(self, prompt: Prompt) -> int:
        """Return the number of prompt tokens."""
        return len(self.chat.encode(prompt))

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, shared_prefix: Sequence[int] = ()
    ) -> list[Completion]:
        """Sample one completion a prompt, as one batch. The same batch and seed give the same completions."""
        if not prompts:
            return []
        encoded = [self.chat.encode(prompt) for prompt in prompts]
        prefix = list(shared_prefix) if self._can_share(shared_prefix, encoded, sampling) else []
        inputs = self._batch(encoded, len(prefix))
        if prefix:
            inputs["past_key_values"] = self._prefix_cache(prefix, len(encoded))
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            with self._without_own_defaults():
                output = self.model.generate(**inputs, **self._drawing(sampling))
        sampled = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._completion(ids, prompt_ids) for ids, prompt_ids in zip(sampled, encoded, strict=True)]

    def _can_share(self, prefix: Sequence[int], encoded: Sequence[list[int]], sampling: Sampling) -> bool:
        """Whether all prompts go on from ``prefix``, and the padding after it leaves a sliding window as it is.

        Such a window counts the padding, so with it the rest would see less of the prefix than in a row of its own.
        """
        size, width = len(prefix), max(map(len, encoded))
        if not size or any(ids[:size] != list(prefix) or len(ids) == size for ids in encoded):
            return False
        config = self.model.config.get_text_config()
        windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        window = min((window for window in windows if window), default=None)
        padded = any(len(ids) < width for ids in encoded)
        return window is None or not padded or width + sampling.max_new_tokens <= window

    @contextmanager
    def _without_own_defaults(self) -> Iterator[None]:
        """Hide the model's own defaults from ``generate``, which fills in from them what our configuration leaves open.

        With its top_k, repetition_penalty and the like the samples would come from something other than the policy.
        """
        owner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        own = owner.generation_config
        owner.generation_config = type(own)()
        try:
            yield
        finally:
            owner.generation_config = own

    def _batch(self, encoded: Sequence[list[int]], prefix: int) -> dict[str, Any]:
        """Pad between the shared prefix and the rest, so that the prefix stays where its cache is."""
        width = max(map(len, encoded))
        pad = self._config.pad_token_id
        rows = [ids[:prefix] + [pad] * (width - len(ids)) + ids[prefix:] for ids in encoded]
        mask = [[1] * prefix + [0] * (width - len(ids)) + [1] * (len(ids) - prefix) for ids in encoded]
        device = self.model.device
        return {
            "input_ids": torch.tensor(rows, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }

    def _prefix_cache(self, prefix: list[int], batch: int) -> Any:
        """Return the key-value cache of ``prefix``, kept from call to call, repeated over the batch."""
        if self._prefix[0] != tuple(prefix):
            ids = torch.tensor([prefix], device=self.model.device)
            cache = self.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
            self._prefix = (tuple(prefix), cache)
        cache = copy.deepcopy(self._prefix[1])
        cache.batch_repeat_interleave(batch)
        return cache

    def _drawing(self, sampling: Sampling) -> dict[str, Any]:
        """Return the arguments of ``generate`` that say how tokens are drawn."""
        config = copy.deepcopy(self._config)
        config.max_new_tokens = sampling.max_new_tokens
        config.do_sample = sampling.temperature > 0 and sampling.top_p == 1
        if config.do_sample:
            config.temperature, config.top_k = sampling.temperature, 0
        if sampling.temperature == 0 or config.do_sample:
            return {"generation_config": config}
        return {"generation_config": config, "logits_processor": [NucleusSampler(sampling.temperature, sampling.top_p)]}

    def _completion(self, ids: list[int], prompt_ids: list[int]) -> Completion:
        end = next((i for i, token in enumerate(ids) if token in self.chat.end_ids), None)
        kept = ids if end is None else ids[: end + 1]
        return Completion(self.chat.decode(kept), "length" if end is None else "stop", kept, prompt_ids)
