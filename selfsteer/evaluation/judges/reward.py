"""Reward models as judges: each response is scored by itself, so the better of two has no place to be preferred for."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from selfsteer.chat import ChatTemplate
from selfsteer.errors import ModelError, StorageError, WorkFailed
from selfsteer.evaluation.judges.base import Shown
from selfsteer.evaluation.judges.cache import Answer
from selfsteer.files import fingerprint, write_atomic
from selfsteer.logprobs.keys import weights_key
from selfsteer.models import cache_folder, loading, model_fingerprint, resolve
from selfsteer.models.classifiers import missing_head, read_classifier
from selfsteer.models.problems import loading_errors
from selfsteer.models.resolving import gguf_file, is_adapter
from selfsteer.records import Message

TokenIds = tuple[int, ...]

_WEIGHTS_KEY = re.compile(r"[0-9a-f]{32}")
_TOO_LONG = "does not fit into the reward model's context"
_LENGTH_BOUND_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that change with the length of the whole (padded) sequence."""


class RewardJudge:
    """A reward model: the log-odds are r(first) - r(second), as in the Bradley-Terry model it was trained by.

    It judges quality as it was trained to; a pair's criterion and whether a response was cut off don't reach it. Scores
    don't depend on what else is in a batch (in float32; half precision rounds differently for other shapes).

    Args:
        load: Gives a sequence-classification model with one output, in eval mode (:func:`load_reward_model`); called
            when the first answer is asked for, or for the key where ``kept`` does not name the weights yet.
        tokenizer: Its tokenizer; the chat template renders prompt and response as a finished conversation.
        config: Its configuration.
        name: For tables.
        kept: A file that keeps the name of the weights (:func:`weights_file`), so that a judge of the same weights
            knows its key without loading them. None keeps nothing.
        batch_size: Presentations to be given at once, and responses scored at once; it bounds memory, not the result.
        max_length: Tokens of a conversation; a pair with a longer one gets no valid answer. None takes the model's own.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        tokenizer: Any,
        *,
        config: Any,
        name: str,
        kept: Path | None = None,
        batch_size: int = 8,
        max_length: int | None = None,
    ) -> None:
        self._load, self._kept = load, kept
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self.name = f"{name} (reward)"
        text_config = config.get_text_config()
        self.max_length = max_length or getattr(text_config, "max_position_embeddings", None)
        self._pad_token_id = text_config.pad_token_id

    @cached_property
    def model(self) -> Any:
        """The model, loaded by the first who asks."""
        return self._load()

    @cached_property
    def key(self) -> str:
        """Names the weights, the vocabulary, the chat template, the length limit and the configured padding."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        texts = [vocabulary, self.tokenizer.chat_template, self.max_length, self._pad_token_id]
        return fingerprint(["reward", self._weights(), *texts])

    def answer(self, shown: Sequence[Shown]) -> list[Answer]:
        """Return one answer a presentation, in order; each distinct conversation is scored once.

        Raises:
            ModelError: The chat template refuses a prompt.
            WorkFailed: A score is not finite.
        """
        rendered = [tuple(self._render(one.pair.prompt, text) for text in one.responses) for one in shown]
        scores = self._scores(ids for both in rendered for ids in both if self._fits(both))
        return [self._answer(one, both, scores) for one, both in zip(shown, rendered, strict=True)]

    def cost(self, shown: Shown) -> int:
        """Return the number of characters."""
        return sum(map(len, shown.responses)) + 2 * sum(len(message["content"]) for message in shown.pair.prompt)

    def _answer(self, shown: Shown, both: Sequence[TokenIds], scores: dict[TokenIds, float]) -> Answer:
        if not self._fits(both):
            return Answer(0, text=_TOO_LONG, valid=False)
        first, second = (scores[ids] for ids in both)
        if not (math.isfinite(first) and math.isfinite(second)):
            what = f"the reward model's scores are {first} and {second}"
            do = "load it in float32: half precision may overflow"
            raise WorkFailed(what, where=f"pair {shown.pair.id!r}, judge {self.name!r}", do=do)
        return Answer((first > second) - (first < second), log_odds=first - second)

    def _render(self, prompt: Sequence[Message], response: str) -> TokenIds:
        """Return the token ids of the whole conversation, with the end that the template gives a reply."""
        from jinja2 import TemplateError

        messages = [*prompt, {"role": "assistant", "content": response}]
        try:
            ids = self._template.encode(messages, cue=False)
        except (TemplateError, TypeError) as error:
            what = f"its chat template refuses the roles {', '.join(message['role'] for message in messages)}: {error}"
            raise ModelError(
                what, where=self.name, do="bring the prompts into the form this model's template takes"
            ) from error
        return tuple(ids)

    @cached_property
    def _template(self) -> ChatTemplate:
        """The template, in which a response that holds the text of a control token does not end its turn."""
        return ChatTemplate(self.tokenizer)

    def _fits(self, both: Sequence[TokenIds]) -> bool:
        return self.max_length is None or max(map(len, both)) <= self.max_length

    def _scores(self, conversations: Iterable[TokenIds]) -> dict[TokenIds, float]:
        """Return the reward of each distinct conversation; those of one batch are about as long as each other."""
        ordered = sorted(dict.fromkeys(conversations), key=len)
        scores: dict[TokenIds, float] = {}
        for batch in self._batches(ordered):
            scores |= zip(batch, self._forward(batch), strict=True)
        return scores

    def _batches(self, ordered: Sequence[TokenIds]) -> Iterator[list[TokenIds]]:
        ropes = str(getattr(self.model.config.get_text_config(), "rope_parameters", None))
        unpadded = any(kind in ropes for kind in _LENGTH_BOUND_ROPE)
        batch: list[TokenIds] = []
        for ids in ordered:
            if len(batch) == self.batch_size or (unpadded and batch and len(ids) != len(batch[0])):
                yield batch
                batch = []
            batch.append(ids)
        if batch:
            yield batch

    @torch.inference_mode()
    def _forward(self, batch: Sequence[TokenIds]) -> list[float]:
        """Return the rewards of right-padded conversations."""
        width, device = max(map(len, batch)), self.model.device
        mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids in batch]
        with self._pad_id(batch) as pad:
            rows = [[*ids, *[pad] * (width - len(ids))] for ids in batch]
            logits = self.model(
                input_ids=torch.tensor(rows, device=device), attention_mask=torch.tensor(mask, device=device)
            ).logits
        rewards: list[float] = logits.float().reshape(len(batch)).tolist()
        return rewards

    @contextlib.contextmanager
    def _pad_id(self, batch: Sequence[TokenIds]) -> Iterator[int]:
        """Yield an id to pad with, under which the model finds the same last token as in each row without padding.

        transformers takes the last token that is not the configuration's padding, even in a row that has none. So a
        configured id stays, and where there is none the stand-in must end no row: the tokenizer's own is often the end
        token, and would take the score from the token before it.
        """
        config = self.model.config.get_text_config()
        own = config.pad_token_id
        if own is not None and 0 <= own < config.vocab_size:
            yield own
            return
        last = {ids[-1] for ids in batch}
        config.pad_token_id = next(id for id in range(config.vocab_size) if id not in last)
        try:
            yield config.pad_token_id
        finally:
            config.pad_token_id = own

    def _weights(self) -> str:
        """Return the :func:`weights_key` of the model, from the file that keeps it where that is there."""
        known = self._kept.read_text(errors="replace") if self._kept and self._kept.is_file() else ""
        if _WEIGHTS_KEY.fullmatch(known):
            return known
        found = weights_key(self.model)
        if self._kept:
            # A cache that can't be written costs time, not correctness.
            with contextlib.suppress(StorageError):
                write_atomic(self._kept, found)
        return found


