"""Generation with transformers' ``generate``: batched, seeded, a shared prefix computed once, ended rows dropped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessor, StoppingCriteria
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from selfsteer.backends.base import Completion, Prompt, Sampling, cut_tokens_at_stop, stop_place
from selfsteer.backends.source import BackendSource
from selfsteer.backends.top_p import NucleusSampler
from selfsteer.chat import Chat
from selfsteer.errors import ModelError
from selfsteer.models.rope import context_of, forget_lengths
from selfsteer.records import Finish

_COMPACT = 4
"""Compact the batch once 1/N of its rows have finished: each time the others' cache is copied once."""
_SPARE = 8
"""Tokens that are looked at for a stop string beyond those that hold it: special ones, half characters."""


def open_backend(source: BackendSource) -> TransformersBackend:
    """Return a backend on the loaded model, which a run also scores with."""
    assert source.weights is not None
    return TransformersBackend(source.weights.load(), source.weights.chat)


class TransformersBackend:
    """Completions from a loaded causal language model in eval mode, in the precision to generate with."""

    name = "transformers"

    def __init__(self, model: Any, chat: Chat) -> None:
        self.model, self.chat = model, chat
        self._prefix: tuple[tuple[int, ...], Any] = ((), None)
        config = type(model.generation_config)()
        rows = model.get_input_embeddings().weight.shape[0]
        # Padding is masked: any token with an embedding will do.
        pads = (chat.tokenizer.pad_token_id, *chat.end_ids, 0)
        config.pad_token_id = next(id for id in pads if id is not None and id < rows)
        config.eos_token_id = list(chat.end_ids)
        self._config = config

    @property
    def context(self) -> int | None:
        """Positions that the model takes, None where its configuration names none."""
        return context_of(self.model.config)

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
        forget_lengths(self._owner)  # else a batch depends on the longest one before it
        encoded = [self.chat.encode(prompt) for prompt in prompts]
        prefix = list(shared_prefix) if self._can_share(shared_prefix, encoded, sampling) else []
        # Padded between shared prefix and rest: the prefix stays where its cache is.
        shared, width, pad, device = len(prefix), max(map(len, encoded)), self._config.pad_token_id, self.model.device
        rows = [ids[:shared] + [pad] * (width - len(ids)) + ids[shared:] for ids in encoded]
        mask = [[1] * shared + [0] * (width - len(ids)) + [1] * (len(ids) - shared) for ids in encoded]
        cache = self._prefix_cache(prefix, len(encoded)) if prefix else self._empty_cache()
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            with self._without_own_defaults():
                sampled = self._sample(
                    torch.tensor(rows, device=device), torch.tensor(mask, device=device), cache, sampling
                )
        completions = []
        for new, prompt_ids in zip(sampled, encoded, strict=True):
            end = next((i for i, token in enumerate(new) if token in self.chat.end_ids), None)
            kept = new if end is None else new[: end + 1]
            finish: Finish = "length" if end is None else "stop"
            found = Completion(self.chat.decode(kept), finish, kept, prompt_ids)
            completions.append(cut_tokens_at_stop(found, sampling.stop, self.chat.decode))
        return completions

    def _sample(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any, sampling: Sampling) -> list[list[int]]:
        """Return the sampled ids of each row, padding after an end token included.

        ``generate`` computes every row until the last one has ended. So it is stopped when enough of them have, and
        resumes with the others. ``mask`` (B, T) is 0 at the padding of the prompts; ``cache`` is that of a prefix that
        is computed already, None leaves it to the model.
        """
        thins = _selectable(cache)
        sampled: list[list[int]] = [[] for _ in ids]
        rows, left, width = list(range(len(ids))), sampling.max_new_tokens, ids.shape[1]
        stopped = _Stopped(sampling.stop, self.chat.decode, width) if sampling.stop else None
        while rows and left:
            ended = _Ended(self.chat.end_ids, len(rows) / _COMPACT if thins else len(rows), ids, stopped)
            inputs = {"input_ids": ids, "attention_mask": mask} | (
                {"past_key_values": cache} if cache is not None else {}
            )
            output = self.model.generate(**inputs, **self._drawing(sampling, left), stopping_criteria=[ended])
            new = output.sequences[:, ids.shape[1] :]
            for row, found in zip(rows, new.tolist(), strict=True):
                sampled[row] += found
            left -= new.shape[1]
            going = (~ended.rows).nonzero()[:, 0]
            rows = [rows[place] for place in going.tolist()]
            if rows and left:
                ids, mask = output.sequences[going], torch.cat([mask, torch.ones_like(new)], dim=1)[going]
                cache = output.past_key_values  # some models replace the given one
                cache.batch_select_indices(going)
        return sampled

    def _can_share(self, prefix: Sequence[int], encoded: Sequence[list[int]], sampling: Sampling) -> bool:
        """Whether all prompts start with ``prefix``, and the padding after it leaves a sliding window as it is.

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

    @property
    def _owner(self) -> Any:
        """The model itself where adapters are wrapped around it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @contextmanager
    def _without_own_defaults(self) -> Iterator[None]:
        """Hide the model's own defaults from ``generate``, which would fill our configuration in from them.

        With its top_k, repetition_penalty and the like the samples would not be the policy's.
        """
        owner = self._owner
        own = owner.generation_config
        owner.generation_config = type(own)()
        try:
            yield
        finally:
            owner.generation_config = own

    def _empty_cache(self) -> Any:
        """Return the cache that ``generate`` would make; None where no row can be dropped from it."""
        if not self._owner._supports_default_dynamic_cache():
            return None
        cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        return cache if _selectable(cache) else None  # a recurrent model's own code makes what it needs

    def _prefix_cache(self, prefix: list[int], batch: int) -> Any:
        """Return the key-value cache of ``prefix``, kept from call to call, repeated over the batch."""
        if self._prefix[0] != tuple(prefix):
            ids = torch.tensor([prefix], device=self.model.device)
            cache = self.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
            self._prefix = (tuple(prefix), cache)
        cache = copy.deepcopy(self._prefix[1])
        cache.batch_repeat_interleave(batch)
        return cache

    def _drawing(self, sampling: Sampling, tokens: int) -> dict[str, Any]:
        """Return the arguments of ``generate`` for how tokens are drawn, and how many at most."""
        config = copy.deepcopy(self._config)
        config.max_new_tokens = tokens
        config.return_dict_in_generate = True
        # Without top_p generate samples by itself; with it, NucleusSampler draws and a greedy search takes the token.
        config.do_sample = sampling.temperature > 0 and sampling.top_p == 1
        processors: list[LogitsProcessor] = [_FiniteLogits(str(self.model.config.name_or_path))]
        if config.do_sample:
            config.temperature, config.top_k = sampling.temperature, 0
        elif sampling.temperature > 0:
            processors.append(NucleusSampler(sampling.temperature, sampling.top_p))
        return {"generation_config": config, "logits_processor": processors}


