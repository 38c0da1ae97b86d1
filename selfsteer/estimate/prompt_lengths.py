"""How many queries a recipe has, and how long its prompts are: counted in the source, measured with the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from statistics import mean

from selfsteer.chat import Chat
from selfsteer.config import QuerySettings, Recipe
from selfsteer.errors import DataError, PromptRefused
from selfsteer.estimate.costs import Prompts, Sizes
from selfsteer.principles import PrincipleSet, pair_for, steer, steering_message
from selfsteer.queries import load_queries, stream_queries
from selfsteer.queries.load import source_rows
from selfsteer.records import Message, Query
from selfsteer.stages.principle_strategies import aspects_wanted, needs_model
from selfsteer.stages.queries import of_round

_MEASURED = 64
"""Queries whose prompts are measured."""


def sizes_of(settings: QuerySettings, queries: int | None = None) -> Sizes:
    """Return how many queries there are to align on and how many are held out.

    Reads the source once, but for ``queries``, their known number. Raises :class:`DataError` where none is left.
    """
    heldout = settings.heldout
    found = sum(1 for _ in _queries(settings)) if queries is None else queries
    if isinstance(heldout, str):
        own = load_queries(
            heldout, split="heldout", limit=settings.heldout_limit, max_left_out=settings.max_left_out
        ).queries
        return Sizes(found, len(own))
    if found <= heldout:
        raise DataError("every query is held out", where="queries.heldout", do="hold out fewer, or give more queries")
    return Sizes(found - heldout, heldout)


def rows_of(recipe: Recipe, sizes: Sizes) -> int:
    """Return how many rows a round makes: one for each of its queries, or for each annotated pair of the source."""
    given = recipe.preferences
    if given.source:
        return sum(1 for _ in islice(source_rows(given.source, given.dataset_split), given.limit))
    return len(of_round(recipe.queries, sizes.train, 1, recipe.rounds))


def _queries(settings: QuerySettings) -> Iterator[Query]:
    shared = settings.model_dump(include={"field", "limit", "dataset_split", "max_left_out"})
    return (one for one in stream_queries(settings.source, **shared) if isinstance(one, Query))


def prompt_lengths(recipe: Recipe, principle_set: PrincipleSet, chat: Chat | None) -> Prompts:
    """Return the mean tokens of the first queries' prompts, steered along the set's aspects in turn.

    Without a tokenizer a token counts as four bytes. Raises :class:`PromptRefused` where the chat template refuses all
    of them; a run leaves out those that it refuses.
    """

    def length(prompt: Sequence[Message]) -> float:
        return len(chat.encode(prompt)) if chat else sum(len(one["content"].encode()) for one in prompt) / 4

    role = chat.system_role if chat else "native"
    names = [aspect.name for aspect in principle_set.choosable]
    count = min(aspects_wanted(recipe, principle_set), len(names))
    found: list[list[float]] = []
    refused: PromptRefused | None = None
    for place, query in enumerate(islice(_queries(recipe.queries), _MEASURED)):
        pair = pair_for(principle_set, [names[(place + i) % len(names)] for i in range(count)])
        steered = [steer(query.prompt, steering_message(pair, sign), role) for sign in ("positive", "negative")]
        try:
            found.append([length(query.prompt), *map(length, steered)])
        except PromptRefused as error:
            refused = error
    if refused and not found:
        raise refused
    plain, positive, negative = (mean(column) for column in zip(*found, strict=True))
    return Prompts(plain, positive, negative, asked=needs_model(recipe, principle_set))
