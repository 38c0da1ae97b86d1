"""Growing a query set: which requests a chat model gets, by Self-Instruct (arXiv 2212.10560) or by Evol-Instruct
(arXiv 2304.12244). What is asked depends on the seed, the round and the queries there are, and on nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from selfsteer.config import AugmentSettings
from selfsteer.records import Message
from selfsteer.templates import Templates

_TEMPLATES = Templates(Path(__file__).parent / "templates")
TEMPLATE_OF = {"self-instruct": "self_instruct", "evolve": "evolve"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A query that others are grown from.

    Attributes:
        depth: 0 for a given one, and one more than that of its parent.
        parent: What it is another form of; None for one that was given, or made by examples.
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
    """One request to the model: for new queries by examples, or for one that is made of its only source."""

    id: str
    operation: str
    sources: tuple[Source, ...]
    prompt: list[Message]
    wanted: int

    @property
    def depth(self) -> int:
        """The depth of what comes of it."""
        return 1 + max(source.depth for source in self.sources)

    @property
    def parent(self) -> Source | None:
        """What its answer is another form of; None where the sources are examples."""
        return None if self.operation == "self-instruct" else self.sources[0]


class Planner:
    """Plans the rounds of growth; it has to be told what each round brought before it plans the next.

    Args:
        settings: The method and its settings.
        seeds: The queries to begin with.
        seed: Of the random choices.
    """

    def __init__(self, settings: AugmentSettings, seeds: Sequence[Source], seed: int) -> None:
        self.settings, self.seed = settings, seed
        self._given, self._grown = list(seeds), list[Source]()
        self._uses: Counter[str] = Counter()

    def add(self, grown: Sequence[Source]) -> None:
        """Take in the queries that a round brought."""
        self._grown += grown

    def plan(self, round: int, count: int) -> list[Ask]:
        """Return the ``count`` requests of a round."""
        ask = self._by_examples if self.settings.method == "self-instruct" else self._by_parent
        parents = self._parents(round, count) if self.settings.method == "evolve" else []
        return [ask(f"{round:06d}-{place:05d}", parents) for place in range(count)]

    def _by_examples(self, name: str, _: Sequence[Source]) -> Ask:
        """Show some given and some grown queries, in random order."""
        grown = _drawn(self._grown, self.settings.in_context_grown, f"{self.seed}\n{name}\ngrown")
        given = _drawn(self._given, self.settings.in_context - len(grown), f"{self.seed}\n{name}\ngiven")
        sources = _drawn([*given, *grown], len(given) + len(grown), f"{self.seed}\n{name}\norder")
        text = _TEMPLATES.render(
            "self_instruct", "user", examples=[source.text for source in sources], count=self.settings.per_request
        )
        return Ask(name, "self-instruct", tuple(sources), _user(text), self.settings.per_request)

    def _by_parent(self, name: str, parents: Sequence[Source]) -> Ask:
        """Do the next operation to the query whose turn it is."""
        parent = parents[int(name.rpartition("-")[2]) % len(parents)]
        operations = self.settings.operations
        first = _lot(f"{self.seed}\n{parent.id}\noperation") % len(operations)
        operation = operations[(first + self._uses[parent.id]) % len(operations)]
        self._uses[parent.id] += 1
        return Ask(name, operation, (parent,), _user(_TEMPLATES.render("evolve", operation, query=parent.text)), 1)

    def _parents(self, round: int, count: int) -> list[Source]:
        """Return the queries that were used least and may be evolved, in random order among equals."""
        able = [source for source in [*self._given, *self._grown] if source.depth < self.settings.max_depth]
        return heapq.nsmallest(
            count, able, key=lambda source: (self._uses[source.id], _lot(f"{self.seed}\n{round}\n{source.id}"))
        )


def template_version(method: str) -> str:
    """Return name and version of a method's template, e.g. "evolve v1"."""
    [(name, version)] = _TEMPLATES.versions(TEMPLATE_OF[method]).items()
    return f"{name} v{version}"


def template_content(method: str) -> dict[str, str]:
    """Return version and fingerprint of a method's template."""
    return _TEMPLATES.contents(TEMPLATE_OF[method])


def _drawn(sources: Sequence[Source], count: int, key: str) -> list[Source]:
    """Return ``count`` different sources (or all) in random order, which depends on ``key`` alone."""
    return random.Random(_lot(key)).sample(sources, min(count, len(sources)))


def _lot(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def _user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]
