"""Language models as judges, by what they write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from selfsteer.backends import Backend, Sampling, completed
from selfsteer.evaluation.judges.base import Shown
from selfsteer.evaluation.judges.cache import TOO_LONG, Answer
from selfsteer.evaluation.judges.reading import VERSION, read_verdict
from selfsteer.evaluation.judges.template import JudgeTemplate
from selfsteer.files import fingerprint
from selfsteer.records import Message

_REPLY_TOKENS = 16


class TextJudge:
    """Any backend, judged by what it writes (greedily, a few tokens).

    Args:
        load: Gives the backend that writes; called when the first answer is asked for.
        name: For tables.
        source: Names the weights, their precision, the tokenizer, chat template and end tokens; or the endpoint and its
            model.
        template: What it is asked.
        batch_size: Presentations asked at once.
    """

    def __init__(
        self, load: Callable[[], Backend], *, name: str, source: str, template: JudgeTemplate, batch_size: int = 8
    ) -> None:
        self._load, self.template, self.batch_size = load, template, batch_size
        self.name = f"{name} (text)"
        self.key = fingerprint(["text", VERSION, _REPLY_TOKENS, source, template.fingerprint])

    def answer(self, shown: Sequence[Shown]) -> list[Answer]:
        """Return the verdict that each reply gives; one that does not fit the context is invalid."""
        prompts = [self.template.messages(one, "text") for one in shown]
        fits = [self._fits(prompt) for prompt in prompts]
        asked = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
        greedy = Sampling(_REPLY_TOKENS, temperature=0.0, top_p=1.0)
        replies = iter(completed(self._backend.generate(asked, greedy, seed=0)))
        return [read_verdict(next(replies).text, self.template.labels) if fit else TOO_LONG for fit in fits]

    def cost(self, shown: Shown) -> int:
        """Return the length of the prompt, as the backend measures it."""
        return self._backend.length(self.template.messages(shown, "text"))

    @cached_property
    def _backend(self) -> Backend:
        return self._load()

    def _fits(self, prompt: Sequence[Message]) -> bool:
        context = self._backend.context
        return context is None or self._backend.length(prompt) + _REPLY_TOKENS <= context
