"""Parsing a model's answer to a request for new queries. A failure is an outcome, never an exception."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from selfsteer.records import Finish

Outcome = Literal["ok", "repaired", "failed"]

_ITEM = re.compile(r"^[ \t]*(?:#+[ \t]*)?(?:\*\*|__)?(?:request[ \t]+)?(\d{1,3})[ \t]*[.):][ \t]*(.*)$", re.I | re.M)
_ASKED = re.compile(r"\d+\. \S")
_TAGGED = re.compile(r"<request>(.*?)</request>", re.DOTALL | re.IGNORECASE)
_CLOSE = re.compile(r"</request>", re.IGNORECASE)
_OPEN = re.compile(r"<request>", re.IGNORECASE)
_TAG = re.compile(r"</?(?:request|original)>", re.IGNORECASE)
_LEAD = re.compile(
    r"\A(?:sure|certainly|of course|okay|ok)?[!,.:\s]*"
    r"(?:here(?:'s| is| are)|this is|the (?:new|rewritten|revised))\b[^\n]*:\s*(?:\n|\Z)",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»", "`": "`"}


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was found in an answer: in the requested form (ok), in another one (repaired; ``why``: how), or not."""

    outcome: Outcome
    queries: tuple[str, ...] = ()
    why: str = ""


def read_list(text: str, finish: Finish) -> Reading:
    """Read a numbered list of queries.

    Entries are numbered 1, 2, 3, ... at the beginnings of lines; other lines belong to the entry above them, and so
    does a number that is not the next one. An entry that the end of the answer cut off is left out.
    """
    heads: list[re.Match[str]] = []
    for match in _ITEM.finditer(text):
        if int(match[1]) == len(heads) + 1:
            heads.append(match)
    if not heads:
        return Reading("failed", why="no numbered list" if text.strip() else "empty answer")
    ends = [head.start() for head in heads[1:]] + [len(text)]
    entries = [text[head.start(2) : end].strip() for head, end in zip(heads, ends, strict=True)]
    repairs = ["text before the list"] if text[: heads[0].start()].strip() else []
    if finish == "length":
        repairs.append("last entry cut off")
        entries = entries[:-1]
    plain = [_plain(entry) for entry in entries]
    if plain != entries or not all(_ASKED.match(head[0]) for head in heads):
        repairs.append("marks around an entry")
    queries = tuple(filter(None, plain))
    if not queries:
        return Reading("failed", why="cut off in its first entry" if finish == "length" else "empty entries")
    return Reading("repaired" if repairs else "ok", queries, ", ".join(repairs))


def read_one(text: str, finish: Finish) -> Reading:
    """Read a query between <request> and </request>.

    Without an opening tag, the text after a line such as "Here is the rewritten request:" counts. Anything else fails:
    a model that forgets the form has mostly forgotten the task, too.
    """
    # Behind the last closing tag no opening one has a partner, which a search would look for once for each.
    last = max((match.end() for match in _CLOSE.finditer(text)), default=0)
    found = [_plain(one) for one in _TAGGED.findall(text[:last])]
    if found and found[0]:
        whole = _TAGGED.sub("", text[:last]).strip() == text[last:].strip() == "" and len(found) == 1
        return Reading("ok" if whole else "repaired", (found[0],), "" if whole else "text outside of the tags")
    if finish == "length":
        return Reading("failed", why="cut off")
    opened = _OPEN.search(text) or _LEAD.search(text.strip())
    if opened is None:
        return Reading("failed", why="no tags" if text.strip() else "empty answer")
    query = _plain(opened.string[opened.end() :])
    if not query:
        return Reading("failed", why="empty answer")
    return Reading("repaired", (query,), "no pair of tags")


def _plain(text: str) -> str:
    """Remove the marks around a query: quotes, emphasis, tags."""
    text = _TAG.sub("", text).strip()
    for _ in range(3):
        if len(text) > 4 and text[:2] == text[-2:] == "**" and "**" not in text[2:-2]:
            text = text[2:-2].strip()
        elif len(text) > 2 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
            text = text[1:-1].strip()
    return text
