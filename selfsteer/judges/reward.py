"""Reward models as judges: each response is scored by itself, so its place can't matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from selfsteer.chat_template import ChatTemplate
from selfsteer.config import LocalModelSettings
from selfsteer.errors import PromptRefused
from selfsteer.files import fingerprint
from selfsteer.judges.answer_cache import REFUSED, TOO_LONG, Answer, scored_answer
from selfsteer.judges.base import PresentedPair
from selfsteer.judges.loading import scoring_model
from selfsteer.models.rope import context_of
from selfsteer.reward.scoring import TokenIds, conversation_ids, score_ids


def open_judge(settings: LocalModelSettings, name: str) -> RewardJudge:
    """Return a reward model, by its folder or hub name, as a judge."""
    from selfsteer.models import load_tokenizer
    from selfsteer.reward.loading import load_reward_model, reward_config

    local = scoring_model(settings, name)
    return RewardJudge(
        partial(load_reward_model, local.source, device=local.device, dtype=local.dtype, **local.options),
        load_tokenizer(local.source, **local.options),
        config=reward_config(local.source, **local.options),
        name=Path(name).name or name,
        content=local.fingerprint,
        template_kwargs=settings.chat_template_kwargs,
    )


class RewardJudge:
    """A reward model: the log-odds are r(first) - r(second), as in the Bradley-Terry model it was trained by.

    It ignores a pair's criterion and whether a response was cut off. Scores don't depend on the rest of a batch (in
    float32; half precision rounds differently for other shapes).

    Args:
        load: Returns a sequence-classification model with one output in eval mode (:func:`load_reward_model`); called
            when the first answer is asked for.
        tokenizer: Its chat template renders prompt and response as a finished conversation.
        config: A conversation longer than its context gets no valid answer.
        content: Identifies its weights and their precision, its configuration, tokenizer and chat template; part of the
            cache key. Answers are not cached if it is empty.
        batch_size: Presentations in one call, and responses scored at once; it affects memory, not the result.
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
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._load = load
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self._template = ChatTemplate(tokenizer, template_kwargs)
        self._template.check_kwargs()
        self.name = f"{name} (reward)"
        self.max_length = context_of(config)
        variables = [self._template.kwargs] if self._template.kwargs else []
        self.key = fingerprint(["reward", content, self.max_length, *variables]) if content else ""  # "": never cached

    @cached_property
    def model(self) -> Any:
        """Loaded on first use."""
        return self._load()

    def answer(self, shown: Sequence[PresentedPair]) -> list[Answer]:
        """Return one answer a presentation; equal conversations are scored once. WorkFailed for NaN or infinity."""
        rendered = list(map(self._encoded, shown))
        fitting = (ids for both in rendered if not isinstance(both, Answer) for ids in both)
        scores = score_ids(self.model, fitting, batch_size=self.batch_size)
        what = "the reward model's scores"
        return [
            both
            if isinstance(both, Answer)
            else scored_answer([scores[ids] for ids in both], what, f"pair {one.pair.id!r}, judge {self.name!r}")
            for one, both in zip(shown, rendered, strict=True)
        ]

    def _encoded(self, shown: PresentedPair) -> Sequence[TokenIds] | Answer:
        """Return the ids of both conversations, or the invalid answer where they can't be scored."""
        conversations = [[*shown.pair.prompt, {"role": "assistant", "content": text}] for text in shown.responses]
        try:
            both = [conversation_ids(self._template, messages, self.name) for messages in conversations]
        except PromptRefused as error:
            return Answer(0, text=error.what, valid=False, why=REFUSED)
        return both if self.max_length is None or max(map(len, both)) <= self.max_length else TOO_LONG
