"""A cap on the tokens and the money that a server may use up, and the bill: one line an answer, kept over restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from selfsteer.backends.base import Prompt
from selfsteer.config import EndpointSettings
from selfsteer.errors import BudgetReached, ModelError
from selfsteer.files import append_json, open_regular, parse_json, storage_errors

_PER_MESSAGE, _PER_REQUEST = 16, 64
"""Tokens that a chat template puts around a message, and once around all (an injected system message), at most."""

Prices = tuple[float, float]
"""Of a million prompt tokens and of a million tokens of answers."""


class Usage(NamedTuple):
    """Tokens of a prompt and of the answer to it, or sums of them."""

    prompt: int
    completion: int

    @property
    def tokens(self) -> int:
        """Prompt and answer together."""
        return self.prompt + self.completion

    def plus(self, other: Usage) -> Usage:
        """Return the sum."""
        return Usage(self.prompt + other.prompt, self.completion + other.completion)

    def minus(self, other: Usage) -> Usage:
        """Return the difference."""
        return Usage(self.prompt - other.prompt, self.completion - other.completion)

    def cost(self, prices: Prices) -> float:
        """Return the price of the tokens."""
        return (self.prompt * prices[0] + self.completion * prices[1]) / 1_000_000


_NOTHING = Usage(0, 0)


class Budget:
    """Counts the usage that answers report, and sends no request that could exceed a cap.

    A request reserves its worst case while it is under way, so the sum of the reported usage stays within the caps
    however many threads send. Usage that a server does not report (of a try that timed out) can't be counted. Only one
    budget at a time may use a file.

    Args:
        path: The bill, a JSON line an answer; its content counts as spent. None keeps none.
        settings: The caps, the prices (also of earlier answers) and the model's name, which is noted with each answer.
        others: Prices of other models with answers in the same file; models that are not in it have those of
            ``settings``.
        where: The recipe's section with the caps, for messages.

    Attributes:
        spent: Tokens of all answers, those of earlier runs with this file included.
        spent_cost: Their cost, in the currency of the prices.
        requests: Answers that were counted.

    Raises:
        StorageError: The bill can't be read.
    """

    def __init__(
        self,
        path: Path | None = None,
        settings: EndpointSettings | None = None,
        *,
        others: Mapping[str, Prices] | None = None,
        where: str = "generation.endpoint",
    ) -> None:
        self.path, self.settings, self._where = path, settings or EndpointSettings(), where
        self._others = {name: prices for name, prices in (others or {}).items() if name != self.settings.model}
        self._changed = threading.Condition()
        self.spent, self.spent_cost = _NOTHING, 0.0
        self._reserved, self._under_way = _NOTHING, 0
        self._surplus = _NOTHING  # by how much an answer has exceeded its worst case
        self.requests = 0
        self._unmetered = False
        if path is not None and path.exists():
            self._sum_up(path)

    @contextmanager
    def room(self, prompt: int, completion: int) -> Iterator[Callable[[Usage | None], None]]:
        """Reserve room for one request, which needs up to ``prompt`` and ``completion`` tokens, while it is under way.

        Yields a function that counts the usage its answer reports (None: it reports none). Waits while other requests
        hold room that this one needs.

        Raises:
            BudgetReached: There is not enough left, and no request under way that could give some back.
            ModelError, StorageError: A cap, and the server reports no usage; the answer can't be noted in the file.
        """
        asked = Usage(prompt, completion)
        with self._changed:
            while key := self._exceeded(worst := asked.plus(self._surplus)):
                if not self._under_way:
                    raise self._reached(key, worst)
                self._changed.wait()
            self._reserved, self._under_way = self._reserved.plus(worst), self._under_way + 1
        try:
            yield lambda usage: self._count(usage, asked)
        finally:
            with self._changed:
                self._reserved, self._under_way = self._reserved.minus(worst), self._under_way - 1
                self._changed.notify_all()

    def _count(self, usage: Usage | None, asked: Usage) -> None:
        with self._changed:
            if usage is None:
                self._unmetered = True
                return
            self._add(usage, self.settings.prices)
            # Whatever made it longer (a system message of the server's own?) will be in the next answers too.
            self._surplus = Usage(*map(max, self._surplus, usage.minus(asked)))
            if self.path is None:
                return
            line: dict[str, Any] = {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion}
            line |= {"model": self.settings.model} if self.settings.model else {}
            append_json(self.path, line, sync=False)  # every other request would wait for the disk too

    def _exceeded(self, worst: Usage) -> str:
        """Return the recipe's key of the cap that a request might exceed, "" where it has room."""
        max_tokens, max_cost = self.settings.max_total_tokens, self.settings.max_cost
        if self._unmetered and (max_tokens is not None or max_cost is not None):
            what = "the server does not report what an answer uses up (no usage in it), so a cap can't be kept"
            do = f"use a server that reports usage, or set {self._where}.max_total_tokens and max_cost to null"
            raise ModelError(what, where=self._where, do=do)
        coming = self._reserved.plus(worst)
        if max_tokens is not None and self.spent.plus(coming).tokens > max_tokens:
            return "max_total_tokens"
        cost = self.spent_cost + coming.cost(self.settings.prices)
        return "max_cost" if max_cost is not None and cost > max_cost else ""

    def _reached(self, key: str, worst: Usage) -> BudgetReached:
        spent = f"{self.spent.tokens} tokens ({self.spent.prompt} of prompts, {self.spent.completion} of answers)"
        if any(self.settings.prices):
            spent += f", which cost {self.spent_cost:.6g}"
        cap, need = f"{self.settings.max_total_tokens} tokens", f"{worst.tokens} tokens"
        if key == "max_cost":
            cap, need = f"{self.settings.max_cost:.6g} in money", f"{worst.cost(self.settings.prices):.6g}"
        what = f"the cap of {cap} is reached: {self.requests} answers took {spent}; the next may take up to {need}"
        do = f"raise {self._where}.{key}; the same command resumes"
        return BudgetReached(what, where=str(self.path or f"{self._where}.{key}"), do=do)

    def _sum_up(self, path: Path) -> None:
        """Add up a bill, line by line; a line that a crash tore counts nothing."""
        with storage_errors(path), open_regular(path) as lines:
            for line in lines:
                try:
                    found = parse_json(line)
                except ValueError:
                    continue
                if usage := usage_of(found):
                    self._add(usage, self._others.get(str(found.get("model")), self.settings.prices))

    def _add(self, usage: Usage, prices: Prices) -> None:
        self.spent, self.requests = self.spent.plus(usage), self.requests + 1
        self.spent_cost += usage.cost(prices)


def worst_prompt(prompt: Prompt) -> int:
    """Return as many tokens as a prompt can have: no tokenizer makes more than one of a byte."""
    size = sum(len(message["content"].encode(errors="replace")) for message in prompt)
    return size + _PER_MESSAGE * len(prompt) + _PER_REQUEST


def usage_of(found: Any) -> Usage | None:
    """Return the usage in an answer's ``usage``, or in a line of a bill; None where it makes no sense."""
    if not isinstance(found, dict):
        return None
    counts: list[Any] = [found.get("prompt_tokens"), found.get("completion_tokens")]
    # Some servers count in floats. No answer has a million million tokens; a larger number would not fit a float.
    if all(type(one) in (int, float) and 0 <= one < 1e12 and one == int(one) for one in counts):
        return Usage(int(counts[0]), int(counts[1]))
    return None
