"""What the data stages compute, batch by batch: responses and cleaned rows. No files, no ledger."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import cast

from selfsteer.backends import Backend, Completion, Failure, Sampling
from selfsteer.chat import Chat
from selfsteer.config import Recipe
from selfsteer.contrast import PROMPT_OF_ROLE, Request, requests
from selfsteer.errors import PromptRefused
from selfsteer.records import ROLES, Response, Role, SteeredQuery
from selfsteer.runs.shards import BatchResult
from selfsteer.seeding import batch_seed

SHORTER = "lower generation.max_new_tokens or raise train.max_length"
"""What helps where a prompt leaves no room for a response."""

_PROMPTS = tuple(PROMPT_OF_ROLE.items())


def key_of(one: Request | Response) -> tuple[str, str]:
    """Return what a request and the response to it have in common."""
    return one.id, one.role


def response_of(name: str, role: str, found: Completion) -> Response:
    """Return a completion as a row: the response to a query under one of the three prompts."""
    ids = found.token_ids, found.prompt_token_ids
    return Response(name, cast(Role, role), found.text, found.finish, *ids, found.thinking)


def planned(
    rows: Sequence[SteeredQuery], backend: Backend, recipe: Recipe, roles: Sequence[str] = ROLES
) -> tuple[list[Request], dict[str, str]]:
    """Return the requests of the rows that fit, one for each of ``roles``, and by id why the others don't.

    Requests of one batch shall be alike: they stand in the order of role, prompt length and id.
    """
    lengths: dict[tuple[str, str], int] = {}
    reasons: dict[str, str] = {}
    for row in rows:
        try:
            own = {(row.id, role): backend.length(getattr(row, name)) for role, name in _PROMPTS}
        except PromptRefused as error:
            reasons[row.id] = error.what
            continue
        lengths |= own
        if reason := _too_long(max(own.values()), backend, recipe):
            reasons[row.id] = reason
    items = requests([row for row in rows if row.id not in reasons], roles)
    items.sort(key=lambda item: (ROLES.index(item.role), lengths[item.id, item.role], item.id))
    return items, reasons


def _too_long(longest: int, backend: Backend, recipe: Recipe) -> str:
    """Return why a row's prompts don't fit, "" where they do."""
    new = recipe.generation.max_new_tokens
    if backend.context is not None and longest + new > backend.context:
        return f"prompt of {longest} tokens + {new} new ones exceed the model's context of {backend.context}"
    if backend.chat is not None and longest >= recipe.train.max_length:  # scoring keeps to training's limit
        return _no_room(longest)
    return ""


def sample(
    recipe: Recipe, backend: Backend, batch: Sequence[Request], seed: int, shared_prefix: Sequence[int] = ()
) -> BatchResult[Response]:
    """Sample one response a request; failures by id and role. ``shared_prefix``: token ids that all begin with.

    A backend samples the requests of one call alike, so it gets one call for each way of sampling in the batch.
    """
    settings = recipe.generation
    alike: dict[Sampling, list[Request]] = {}
    for request in batch:
        alike.setdefault(Sampling(settings.max_new_tokens, *settings.drawing(request.role)), []).append(request)
    rows: list[Response] = []
    failures: dict[Hashable, Failure] = {}
    for number, (sampling, own) in enumerate(alike.items()):
        prompts = [request.prompt for request in own]
        # Two calls with one seed would draw the same random numbers for other responses.
        drawn = batch_seed(seed, number) if number else seed
        outcomes = backend.generate(prompts, sampling, seed=drawn, shared_prefix=shared_prefix)
        for request, found in zip(own, outcomes, strict=True):
            if isinstance(found, Failure):
                failures[request.id, request.role] = found
            else:
                rows.append(response_of(request.id, request.role, found))
    return BatchResult(rows, failures)


def _no_room(longest: int) -> str:
    return f"prompt of {longest} tokens leaves no room for a response within train.max_length"


def _absent(row: SteeredQuery, role: str, chat: Chat, thinking_apart: bool) -> Response:
    prompt = chat.encode(getattr(row, PROMPT_OF_ROLE[role]))
    prompt = chat.without_thought(prompt) if thinking_apart else prompt
    return Response(row.id, cast(Role, role), "", "absent", [], prompt)
