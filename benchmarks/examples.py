"""Examples for timing: from a file in the authors' format, made up with given lengths, or drawn token by token."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

from selfsteer.chat import Chat
from selfsteer.contrast import with_token_ids
from selfsteer.queries import load_queries
from selfsteer.records import PROMPTS, Contrast, Message

_WORDS = "Verify numbers and names before you write them down, and say why they matter to the reader. "


def read_examples(path: Path, chat: Chat, count: int) -> list[Contrast]:
    """Rows of a JSON-lines file with instruction, p_system, n_system, chosen (y+), rejected (y-) and raw (yo)."""
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    return [_contrast(str(number), json.loads(line), chat) for number, line in enumerate(lines)]


def made_examples(chat: Chat, count: int, prompt_tokens: int, response_tokens: int) -> list[Contrast]:
    """Real queries under principles of ``prompt_tokens``, with responses of ``response_tokens``."""
    rows = []
    for query in load_queries("builtin:quickstart", limit=count).queries:
        text = query.prompt[-1]["content"]
        principle = chat.tokenizer.decode(chat.encode_response(_WORDS * prompt_tokens, ended=False)[:prompt_tokens])
        columns = {"instruction": text, "p_system": principle, "n_system": "Never: " + principle}
        columns |= dict.fromkeys(("chosen", "rejected", "raw"), text)
        ids = chat.encode_response((text + " ") * response_tokens, ended=False)
        # The tail of each starts elsewhere, so that no two responses are equal.
        own = {f"{role}_token_ids": ids[i : i + response_tokens] for i, role in enumerate(_ROLES)}
        rows.append(dataclasses.replace(_contrast(query.id, columns, chat), **own))
    return rows


def drawn_examples(count: int, prompt_tokens: int, response_tokens: int, vocabulary: int) -> list[Contrast]:
    """Rows of random token ids, for random weights; the lengths vary by up to an eighth, as real ones do."""
    draw = random.Random(0)

    def ids(length: int) -> list[int]:
        return [draw.randrange(vocabulary) for _ in range(draw.randint(length - length // 8, length))]

    names = [*PROMPTS, *_ROLES]
    lengths = [prompt_tokens] * len(PROMPTS) + [response_tokens] * len(_ROLES)
    texts = dict.fromkeys(("positive_principle", "negative_principle"), "")
    texts |= {f"{role}_response": "drawn" for role in _ROLES}
    options: dict[str, Any] = texts | {f"{role}_finish": "stop" for role in _ROLES} | {name: [] for name in PROMPTS}
    return [
        Contrast(
            id=str(number), split="train", aspects=[], **options,
            **{f"{name}_token_ids": ids(length) for name, length in zip(names, lengths, strict=True)},
        )
        for number in range(count)
    ]  # fmt: skip


_ROLES = ("positive", "negative", "original")


def _contrast(name: str, columns: dict[str, str], chat: Chat) -> Contrast:
    user: list[Message] = [{"role": "user", "content": columns["instruction"]}]
    prompts = [[{"role": "system", "content": columns[key]}, *user] for key in ("p_system", "n_system")]
    row = Contrast(
        id=name, prompt=user, split="train", aspects=[],
        positive_principle=columns["p_system"], negative_principle=columns["n_system"],
        positive_prompt=prompts[0], negative_prompt=prompts[1],
        positive_response=columns["chosen"], negative_response=columns["rejected"], original_response=columns["raw"],
        positive_finish="stop", negative_finish="stop", original_finish="stop",
    )  # fmt: skip
    return with_token_ids(row, chat)