class _FiniteLogits(LogitsProcessor):
    """Stops sampling where a row's logits are NaN or infinite: a draw would fail, a greedy search take any token."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (B, K) as they are."""
        if not torch.isfinite(scores.amax(-1)).all():  # NaN where any is; masked tokens are at minus infinity
            what = f"the logits of {self._source} are NaN or infinite, so no token can be drawn"
            do = (
                "compute in float32 or bfloat16 (float16 overflows); else the model is damaged or its training diverged"
            )
            raise ModelError(what, where=self._source, do=do)
        return scores


class _Stopped:
    """Tells which completions hold a stop string, from their last tokens.

    Args:
        start: Tokens of the prompts, padding included.
    """

    def __init__(self, stop: Sequence[str], decode: Callable[[list[int]], str], start: int) -> None:
        self._stop, self._decode, self._start = stop, decode, start
        # A token holds a byte or more, but for special ones, which are not in the text.
        self._tail = max(len(one.encode()) for one in stop) + _SPARE

    def rows(self, input_ids: torch.Tensor, ended: Sequence[bool]) -> list[bool]:
        """Return, for every row of (B, T), whether it has ended now."""
        tails = input_ids[:, max(self._start, input_ids.shape[1] - self._tail) :].tolist()
        return [
            done
            or (
                stop_place(self._decode(tail), self._stop) is not None
                # The text of the last tokens by themselves may be another one, as at a leading blank.
                and stop_place(self._decode(input_ids[row, self._start :].tolist()), self._stop) is not None
            )
            for row, (done, tail) in enumerate(zip(ended, tails, strict=True))
        ]


class _Ended(StoppingCriteria):
    """Stops ``generate`` when ``enough`` rows have ended by one of ``end_ids`` or a stop string.

    ``rows`` (B,) says which have.
    """

    def __init__(self, end_ids: Sequence[int], enough: float, ids: torch.Tensor, stopped: _Stopped | None) -> None:
        self.enough, self._stopped = enough, stopped
        self.rows = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        self._ends = torch.tensor(end_ids, device=ids.device)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return, for every row (B,), whether to stop."""
        self.rows |= torch.isin(input_ids[:, -1], self._ends)
        if self._stopped is not None:
            self.rows |= torch.tensor(self._stopped.rows(input_ids, self.rows.tolist()), device=self.rows.device)
        return torch.full_like(self.rows, int(self.rows.sum()) >= self.enough)


def _selectable(cache: Any) -> bool:
    """Return whether rows can be dropped from a cache: the class of recurrent states leaves all of them in it."""
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return cache is not None and all(type(layer) in plain for layer in cache.layers)
