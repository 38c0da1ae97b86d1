"""A training example as the trainer sees it: decoded text by runs of tokens of one role."""

from __future__ import annotations

from collections.abc import Sequence

from selfsteer.chat import Chat
from selfsteer.logprobs import view_cells
from selfsteer.logprobs.cells import rows_of
from selfsteer.records import Contrast
from selfsteer.views import PAIRINGS, View


def preview(contrast: Contrast, views: Sequence[View], chat: Chat, max_length: int | None, title: str) -> str:
    """Return lines that show, for each view, the prompt and both responses of a row as they are trained on.

    Text is in quotes with its line breaks and control characters escaped, special tokens included. ``title`` comes
    first; a response longer than ``max_length`` is cut, as in training.
    """
    lines = [f"{title}: row {contrast.id!r}"]
    for view in views:
        # The very rows that are scored, so that the preview shows exactly the tokens that are trained on.
        (row,) = rows_of(contrast, view_cells([view]), max_length)
        lines += [f"  {view} view", f"    {PAIRINGS[view].prompt}, {_tokens(row.prompt, chat)}, not trained"]
        roles = {"chosen": PAIRINGS[view].chosen, "rejected": PAIRINGS[view].rejected}
        for (side, role), ids in zip(roles.items(), row.responses, strict=True):
            cut = len(ids) < len(contrast.response_ids(role))
            ended = getattr(contrast, f"{role}_finish") == "stop" and not cut  # then the last token is an end token
            body = ids[:-1] if ended else ids
            end = f"{'cut at max_length' if cut else 'generation was cut off'}: no end label"
            if ended:
                end = f"end token, {_tokens(ids[-1:], chat)}, trained"
            lines += [f"    {side}: {role}_response, {_tokens(body, chat)}, trained", f"    {side}: {end}"]
    return "\n".join(lines)


def _tokens(ids: Sequence[int], chat: Chat) -> str:
    text = chat.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return f"{len(ids)} token{'' if len(ids) == 1 else 's'} {text!r}"
