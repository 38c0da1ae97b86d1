"""What the data stages compute, batch by batch: principled queries, responses, cleaned rows. No files, no ledger."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

from selfsteer.backends import Backend, Sampling, shared_prefix
from selfsteer.chat import Chat
from selfsteer.config import Recipe
from selfsteer.contrast import PROMPT_OF_ROLE, Request, assemble, check_prompts_differ
from selfsteer.principles import (
    Choice,
    PrincipleSet,
    choice_without_model,
    chooser_messages,
    fold_system,
    pair_for,
    parse_choice,
    steer,
    steering_message,
    with_extra,
)
from selfsteer.quality import clean_response
from selfsteer.records import PROMPTS, ROLES, Contrast, Principled, Query, Response

_CHOICE_TOKENS = 24


def split_off(queries: Sequence[Query], count: int, seed: int) -> tuple[list[Query], list[Query]]:
    """Return (train, held out): which ``count`` are held out depends on the seed and the ids, not on the order."""
    chosen = {query.id for query in sorted(queries, key=lambda query: _draw(seed, query.id))[:count]}
    held = [dataclasses.replace(query, split="heldout") for query in queries if query.id in chosen]
    return [query for query in queries if query.id not in chosen], held


def batch_seed(seed: int, *parts: object) -> int:
    """Return the seed of one batch: it depends on the run's seed and the batch's place, not on what ran before."""
    return int(_draw(seed, *parts)[:15], 16) % 2**31


def principled(
    recipe: Recipe, principle_set: PrincipleSet, backend: Backend, queries: Sequence[Query]
) -> list[Principled]:
    """Give each query its aspects, its principle pair and its two steered prompts."""
    count = recipe.principles.aspects_per_query or principle_set.aspects_per_query
    choices = _choose(principle_set, backend, queries, count)
    rate, seed = recipe.principles.extra_rate, recipe.seed
    extended = [
        dataclasses.replace(choice, aspects=with_extra(choice.aspects, principle_set, query.id, rate, seed))
        for query, choice in zip(queries, choices, strict=True)
    ]
    return [steered(q, choice, principle_set, backend) for q, choice in zip(queries, extended, strict=True)]


def _choose(principle_set: PrincipleSet, backend: Backend, queries: Sequence[Query], count: int) -> Sequence[Choice]:
    settled = choice_without_model(principle_set, count)
    if settled is not None:
        return [settled] * len(queries)
    role = backend.chat.system_role if backend.chat else "native"
    # Two made-up queries differ from their first letter on, so what they share is exactly the few-shot part.
    one, other = (chooser_messages(principle_set, text, count, role) for text in ("A", "Z"))
    completions = backend.generate(
        [chooser_messages(principle_set, query.prompt[-1]["content"], count, role) for query in queries],
        Sampling(_CHOICE_TOKENS, temperature=0.0, top_p=1.0),
        seed=0,
        shared_prefix=shared_prefix(backend.chat, one, other),
    )
    return [parse_choice(completion.text, principle_set, count) for completion in completions]


def steered(query: Query, choice: Choice, principle_set: PrincipleSet, backend: Backend) -> Principled:
    """Return a query with the principle pair of the chosen aspects and its two steered prompts."""
    pair = pair_for(principle_set, choice.aspects)
    role = backend.chat.system_role if backend.chat else "native"
    row = Principled(
        id=query.id,
        prompt=fold_system(query.prompt) if role == "folded" else query.prompt,
        split=query.split,
        aspects=choice.aspects,
        choice=choice.outcome,
        positive_principle=pair.positive_principle,
        negative_principle=pair.negative_principle,
        positive_prompt=steer(query.prompt, steering_message(pair, "positive"), role),
        negative_prompt=steer(query.prompt, steering_message(pair, "negative"), role),
    )
    check_prompts_differ(row, backend.chat)
    return row


def too_long(row: Principled, backend: Backend, recipe: Recipe) -> str:
    """Return why a row's prompts don't fit, "" where they do."""
    longest = max(backend.length(getattr(row, name)) for name in PROMPTS)
    new = recipe.generation.max_new_tokens
    if backend.context is not None and longest + new > backend.context:
        return f"prompt of {longest} tokens + {new} new ones exceed the model's context of {backend.context}"
    if backend.chat is not None and longest >= recipe.train.max_length:  # scoring keeps to training's limit
        return f"prompt of {longest} tokens leaves no room for a response within train.max_length"
    return ""


def plan_order(items: Sequence[Request], backend: Backend) -> list[Request]:
    """Return requests so that those of one batch are alike: by role, then by prompt length, then by id."""
    return sorted(items, key=lambda item: (ROLES.index(item.role), backend.length(item.prompt), item.id))


def sample(recipe: Recipe, backend: Backend, batch: Sequence[Request], seed: int) -> list[Response]:
    """Sample one response a request."""
    settings = recipe.generation
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p)
    completions = backend.generate([request.prompt for request in batch], sampling, seed=seed)
    return [
        Response(request.id, request.role, found.text, found.finish, found.token_ids, found.prompt_token_ids)  # type: ignore[arg-type]
        for request, found in zip(batch, completions, strict=True)
    ]


def joined(
    rows: Sequence[Principled],
    responses: Mapping[tuple[str, str], Response],
    *,
    principle_set: PrincipleSet | None,
    chat: Chat | None,
    round: int,
    provenance: dict[str, str],
) -> list[Contrast]:
    """Join each row with its three responses, cleaned where ``principle_set`` (whose labels may leak) is given."""
    contrasts = []
    for row in rows:
        own = {role: responses[row.id, role] for role in PROMPT_OF_ROLE}
        if principle_set is not None:
            labels = adjectives_of(principle_set, row.aspects)
            own = {role: clean_response(found, chat.decode if chat else None, labels) for role, found in own.items()}
        contrasts.append(assemble(row, own, round=round, provenance=provenance))
    return contrasts


def adjectives_of(principle_set: PrincipleSet, aspects: Sequence[str]) -> list[str]:
    """Return the adjectives of both signs of the named aspects."""
    found = [principle_set.aspect(name) for name in aspects]
    return [adjective for aspect in found for adjective in (aspect.positive, aspect.negative)]


def _draw(seed: int, *parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, (seed, *parts))).encode()).hexdigest()
