"""A cap on the tokens and the money that a server may use up, and the bill: one line an answer, kept over restarts."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from selfsteer.backends.base import Prompt
from selfsteer.errors import BudgetReached, ModelError
from selfsteer.files import storage_errors

_PER_MESSAGE = 16
"""Tokens that a chat template puts around a message, at most."""
_PER_REQUEST = 64
"""Tokens that it adds once: an injected system message, the head of the answer."""
_MILLION = 1_000_000

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


_NOTHING = Usage(0, 0)


class Budget:
    """Counts what answers use up, as the server reports it, and lets no request go that could exceed a cap.

    A request holds room for its worst case while it is under way, so the sum of what the server reports stays within
    the caps however many threads ask. What a server takes without reporting it (a try that timed out) can't be counted.
    Only one budget at a time may stand on a file.

    Args:
        path: Where the bill is kept, a JSON line an answer; what stands there counts as spent. None keeps none.
        max_tokens: Cap on the tokens of prompts and answers; None sets none.
        max_cost: Cap on the money, in the currency of the prices; None sets none.
        price_prompt: Price of a million prompt tokens; it holds for what was spent before as well.
        price_completion: Price of a million tokens of answers.
        model: Whose answers these are; it is noted with each.
        others: Prices of other models whose answers stand in the same file. Where there are none, those above hold.
        where: The recipe's section with the caps, for messages.

    Raises:
        StorageError: The bill can't be read.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        price_prompt: float = 0.0,
        price_completion: float = 0.0,
        model: str = "",
        others: Mapping[str, Prices] | None = None,
        where: str = "generation.endpoint",
    ) -> None:
        self.path, self.max_tokens, self.max_cost = path, max_tokens, max_cost
        self._model, self._where, self._prices = model, where, (price_prompt, price_completion)
        self._others = {name: prices for name, prices in (others or {}).items() if name != model}
        self._spent_by_others, self._cost_of_others = _NOTHING, 0.0
        self._changed = threading.Condition()
        self._spent, self._reserved, self._under_way = _NOTHING, _NOTHING, 0
        self._surplus = _NOTHING  # by how much an answer has exceeded its worst case
        self.requests = 0
        """Answers that were counted."""
        self._unmetered = self._torn = False
        if path is not None and path.exists():
            self._sum_up(path)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, those of earlier runs with this file included."""
        return self._spent.prompt

    @property
    def completion_tokens(self) -> int:
        """Tokens of all answers."""
        return self._spent.completion

    @property
    def spent_tokens(self) -> int:
        """Tokens of all prompts and answers."""
        return self._spent.tokens

    @property
    def spent_cost(self) -> float:
        """What they cost, in the currency of the prices."""
        return self._cost_with_others(self._spent)

    @contextmanager
    def room(self, prompt: int, completion: int) -> Iterator[Callable[[Usage | None], None]]:
        """Hold room for one request, which needs up to ``prompt`` and ``completion`` tokens, while it is under way.

        Yields what counts the usage that its answer reports (None: it reports none). Waits while others under way hold
        room that this one needs.

        Raises:
            BudgetReached: There is not enough left, and nothing under way that could give some back.
            ModelError: There is a cap, and the server does not report usage.
            StorageError: The answer can't be noted in the file (raised by what is yielded).
        """
        asked = Usage(prompt, completion)
        worst = self._reserve(asked)
        try:
            yield lambda usage: self._count(usage, asked)
        finally:
            with self._changed:
                self._reserved, self._under_way = self._reserved.minus(worst), self._under_way - 1
                self._changed.notify_all()

    def _reserve(self, asked: Usage) -> Usage:
        with self._changed:
            while True:
                self._check_metered()
                worst = asked.plus(self._surplus)
                key = self._exceeded(worst)
                if key is None:
                    break
                if not self._under_way:
                    raise self._reached(key, worst)
                self._changed.wait()
            self._reserved, self._under_way = self._reserved.plus(worst), self._under_way + 1
            return worst

    def _count(self, usage: Usage | None, asked: Usage) -> None:
        with self._changed:
            if usage is None:
                self._unmetered = True
                return
            self._spent, self.requests = self._spent.plus(usage), self.requests + 1
            # Whatever made it longer (a system message of the server's own?) will be in the next answers too.
            self._surplus = Usage(*map(max, self._surplus, usage.minus(asked)))
            if self.path is not None:
                line = {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion}
                self._append(self.path, line | ({"model": self._model} if self._model else {}))

    def _exceeded(self, worst: Usage) -> str | None:
        """Return the recipe's key of the cap that a request might exceed, None where it has room."""
        total = self._spent.plus(self._reserved).plus(worst)
        if self.max_tokens is not None and total.tokens > self.max_tokens:
            return "max_total_tokens"
        if self.max_cost is not None and self._cost_with_others(total) > self.max_cost:
            return "max_cost"
        return None

    def _cost_with_others(self, total: Usage) -> float:
        return self._cost(total.minus(self._spent_by_others)) + self._cost_of_others

    def _cost(self, usage: Usage) -> float:
        return _price(usage, self._prices)

    def _reached(self, key: str, worst: Usage) -> BudgetReached:
        spent = f"{self.spent_tokens} tokens ({self.prompt_tokens} of prompts, {self.completion_tokens} of answers)"
        if any(self._prices):
            spent += f", which cost {self.spent_cost:.6g}"
        cap = f"{self.max_tokens} tokens" if key == "max_total_tokens" else f"{self.max_cost:.6g} in money"
        need = f"{worst.tokens} tokens" if key == "max_total_tokens" else f"{self._cost(worst):.6g}"
        what = f"the cap of {cap} is reached: {self.requests} answers took {spent}; the next may take up to {need}"
        do = f"raise {self._where}.{key}; the same command goes on where it stopped"
        return BudgetReached(what, where=str(self.path or f"{self._where}.{key}"), do=do)

    def _check_metered(self) -> None:
        if self._unmetered and (self.max_tokens is not None or self.max_cost is not None):
            what = "the server does not say what an answer uses up (no usage in it), so a cap can't be kept"
            do = f"ask a server that reports usage, or set {self._where}.max_total_tokens and max_cost to null"
            raise ModelError(what, where=self._where, do=do)

    def _sum_up(self, path: Path) -> None:
        """Add up a bill, line by line; one that a crash tore counts nothing."""
        line = b"\n"
        with storage_errors(path), path.open("rb") as lines:
            for line in lines:
                found = _parsed(line)
                usage = usage_of(found)
                if usage is not None:
                    self._spent, self.requests = self._spent.plus(usage), self.requests + 1
                    self._add_to_others(found.get("model"), usage)
        self._torn = not line.endswith(b"\n")

    def _add_to_others(self, model: object, usage: Usage) -> None:
        if isinstance(model, str) and model in self._others:
            self._spent_by_others = self._spent_by_others.plus(usage)
            self._cost_of_others += _price(usage, self._others[model])

    def _append(self, path: Path, line: dict[str, int | str]) -> None:
        """Append a line in one write, without waiting for the disk: a crash loses what was under way at most."""
        # What was torn is closed first, so that it spoils only itself.
        data = b"\n" * self._torn + json.dumps(line, separators=(",", ":")).encode() + b"\n"
        self._torn = True
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                if os.write(descriptor, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            finally:
                os.close(descriptor)
        self._torn = False


def _price(usage: Usage, prices: Prices) -> float:
    return (usage.prompt * prices[0] + usage.completion * prices[1]) / _MILLION


def worst_prompt(prompt: Prompt) -> int:
    """Return as many tokens as a prompt can have: no tokenizer makes more than one of a byte."""
    size = sum(len(message["content"].encode(errors="replace")) for message in prompt)
    return size + _PER_MESSAGE * len(prompt) + _PER_REQUEST


def usage_of(found: Any) -> Usage | None:
    """Return the usage that stands in an answer's ``usage``, or in a line of a bill; None where it makes no sense."""
    if not isinstance(found, dict):
        return None
    prompt, completion = found.get("prompt_tokens"), found.get("completion_tokens")
    if type(prompt) is int and type(completion) is int and prompt >= 0 and completion >= 0:
        return Usage(prompt, completion)
    return None


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
