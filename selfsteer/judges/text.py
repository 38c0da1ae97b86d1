"""Language models as judges, by what they write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

from selfsteer.backends import Backend, Failure, Outcome, Sampling
from selfsteer.files import fingerprint
from selfsteer.judges.answer_cache import TOO_LONG, Answer, blocked_answer
from selfsteer.judges.base import PresentedPair
from selfsteer.judges.template import JudgeTemplate
from selfsteer.judges.verdict_parser import VERSION, read_verdict
from selfsteer.quality import answer_of
from selfsteer.records import Message

REPLY_TOKENS, THINKING_TOKENS = 16, 2048
"""Tokens of a reply, and of the thoughts before it."""
CUT_OFF = "cut off before a verdict (--max-tokens, judge.max_tokens)"


class TextJudge:
    """Any backend, judged by what it writes (greedily, where it can be asked to).

    Args:
        load: Gives the backend that writes; called when the first answer is asked for.
        name: For tables.
        source: Names the weights, their precision, the tokenizer, chat template and end tokens; or the endpoint and its
            model.
        template: What it is asked.
        max_tokens: Tokens of a reply, thoughts included.
        batch_size: Presentations asked at once.
    """

    def __init__(
        self,
        load: Callable[[], Backend],
        *,
        name: str,
        source: str,
        template: JudgeTemplate,
        max_tokens: int = REPLY_TOKENS,
        batch_size: int = 8,
    ) -> None:
        self._load, self.template, self.batch_size = load, template, batch_size
        self._max_tokens = max_tokens
        self.name = f"{name} (text)"
        self.key = fingerprint(["text", VERSION, max_tokens, source, template.fingerprint])

    def answer(self, shown: Sequence[PresentedPair]) -> list[Answer | Failure]:
        """Return the verdict that each reply gives; one that the context or the server does not take is invalid."""
        prompts = [self.template.messages(one, "text") for one in shown]
        fits = [self._fits(prompt) for prompt in prompts]
        asked = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
        greedy = Sampling(self._max_tokens, temperature=0.0, top_p=1.0)
        replies = iter(self._backend.generate(asked, greedy, seed=0))
        return [self._read(next(replies)) if fit else TOO_LONG for fit in fits]

    def cost(self, shown: PresentedPair) -> int:
        """Return the length of the prompt, as the backend measures it."""
        return self._backend.length(self.template.messages(shown, "text"))

    @cached_property
    def _backend(self) -> Backend:
        return self._load()

    def _read(self, reply: Outcome) -> Answer | Failure:
        if isinstance(reply, Failure):
            return blocked_answer(reply) if reply.blocked else reply
        found = read_verdict(answer_of(reply, self._backend.chat).text, self.template.labels)
        cut = not found.valid and reply.finish == "length"
        return replace(found, text=reply.text, why=CUT_OFF if cut else found.why)

    def _fits(self, prompt: Sequence[Message]) -> bool:
        context = self._backend.context
        return context is None or self._backend.length(prompt) + self._max_tokens <= context
