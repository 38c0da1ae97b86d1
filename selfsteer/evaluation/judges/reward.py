"""Reward models as judges: each response is scored by itself, so the better of two has no place to be preferred for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from selfsteer.chat import ChatTemplate
from selfsteer.errors import WorkFailed
from selfsteer.evaluation.judges.base import Shown
from selfsteer.evaluation.judges.cache import Answer
from selfsteer.files import fingerprint
from selfsteer.reward.scoring import TokenIds, context_of, conversation_ids, score_ids

_TOO_LONG = "does not fit into the reward model's context"


class RewardJudge:
    """A reward model: the log-odds are r(first) - r(second), as in the Bradley-Terry model it was trained by.

    It judges quality as it was trained to; a pair's criterion and whether a response was cut off don't reach it. Scores
    don't depend on what else is in a batch (in float32; half precision rounds differently for other shapes).

    Args:
        load: Gives a sequence-classification model with one output, in eval mode (:func:`load_reward_model`); called
            when the first answer is asked for.
        tokenizer: Its tokenizer; the chat template renders prompt and response as a finished conversation.
        config: Its configuration.
        name: For tables.
        content: Names its weights with their precision, its configuration, tokenizer and chat template; answers are
            kept under it. Without a name none are kept.
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
        content: str = "",
        batch_size: int = 8,
        max_length: int | None = None,
    ) -> None:
        self._load = load
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self.name = f"{name} (reward)"
        self.max_length = max_length or context_of(config)
        self.key = fingerprint(["reward", content, self.max_length]) if content else ""

    @cached_property
    def model(self) -> Any:
        """The model, loaded by the first who asks."""
        return self._load()

    def answer(self, shown: Sequence[Shown]) -> list[Answer]:
        """Return one answer a presentation, in order; each distinct conversation is scored once.

        Raises:
            ModelError: The chat template refuses a prompt.
            WorkFailed: A score is not finite.
        """
        rendered = [tuple(self._render(one, text) for text in one.responses) for one in shown]
        fitting = (ids for both in rendered for ids in both if self._fits(both))
        scores = score_ids(self.model, fitting, batch_size=self.batch_size)
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

    def _render(self, shown: Shown, response: str) -> TokenIds:
        messages = [*shown.pair.prompt, {"role": "assistant", "content": response}]
        return conversation_ids(self._template, messages, self.name)

    @cached_property
    def _template(self) -> ChatTemplate:
        """The template, in which a response that holds the text of a control token does not end its turn."""
        return ChatTemplate(self.tokenizer)

    def _fits(self, both: Sequence[TokenIds]) -> bool:
        return self.max_length is None or max(map(len, both)) <= self.max_length
