"""Requests to a chat model for new queries, by Self-Instruct (arXiv 2212.10560) or Evol-Instruct (arXiv 2304.12244).

They depend only on the seed, the round and the queries so far.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections import Counter
from collections.abc import Iterator, Sequence

from selfsteer.config import AugmentSettings
from selfsteer.experimental.prompt_templates import render
from selfsteer.records import Message
from selfsteer.seeding import draw

TEMPLATE_OF = {"self-instruct": "self_instruct", "evolve": "evolve"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A query that new ones are made from.

    Attributes:
        depth: 0 for a given one, else one more than its parent's.
        parent: The query that it is a variant of; None for one that was given, or made from examples.
    """

    id: str
    text: str
    depth: int = 0
    parent: Source | None = None

    @property
    def ancestors(self) -> Iterator[Source]:
        """Its parent, that one's parent, and so on."""
        one = self.parent
        while one:
            yield one
            one = one.parent


@dataclasses.dataclass(frozen=True)
class Ask:
    """One request to the model: for new queries from examples, or for a variant of its only source."""

    id: str
    operation: str
    sources: tuple[Source, ...]
    prompt: list[Message]
    wanted: int

    @property
    def depth(self) -> int:
        """The depth of the queries in its answer."""
        return 1 + max(source.depth for source in self.sources)

    @property
    def parent(self) -> Source | None:
        """The query that its answer is a variant of; None if the sources are examples."""
        return None if self.operation == "self-instruct" else self.sources[0]


class Planner:
    """Plans the rounds of growth; :meth:`add` a round's queries before planning the next."""

    def __init__(self, settings: AugmentSettings, seeds: Sequence[Source], seed: int) -> None:
        self.settings, self.seed = settings, seed
        self._given, self._grown = list(seeds), list[Source]()
        self._uses: Counter[str] = Counter()

    def add(self, grown: Sequence[Source]) -> None:
        """Add the queries of a round."""
        self._grown += grown

    def plan(self, round: int, count: int) -> list[Ask]:
        """Return the ``count`` requests of a round."""
        names = [f"{round:06d}-{place:05d}" for place in range(count)]
        if self.settings.method == "self-instruct":
            return [self._by_examples(name) for name in names]
        # The least used queries within the depth limit, in random order among equals.
        able = [source for source in [*self._given, *self._grown] if source.depth < self.settings.max_depth]
        parents = heapq.nsmallest(
            count, able, key=lambda source: (self._uses[source.id], _lot(self.seed, round, source.id))
        )
        return [self._by_parent(name, parents[place % len(parents)]) for place, name in enumerate(names)]

    def _by_examples(self, name: str) -> Ask:
        """Show some given and some new queries, in random order."""
        grown = _drawn(self._grown, self.settings.in_context_grown, self.seed, name, "grown")
        given = _drawn(self._given, self.settings.in_context - len(grown), self.seed, name, "given")
        sources = _drawn([*given, *grown], len(given) + len(grown), self.seed, name, "order")
        text = render(
            "self_instruct", "user", examples=[source.text for source in sources], count=self.settings.per_request
        )
        return Ask(name, "self-instruct", tuple(sources), as_prompt(text), self.settings.per_request)

    def _by_parent(self, name: str, parent: Source) -> Ask:
        """Ask for a variant of a query by its next operation."""
        operations = self.settings.operations
        first = _lot(self.seed, parent.id, "operation") % len(operations)
        operation = operations[(first + self._uses[parent.id]) % len(operations)]
        self._uses[parent.id] += 1
        return Ask(name, operation, (parent,), as_prompt(render("evolve", operation, query=parent.text)), 1)


def _drawn(sources: Sequence[Source], count: int, seed: int, *parts: object) -> list[Source]:
    """Return ``count`` different sources (or all) in random order, which depends only on seed and parts."""
    return random.Random(_lot(seed, *parts)).sample(sources, min(count, len(sources)))


def _lot(seed: int, *parts: object) -> int:
    return int(draw(seed, *parts)[:16], 16)


def as_prompt(text: str) -> list[Message]:
    """Return a text as a prompt of one user message."""
    return [{"role": "user", "content": text}]
