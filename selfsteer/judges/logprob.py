"""Language models as judges, by the log-probs of the two labels as their reply."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from selfsteer.backends import Failure
from selfsteer.files import fingerprint
from selfsteer.judges.answer_cache import TOO_LONG, Answer, blocked_answer, scored_answer
from selfsteer.judges.base import PresentedPair
from selfsteer.judges.template import JudgeTemplate
from selfsteer.models.rope import context_of
from selfsteer.records import Message

if TYPE_CHECKING:
    from selfsteer.backends.endpoint import EndpointBackend
    from selfsteer.chat import Chat


_VERSION = 2
"""Version of the tokenisation of question and labels."""
_SCORES = "the judge's log-probs of its two labels"


class LogprobJudge:
    """A local model, judged by the log-probs of the two labels as its reply.

    Args:
        load: Returns the causal language model in eval mode; called when the first answer is asked for.
        weights: Identifies the weights, their precision and the tokenizer; part of the cache key.
        batch_size: Presentations scored at once; it affects memory, not the result.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        chat: Chat,
        *,
        name: str,
        weights: str,
        template: JudgeTemplate,
        batch_size: int = 8,
    ) -> None:
        self._load, self.chat, self.template, self.batch_size = load, chat, template, batch_size
        self.name = f"{name} (log-probs)"
        self.key = fingerprint(["logprobs", _VERSION, weights, chat.fingerprint, template.fingerprint])
        self._labels = [chat.encode_response(label, False) for label in template.labels]

    def answer(self, shown: Sequence[PresentedPair]) -> list[Answer]:
        """Return each presentation's log-odds, invalid where it does not fit the context. They must be finite."""
        prompts = [self.template.messages(one, "logprobs") for one in shown]
        scores = label_scores(self._model, self.chat, prompts, self._labels)
        return [TOO_LONG if one is None else scored_answer(one, _SCORES, self.name) for one in scores]

    @cached_property
    def _model(self) -> Any:
        return self._load()


def label_scores(
    model: Any, chat: Chat, prompts: Sequence[Sequence[Message]], labels: Sequence[Sequence[int]]
) -> list[list[float] | None]:
    """Return the log-probs (nats) of each label's tokens as the reply to each prompt; None where they don't fit.

    A thought that the chat template opens is closed first. Raises :class:`PromptRefused` as :meth:`Chat.encode`.
    """
    import torch

    from selfsteer.logprobs import PromptRow, score_responses

    ids = [chat.without_thought(chat.encode(one)) for one in prompts]
    room = (context_of(model.config) or math.inf) - max(map(len, labels))
    rows = [PromptRow(one, labels) for one in ids if len(one) <= room]
    with torch.inference_mode():  # the head in float32: in bfloat16 two labels would often be equal
        scores = iter(score_responses(model, rows, wide_head=True))
    return [next(scores).tolist() if len(one) <= room else None for one in ids]


class EndpointLogprobJudge:
    """A model behind an endpoint that gives log-probs, judged by those of the two labels as its reply.

    Args:
        source: Identifies the endpoint and its model; part of the cache key.
        batch_size: Presentations asked at once; the backend limits the concurrent requests.
    """

    def __init__(
        self, backend: EndpointBackend, *, name: str, source: str, template: JudgeTemplate, batch_size: int = 64
    ) -> None:
        self.backend, self.template, self.batch_size = backend, template, batch_size
        self.name = f"{name} (log-probs)"
        self.key = fingerprint(["logprobs", source, template.fingerprint])

    def answer(self, shown: Sequence[PresentedPair]) -> list[Answer]:
        """Return each presentation's log-odds, None where the server gives one label only, invalid without any."""
        prompts = [self.template.messages(one, "logprobs") for one in shown]
        return [_by_named(found) for found in self.backend.label_logprobs(prompts, self.template.labels)]


def _by_named(found: Sequence[float | None] | Failure) -> Answer:
    if isinstance(found, Failure):
        return blocked_answer(found)
    first, second = found
    if first is not None and second is not None:
        return scored_answer((first, second), _SCORES, "judge")
    if first is second:  # both None
        return Answer(0, valid=False, why="neither label is among the likeliest replies")
    return Answer(-1 if first is None else 1)  # the server lists the likeliest tokens: the other label is less likely
