"""Reading why a server refuses a request: a parameter, the length or the content. Servers use many forms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from selfsteer.files import parse_json

_PLACES = ("param", "params", "parameter", "loc", "field", "argument", "property", "attribute")
"""Keys under which servers name the refused parameter."""
_ECHOES = ("input", "request", "request_body", "body", "payload", "headers", "url", "prompt", "messages")
"""Keys under which servers repeat the request."""
_CORE = frozenset({"messages", "model", "prompt"})
"""Parameters that are in every request."""
_FINDING = "a filter's finding"
"""Marks a category that a content filter found: {"hate": {"filtered": true, "severity": "high"}}."""
_DEEPEST = 8

_CONTENT = re.compile(
    r"content[ _-]?(?:filter|policy|management|moderation|violation|safety|restriction)|responsible[ _]?ai"
    r"|moderat(?:ion|ed)\b|\bflagged\b|guardrail|usage polic|data_?inspection"
    r"|safety (?:system|filter|polic|check|reason|guideline)"
    r"|(?:inappropriate|harmful|unsafe|sensitive|prohibited|objectionable) (?:content|material|word|input|prompt)"
    r"|prohibited_content|blocklist|jailbreak|敏感|不安全|block_?reason"
    r"|violat\w+ (?:\w+ ){0,3}(?:polic|guideline|terms)",
    re.IGNORECASE,
)
_LENGTH = re.compile(
    r"context.{0,20}(?:length|window|size|limit)|(?:length|window|size|limit).{0,20}context|too long|reduce the length"
    r"|too many (?:\w+ )?tokens|tokens?\b.{0,60}(?:exceed|too large)|exceed.{0,60}\btokens|tokens` ?\+"
    r"|max_(?:\w+_)?tokens[^\w,;]{0,3}(?:\w+[^\w,;]+){0,4}?"
    r"(?:too large|too high|range|at most|less than|greater than|exceed|maximum|between|<=|>)|range of .?max_\w*tokens",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"unsupported|not (?:\w+ )?(?:support|allow|permit|accept|recogni|available|implement|enabled|know)"
    r"|n['’]t (?:support|accept|allow)"
    r"|unknown|unrecogni[sz]ed|unexpected|\bextra|extraneous|deprecated|removed|no longer|instead|cannot find",
    re.IGNORECASE,
)
"""Words for a parameter that the server doesn't have, whatever its value."""
_REFUSING = re.compile(
    rf"{_UNKNOWN.pattern}|invalid|\bonly\b|must|should|can ?not|can['’]t|both|conflict|incompatible|range"
    r"|forbidden|illegal",
    re.IGNORECASE,
)
_EXCLUSIVE = re.compile(
    r"\bboth\b|together|only one|either|mutually|simultaneous|same time|conflict|one of|combin|alongside", re.IGNORECASE
)
_LEAST = ("top_p", "seed", "stop", "response_format", "temperature")
"""The order in which parameters that exclude each other are left out; any other one comes before these."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class Rejection:
    """A refused request, by the body of the server's answer: parsed JSON or text.

    Attributes:
        text: All its words, a line for each part; some servers name the parameter by the key alone.
    """

    def __init__(self, body: Any) -> None:
        found = list(_leaves(body))
        self.text = "\n".join(f"{key}: {text}" for key, text in found if key not in (*_PLACES, _FINDING))
        self._paths = [list(map(_plain, _NAME.findall(text))) for key, text in found if key in _PLACES]
        self._categories = [*dict.fromkeys(text for key, text in found if key == _FINDING)]

    @cached_property
    def content(self) -> bool:
        """Whether the content is refused: by a filter, a policy, a moderator."""
        return bool(self._categories or _CONTENT.search(self.text))

    @property
    def categories(self) -> str:
        """The findings of a content filter, such as "hate, violence"; "" where it gives none."""
        return ", ".join(self._categories)

    @cached_property
    def length(self) -> bool:
        """Whether the prompt, or the requested answer, is too long."""
        limit = any(re.fullmatch("max.*tokens", name) for path in self._paths for name in path)
        return bool(_LENGTH.search(self.text)) or (limit and not self.unknown)

    @property
    def unknown(self) -> bool:
        """Whether the server does not have a parameter, rather than finding its value wrong."""
        return bool(_UNKNOWN.search(self.text))

    def blames(self, parameters: Mapping[str, Iterable[str]]) -> str | None:
        """Return which of some parameters (each with its other names in messages) is refused, None where none is.

        One at a time, as messages also list the supported ones: of several that exclude each other the least
        important, else the first one named. Another refused one shows when the request is sent without it.
        """
        known = {_plain(alias): name for name, aliases in parameters.items() for alias in (name, *aliases)}
        if found := next((known[part] for path in self._paths for part in path if part in known), None):
            return found
        if any(part in _CORE for path in self._paths for part in path):
            return None
        sentences = re.split(r"(?<=[.;!?])\s+|\n", self.text)
        for some in ([one for one in sentences if _REFUSING.search(one)], sentences):
            for sentence in some:
                named = [known[part] for part in map(_plain, _NAME.findall(sentence)) if part in known]
                if named and _EXCLUSIVE.search(sentence):
                    return min(named, key=lambda name: _LEAST.index(name) if name in _LEAST else -1)
                if named:
                    return named[0]
        return None

    def bound(self, value: int) -> int:
        """Return a smaller number for one that is too large: the largest one named, else half of it.

        0 where it is not too large, but the server has no such parameter.
        """
        numbers = [int(digits) for digits in re.findall(r"(?<![\w.])(?<![A-Za-z_]-)\d{1,6}(?![\w.]*\d)", self.text)]
        return max((number for number in numbers if 0 < number < value), default=0 if self.unknown else value // 2)


def _plain(name: str) -> str:
    """Return a name in one spelling for topP, top_p and top-p."""
    return re.sub("[_-]", "", name).lower()


def _leaves(body: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the texts, numbers and findings in a body, each with the key above it; JSON within a text is parsed."""
    if isinstance(body, dict) and depth < _DEEPEST:
        for name, value in body.items():
            if isinstance(value, dict) and value.get("filtered") is True:
                yield _FINDING, name
            if name not in _ECHOES:
                yield from _leaves(value, name if key not in _PLACES else key, depth + 1)
    elif isinstance(body, list | tuple) and depth < _DEEPEST:
        for value in body:
            yield from _leaves(value, key, depth + 1)
    elif isinstance(body, str):
        inner = _parsed(body)
        yield from [(key, body)] if inner is None else _leaves(inner, key, depth + 1)
    elif isinstance(body, int | float) and not isinstance(body, bool) and key not in ("code", "status"):
        yield key, f"{body}"


def _parsed(text: str) -> Any:
    """Return the JSON object or list in a text, at its end after a few words; None where there is none."""
    start = min((at for at in map(text.find, "{[") if at >= 0), default=-1)
    if start < 0 or not text.rstrip().endswith(("}", "]")):
        return None
    try:
        found = parse_json(text[start:])
    except ValueError:
        return None
    return [text[:start], found] if isinstance(found, dict | list) and found else None
