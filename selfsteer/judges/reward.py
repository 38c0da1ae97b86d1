"""Reward models as judges: each response is scored by itself, so the better of two has no place to be preferred for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from selfsteer.chat_template import ChatTemplate
from selfsteer.errors import PromptRefused, WorkFailed
from selfsteer.files import fingerprint
from selfsteer.judges.answer_cache import REFUSED, TOO_LONG, Answer
from selfsteer.judges.base import PresentedPair
from selfsteer.models.rope import context_of
from selfsteer.reward.scoring import TokenIds, conversation_ids, score_ids


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
        template_kwargs: Variables for the chat template.
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
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._load = load
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self._template = ChatTemplate(tokenizer, template_kwargs)
        self._template.check_kwargs()
        self.name = f"{name} (reward)"
        self.max_length = max_length or context_of(config)
        variables = [self._template.kwargs] if self._template.kwargs else []
        self.key = fingerprint(["reward", content, self.max_length, *variables]) if content else ""

    @cached_property
    def model(self) -> Any:
        """The model, loaded by the first who asks."""
        return self._load()

    def answer(self, shown: Sequence[PresentedPair]) -> list[Answer]:
        """Return one answer a presentation, in order; each distinct conversation is scored once.

        Raises:
            WorkFailed: A score is not finite.
        """
        rendered = list(map(self._both, shown))
        fitting = (ids for both in rendered if not isinstance(both, str) and self._fits(both) for ids in both)
        scores = score_ids(self.model, fitting, batch_size=self.batch_size)
        return [self._answer(one, both, scores) for one, both in zip(shown, rendered, strict=True)]

    def cost(self, shown: PresentedPair) -> int:
        """Return the number of characters."""
        return sum(map(len, shown.responses)) + 2 * sum(len(message["content"]) for message in shown.pair.prompt)

    def _answer(self, shown: PresentedPair, both: Sequence[TokenIds] | str, scores: dict[TokenIds, float]) -> Answer:
        if isinstance(both, str):
            return Answer(0, text=both, valid=False, why=REFUSED)
        if not self._fits(both):
            return TOO_LONG
        first, second = (scores[ids] for ids in both)
        if not (math.isfinite(first) and math.isfinite(second)):
            what = f"the reward model's scores are {first} and {second}"
            do = "load it in float32: half precision may overflow"
            raise WorkFailed(what, where=f"pair {shown.pair.id!r}, judge {self.name!r}", do=do)
        return Answer((first > second) - (first < second), log_odds=first - second)

    def _both(self, shown: PresentedPair) -> Sequence[TokenIds] | str:
        """Return the ids of both conversations, or why the template refuses them."""
        try:
            return [self._render(shown, text) for text in shown.responses]
        except PromptRefused as error:
            return error.what

    def _render(self, shown: PresentedPair, response: str) -> TokenIds:
        messages = [*shown.pair.prompt, {"role": "assistant", "content": response}]
        return conversation_ids(self._template, messages, self.name)

    def _fits(self, both: Sequence[TokenIds]) -> bool:
        return self.max_length is None or max(map(len, both)) <= self.max_length
