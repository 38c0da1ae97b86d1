"""How many queries a recipe has and how long its prompts are, from the queries themselves and the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from statistics import mean

from selfsteer.backends import shared_prefix
from selfsteer.chat import Chat
from selfsteer.config import QuerySettings, Recipe
from selfsteer.errors import DataError, PromptRefused
from selfsteer.estimate.costs import Prompts, Sizes
from selfsteer.principles import PrincipleSet, chooser_messages, pair_for, steer, steering_message
from selfsteer.queries import load_queries, stream_queries
from selfsteer.queries.load import source_rows
from selfsteer.records import Message, Query
from selfsteer.stages.principle_strategies import aspects_wanted, needs_model
from selfsteer.stages.queries import of_round

_LOOKED_AT = 64
"""Queries whose prompts are measured."""


def sizes_of(settings: QuerySettings, queries: int | None = None) -> Sizes:
    """Return how many queries there are to align on and how many are held out; reads the source once.

    Args:
        settings: The recipe's.
        queries: How many there are, where that is known; then the source is not counted.

    Raises:
        DataError: None is left to align on.
    """
    apart = settings.heldout
    read = sum(1 for _ in _queries(settings)) if queries is None else queries
    if isinstance(apart, str):
        most = settings.max_left_out
        held = load_queries(apart, split="heldout", limit=settings.heldout_limit, max_left_out=most).queries
        return Sizes(read, len(held))
    if read <= apart:
        raise DataError("every query is held out", where="queries.heldout", do="hold out fewer, or give more queries")
    return Sizes(read - apart, apart)


def rows_of(recipe: Recipe, sizes: Sizes) -> int:
    """Return how many rows a round makes: of its queries, or of annotated preferences all that the source has."""
    given = recipe.preferences
    if given.source:
        return sum(1 for _ in islice(source_rows(given.source, given.dataset_split), given.limit))
    return len(of_round(recipe.queries, sizes.train, 1, recipe.rounds))


def first_queries(settings: QuerySettings, count: int = _LOOKED_AT) -> list[Query]:
    """Return the first queries of the source."""
    return list(islice(_queries(settings), count))


def _queries(settings: QuerySettings) -> Iterator[Query]:
    found = stream_queries(
        settings.source,
        field=settings.field,
        limit=settings.limit,
        dataset_split=settings.dataset_split,
        max_left_out=settings.max_left_out,
    )
    return (one for one in found if isinstance(one, Query))


def prompt_lengths(recipe: Recipe, principle_set: PrincipleSet, chat: Chat | None) -> Prompts:
    """Return the mean lengths of the prompts of the first queries, steered along the set's aspects in turn.

    In tokens; without a tokenizer a token is taken for four bytes.
    """

    def length(prompt: Sequence[Message]) -> float:
        return len(chat.encode(prompt)) if chat else sum(len(one["content"].encode()) for one in prompt) / 4

    role = chat.system_role if chat else "native"
    count = aspects_wanted(recipe, principle_set)
    names = [aspect.name for aspect in principle_set.choosable]
    found: list[list[float]] = []
    refused: PromptRefused | None = None
    for place, query in enumerate(first_queries(recipe.queries)):
        aspects = [names[(place + i) % len(names)] for i in range(min(count, len(names)))]
        pair = pair_for(principle_set, aspects)
        steered = [steer(query.prompt, steering_message(pair, sign), role) for sign in ("positive", "negative")]
        try:
            found.append([length(query.prompt), *map(length, steered)])
        except PromptRefused as error:  # the run leaves it out
            refused = error
    if refused and not found:
        raise refused
    plain, positive, negative = (mean(column) for column in zip(*found, strict=True))
    if not needs_model(recipe, principle_set):
        return Prompts(plain, positive, negative)
    one, other = (chooser_messages(principle_set, text, count, role) for text in ("A", "Z"))
    return Prompts(plain, positive, negative, asked=True, shared=len(shared_prefix(chat, one, other)))
