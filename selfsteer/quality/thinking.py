"""Take a reasoning model's thoughts apart from its answer. Text and token ids stay together."""

from __future__ import annotations

import dataclasses

from selfsteer.backends import Completion
from selfsteer.chat import Chat
from selfsteer.chat_template import THINKING_TAGS, ThinkingTags, Thought
from selfsteer.errors import InputError
from selfsteer.quality.cleaning import first_boundary
from selfsteer.records import Response

_HEAD = 32  # tokens, more than white space and an opening tag take up


def think_apart(response: Response, chat: Chat | None) -> Response:
    """Return ``response`` with the thought at its front in ``thinking``, and the answer as its text and token ids.

    Only a thought at the front counts: one that begins, after white space, with an opening tag, or that the prompt
    already opened. The first closing tag ends it, and what an answer says about tags stays in the answer. A thought
    that is never closed leaves no answer (text ""), which the ``empty`` filter drops. A response without a thought is
    returned as it is. What a server handed out as thinking stays, and comes first.

    The ids of the answer are a suffix of the sampled ones. They begin at the first token after the closing tag that is
    not white space alone, inside no character, while the text is stripped: ``text == decode(token_ids).strip()``. They
    hold the end token if and only if ``finish`` is "stop".

    Args:
        chat: The template it was sampled with, which names the tags; None where it is unknown. Without tags of its
            own, those of other models count.

    Raises:
        InputError: The response carries token ids and ``chat`` is None.
    """
    if response.token_ids is not None and chat is None:
        raise InputError(
            f"response {response.id!r} ({response.role}) carries token ids, but no chat was given to decode them with",
            do="pass the chat that it was sampled with, or a response without token ids",
        )
    tags, opened = _leading_tags(response, chat)
    if tags is None:
        return response
    if response.token_ids is None or chat is None:
        text = response.text
        if (thought := tags.leading(text, opened=opened)) is None:
            return response
        thinking = _joined(response.thinking, text[thought.start : thought.end])
        return dataclasses.replace(response, text=text[thought.answer :].strip(), thinking=thinking)
    return _of_ids(response, response.token_ids, chat, tags, opened)


def answer_of(completion: Completion, chat: Chat | None) -> Completion:
    """Return an answer without its thoughts, separated as by :func:`think_apart`.

    Where thoughts are closed that nothing opened, because a server's template did, the answer is the text after them.
    """
    ids = completion.token_ids, completion.prompt_token_ids
    whole = Response("", "original", completion.text, completion.finish, *ids, completion.thinking)
    text = think_apart(whole, chat).text
    for tags in THINKING_TAGS:
        text = text.rpartition(tags.close)[2]
    return dataclasses.replace(completion, text=text.strip())


def _leading_tags(response: Response, chat: Chat | None) -> tuple[ThinkingTags | None, bool]:
    """Return the tags of the thought at the front, None where there is none, and whether the prompt opened it."""
    known = (chat.thinking,) if chat and chat.thinking else THINKING_TAGS
    if chat and not response.thinking:
        ids = response.prompt_token_ids
        if chat.opens_thinking if ids is None else chat.ends_in_thought(ids):
            return chat.thinking, True
    if chat is None or response.token_ids is None:
        head = response.text
    else:  # tags may be special tokens, which the text does not show
        head = chat.tokenizer.decode(response.token_ids[:_HEAD], clean_up_tokenization_spaces=False)
    return next((tags for tags in known if head.lstrip().startswith(tags.open)), None), False


def _of_ids(response: Response, ids: list[int], chat: Chat, tags: ThinkingTags, opened: bool) -> Response:
    marks = chat.template.tag_ids(tags)
    thought = _between(ids, *marks, opened) if marks else None
    if thought is not None:
        thinking, answer = chat.decode(ids[thought.start : thought.end]), thought.answer
        if opened:  # some models open again what the prompt opened
            thinking = thinking.lstrip().removeprefix(tags.open)
    else:
        text = chat.decode(ids)
        thought = tags.leading(text, opened=opened)
        if thought is None:
            return response
        thinking, answer = text[thought.start : thought.end], first_boundary(ids, chat.decode, thought.answer)
    last = len(ids) - 1 if response.finish == "stop" else len(ids)  # an empty answer keeps its end token
    while answer < last and chat.decode([ids[answer]]).isspace():  # it is part of how a template closes a thought
        answer += 1
    kept = ids[min(answer, last) :]
    thinking = _joined(response.thinking, thinking)
    return dataclasses.replace(response, text=chat.decode(kept).strip(), token_ids=kept, thinking=thinking)


def _between(ids: list[int], opening: list[int], closing: list[int], opened: bool) -> Thought | None:
    """Return where the thought is, in tokens, for tags that are tokens. White space may come before it."""
    begin = 0 if opened else _find(opening, ids[:_HEAD], 0)
    if begin is None:
        return None
    start = begin if opened else begin + len(opening)
    end = _find(closing, ids, start)
    return Thought(start, len(ids), len(ids)) if end is None else Thought(start, end, end + len(closing))


def _find(wanted: list[int], ids: list[int], start: int) -> int | None:
    return next((i for i in range(start, len(ids)) if ids[i : i + len(wanted)] == wanted), None)


def _joined(given: str, found: str) -> str:
    return "\n\n".join(part for part in (given, found.strip()) if part)
