"""Joining, cleaning and scoring rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from selfsteer.chat import Chat
from selfsteer.config import Recipe
from selfsteer.contrast import assemble, with_token_ids
from selfsteer.errors import PromptRefused
from selfsteer.principles import PrincipleSet
from selfsteer.quality import clean_response, think_apart
from selfsteer.records import ROLES, Contrast, Response, SteeredQuery
from selfsteer.runs.shards import Dropped
from selfsteer.stages.responses import SHORTER, _absent, _no_room


def joined(
    rows: Sequence[SteeredQuery],
    responses: Mapping[tuple[str, str], Response],
    *,
    principle_set: PrincipleSet | None,
    chat: Chat | None,
    thinking_apart: bool,
    round: int,
    provenance: dict[str, str],
    roles: Sequence[str] = ROLES,
) -> list[Contrast]:
    """Join each row with its responses of ``roles``, cleaned where ``principle_set`` (whose labels may leak) is given.

    ``thinking_apart`` takes a reasoning model's thoughts out of the responses, and closes what a prompt opens.
    """
    contrasts = []
    for row in rows:
        own = {role: responses[row.id, role] for role in roles}
        if thinking_apart:
            own = {role: _thinking_apart(found, chat) for role, found in own.items()}
        if principle_set is not None:
            labels = adjectives_of(principle_set, row.aspects)
            own = {role: clean_response(found, chat.decode if chat else None, labels) for role, found in own.items()}
        if chat is not None:  # what was not sampled stands under the prompts of the same kind
            own |= {role: _absent(row, role, chat, thinking_apart) for role in ROLES if role not in own}
        contrasts.append(assemble(row, own, round=round, provenance=provenance))
    return contrasts


def fitting(rows: Sequence[Contrast], chat: Chat, recipe: Recipe) -> tuple[list[Contrast], list[Dropped]]:
    """Return the rows, with token ids, whose prompts ``chat`` takes and which leave room for a response; and why the
    others don't.

    Who wrote the responses may have counted in other tokens than ``chat``.
    """
    fits: list[Contrast] = []
    left_out: list[Dropped] = []
    for given in rows:
        try:
            row = with_token_ids(given, chat)
        except PromptRefused as error:
            left_out.append(Dropped(given.id, error.what))
            continue
        if row.longest_prompt < recipe.train.max_length:
            fits.append(row)
        else:
            left_out.append(Dropped(row.id, _no_room(row.longest_prompt), SHORTER))
    return fits, left_out


def _thinking_apart(response: Response, chat: Chat | None) -> Response:
    answer = think_apart(response, chat)
    if chat is None or answer.prompt_token_ids is None:
        return answer
    return dataclasses.replace(answer, prompt_token_ids=chat.without_thought(answer.prompt_token_ids))


def adjectives_of(principle_set: PrincipleSet, aspects: Sequence[str]) -> list[str]:
    """Return the adjectives of both signs of the named aspects."""
    found = [principle_set.aspect(name) for name in aspects]
    return [adjective for aspect in found for adjective in (aspect.positive, aspect.negative)]
