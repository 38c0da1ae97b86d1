"""Language models as judges, by their written reply."""

from __future__ import annotations

import math
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

REPLY_TOKENS, THINKING_TOKENS = 16, 2048
"""Token limits of a reply, and of the thoughts before it."""
CUT_OFF = "cut off before a verdict (--max-tokens, judge.max_tokens)"


class TextJudge:
    """Any backend as a judge by its reply (greedy, where the backend supports it).

    Args:
        load: Returns the backend; called when the first answer is asked for.
        source: Identifies the weights, their precision, the tokenizer, chat template and end tokens; or the endpoint
            and its model.
        max_tokens: Token limit of a reply, thoughts included.
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
        """Return the verdict of each reply; a prompt that the context or the server rejects is invalid."""
        prompts = [self.template.messages(one, "text") for one in shown]
        room = math.inf if self._backend.context is None else self._backend.context - self._max_tokens
        fits = [self._backend.length(prompt) <= room for prompt in prompts]
        asked = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
        greedy = Sampling(self._max_tokens, temperature=0.0, top_p=1.0)  # so that a verdict can be repeated
        replies = iter(self._backend.generate(asked, greedy, seed=0))
        return [self._read(next(replies)) if fit else TOO_LONG for fit in fits]

    @cached_property
    def _backend(self) -> Backend:
        return self._load()

    def _read(self, reply: Outcome) -> Answer | Failure:
        if isinstance(reply, Failure):
            return blocked_answer(reply) if reply.blocked else reply
        found = read_verdict(answer_of(reply, self._backend.chat).text, self.template.labels)
        cut = not found.valid and reply.finish == "length"  # a verdict before the cut counts
        return replace(found, text=reply.text, why=CUT_OFF if cut else found.why)
