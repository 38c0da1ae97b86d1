"""Which optional parameters a server takes: one that it refuses is left out of every later request, with a warning."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

from selfsteer.backends.rejections import Rejection
from selfsteer.errors import SelfsteerWarning

LIMIT, NEWER_LIMIT = "max_tokens", "max_completion_tokens"
"""Some models of OpenAI's own know the limit by its newer name only, most other servers by the older one."""
_SCHEMA, _TOP, _EXTRA = "response_format", "top_logprobs", "extra_body"
_ALIASES = {_SCHEMA: ("json_schema", "structured_outputs"), _TOP: ("logprobs",)}

Options = dict[str, Any]


class Change(NamedTuple):
    """What is done about a refused parameter: it is left out, or sent by another name or with a smaller value."""

    name: str
    new_name: str = ""
    value: int | None = None

    def made(self, options: Mapping[str, Any]) -> Options:
        """Return parameters after the change."""
        extra = options.get(_EXTRA) or {}
        if self.name in extra:
            rest = {name: value for name, value in extra.items() if name != self.name}
            return {**options, _EXTRA: rest}
        if self.name not in options:
            return dict(options)
        kept = {name: value for name, value in options.items() if name != self.name}
        if self.new_name:
            return kept | {self.new_name: options[self.name]}
        return kept if self.value is None else kept | {self.name: min(self.value, options[self.name])}


class Parameters:
    """What a server has turned out to take. Safe to use from several threads.

    Args:
        where: The server and its model, for the warnings.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._changes: tuple[Change, ...] = ()

    def attempt(self, wanted: Mapping[str, Any], needed: Set[str] = frozenset()) -> Attempt:
        """Return an attempt to send a request.

        Args:
            wanted: Its parameters besides model and messages.
            needed: Those of them without which the answer is of no use.
        """
        return Attempt(self, wanted, needed, self._changes)

    def learn(self, changes: Mapping[Change, str]) -> None:
        """Keep changes with which a request was taken; the texts say why the server refused it before."""
        with self._lock:
            new = [change for change in changes if change not in self._changes]
            self._changes += tuple(new)
        for change in new:
            if not change.new_name:
                warnings.warn(self._told(change, changes[change]), SelfsteerWarning, stacklevel=2)

    def _told(self, change: Change, said: str) -> str:
        if change.value is not None:
            return f"{self._where} takes {change.name} up to {change.value} only, so that is asked for: {said}"
        if change.name == _SCHEMA:
            return f"{self._where} takes no JSON schema ({_SCHEMA}), so answers are read as they come: {said}"
        return f"{self._where} refuses {change.name}, so it is left out and the server's own default acts: {said}"


class Attempt:
    """One request, sent as often as the server refuses another of its parameters.

    What is changed is learned only if the request is taken then, so a refusal that was misread changes nothing.

    Attributes:
        sent: What is to be sent besides model and messages.
    """

    def __init__(
        self, known: Parameters, wanted: Mapping[str, Any], needed: Set[str], changes: tuple[Change, ...]
    ) -> None:
        self._known, self._needed = known, needed
        self._tried: dict[Change, str] = {}
        self.sent = dict(wanted)
        for change in changes:
            self.sent = change.made(self.sent)

    def yields(self, rejection: Rejection, said: str) -> bool:
        """Change what a refusal names; return whether there is something to send again.

        Each parameter is changed once (a number as long as it gets smaller), so this comes to an end.
        """
        change = None if rejection.content or rejection.length else self._change(rejection)
        if change is None:
            return False
        self._tried[change] = said
        self.sent = change.made(self.sent)
        return True

    def taken(self) -> None:
        """The server took the request as it was sent last."""
        last = {change.name: change for change in self._tried}
        self._known.learn({change: self._tried[change] for change in last.values()})

    def _change(self, rejection: Rejection) -> Change | None:
        change = self._wanted_change(rejection)
        return None if change in self._tried else change

    def _wanted_change(self, rejection: Rejection) -> Change | None:
        name = rejection.blames(self._names())
        limit, other = (LIMIT, NEWER_LIMIT) if LIMIT in self.sent else (NEWER_LIMIT, LIMIT)
        if name in (limit, None) and (other in rejection.text or (name and rejection.unknown)):
            return Change(limit, new_name=other)
        if name == _TOP:
            value = rejection.bound(self.sent[_TOP])
            return Change(_TOP, value=value) if value else None
        if name is None and _SCHEMA in self.sent:  # many servers that know no schemas do not say what they refuse
            name = _SCHEMA
        return None if name in (limit, None) else Change(str(name))

    def _names(self) -> dict[str, tuple[str, ...]]:
        """Return the parameters that may change, with what else messages call them."""
        names = {name: _ALIASES.get(name, ()) for name in self.sent if name not in self._needed and name != _EXTRA}
        if _TOP in self.sent:
            names |= {_TOP: _ALIASES[_TOP]}
        inner = self.sent.get(_EXTRA) or {}
        return names | {name: tuple(value) if isinstance(value, dict) else () for name, value in inner.items()}