def weights_file(source: str, *, dtype: str, trust_remote_code: bool = False, revision: str | None = None) -> Path:
    """Return the file in the cache folder that keeps the :func:`weights_key` of a reward model once it was loaded.

    Its name goes by all that the key goes by: the content of the model's files, the precision, and what makes modules
    and their names of them: the release of transformers, or the model's own code.

    Args:
        source: A local folder or a hub name.
        dtype: What the weights are loaded in.
        trust_remote_code: Whether Python code that the model brings is run.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelError: There are no weights.
        FetchError: The hub can't be asked.
    """
    import transformers

    made = [model_fingerprint(source, revision), dtype, trust_remote_code, transformers.__version__]
    return cache_folder() / "reward_weights" / fingerprint(made)


def reward_config(source: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """Return a reward model's configuration, once everything is checked that can be told without its weights.

    Args:
        source: A local folder or a hub name.
        trust_remote_code: Run Python code that the model brings.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelError: It is no reward model, or can't be used as it is.
        FetchError: It can't be fetched.
    """
    from transformers import AutoConfig

    _check_form(source)
    if Path(source).is_dir():
        loading.check_folder(Path(source))
    with loading_errors(source):
        config = AutoConfig.from_pretrained(source, revision=revision or "main", trust_remote_code=trust_remote_code)
    # A model of texts and images has two configurations, and only loading tells which of them counts.
    _check_outputs(source, config.num_labels, config.get_text_config().num_labels)
    return config


def load_reward_model(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Any:
    """Return a reward model in eval mode on ``device``: a sequence-classification model with one output.

    Args:
        name: A catalogue name, a local folder or a hub name.
        device: "cpu", "cuda", "cuda:1", ...
        dtype: "float32", "bfloat16" or "float16".
        trust_remote_code: Run Python code that the model brings.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelError: It is no reward model, or can't be used as it is.
        FetchError: It can't be fetched.
        ConfigError: No such dtype or device.
    """
    loading.check_dtype(dtype)
    loading.check_device(device)
    source = resolve(name)
    _check_form(source)
    with loading_errors(source):
        model, info = read_classifier(source, dtype, revision, trust_remote_code)
    _check_head(model, info, source)
    loading.check_complete(info, source)
    _check_outputs(source, model.config.num_labels)
    model.config.use_cache = False  # one pass a text: there is nothing to keep keys and values for
    return model.to(device).eval()


def _check_form(source: str) -> None:
    if is_adapter(source):
        do = "merge it into its base with peft (merge_and_unload, save_pretrained) and give that folder"
        raise ModelError("a reward model can't be loaded from an adapter", where=source, do=do)
    if gguf_file(source) is not None:
        do = "give the reward model's folder with *.safetensors"
        raise ModelError("a GGUF file holds a language model, not a reward model", where=source, do=do)


def _check_head(model: Any, info: dict[str, Any], source: str) -> None:
    """Raise for a checkpoint without the head: transformers would go on with a random one."""
    lacking = missing_head(model, info)
    if not lacking:
        return
    others = ", ".join(sorted(info["unexpected_keys"])[:3])
    held = f"; what it has besides its layers: {others}" if others else ""
    raise ModelError(
        f"{source} has no score head ({', '.join(lacking)}), so it is no reward model{held}",
        where=source,
        do="give a sequence-classification model with one output; a language model can judge by its log-probs",
    )


def _check_outputs(source: str, *outputs: int) -> None:
    if 1 not in outputs:
        what = f"{source} gives {outputs[0]} numbers a text; a reward model gives one"
        do = "give a reward model; a language model can judge without reward:, by its log-probs"
        raise ModelError(what, where=f"{source}: config.json: num_labels (id2label)", do=do)
