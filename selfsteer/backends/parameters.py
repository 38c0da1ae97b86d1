"""Which optional parameters a server takes: one that it refuses is left out of every later request, with a warning."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

from selfsteer.backends.rejections import Rejection
from selfsteer.errors import SelfsteerWarning

LIMIT, NEWER_LIMIT = "max_tokens", "max_completion_tokens"
"""Some models of OpenAI's own know the limit by its newer name only, most other servers by the older one. It is never
left out, as caps on tokens and money rest on it: it only changes its name."""
_SCHEMA, _TOP, _EXTRA = "response_format", "top_logprobs", "extra_body"
_ALIASES = {_SCHEMA: ("json_schema", "structured_outputs"), _TOP: ("logprobs",)}

Options = dict[str, Any]


class Change(NamedTuple):
    """A change of a refused parameter: left out, or sent by another name or with a smaller value."""

    name: str
    new_name: str = ""
    value: int | None = None

    def made(self, options: Mapping[str, Any]) -> Options:
        """Return parameters after the change."""
        extra = options.get(_EXTRA) or {}
        if self.name in extra:
            return {**options, _EXTRA: {name: value for name, value in extra.items() if name != self.name}}
        if self.name not in options:
            return dict(options)
        kept = {name: value for name, value in options.items() if name != self.name}
        if self.new_name:
            return kept | {self.new_name: options[self.name]}
        return kept if self.value is None else kept | {self.name: min(self.value, options[self.name])}

    def warning(self, server: str) -> str:
        """Return the text of the warning, "" for a change of name alone."""
        if self.value is not None:
            return f"{server} takes {self.name} up to {self.value} only, so that is requested"
        if self.name == _SCHEMA:
            return f"{server} takes no JSON schema ({_SCHEMA}), so answers are read as they come"
        left_out = f"{server} refuses {self.name}, so it is left out and the server's own default acts"
        return "" if self.new_name else left_out


class Parameters:
    """The parameters that a server (``where``, for the warnings) takes. Safe to use from several threads."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._changes: tuple[Change, ...] = ()

    def attempt(self, wanted: Mapping[str, Any], needed: Set[str] = frozenset()) -> Attempt:
        """Return an attempt to send a request with these parameters; without the ``needed`` its answer is useless."""
        sent = dict(wanted)
        for change in self._changes:
            sent = change.made(sent)
        return Attempt(self, sent, needed)

    def learn(self, changes: Mapping[Change, str]) -> None:
        """Keep changes with which a request was accepted; the texts are the server's earlier refusals."""
        with self._lock:
            new = [change for change in changes if change not in self._changes]
            self._changes += tuple(new)
        for change in new:
            if warning := change.warning(self._where):
                warnings.warn(f"{warning}: {changes[change]}", SelfsteerWarning, stacklevel=2)


class Attempt:
    """One request, sent again as long as the server refuses another of its parameters.

    A change is learned only if the request is then accepted: servers name a parameter in a dozen forms, and a refusal
    that was misread costs one more request and changes nothing.

    Attributes:
        sent: The parameters besides model and messages.
    """

    def __init__(self, known: Parameters, sent: Options, needed: Set[str]) -> None:
        self.sent, self._known, self._needed = sent, known, needed
        self._tried: dict[Change, str] = {}

    def yields(self, rejection: Rejection, text: str) -> bool:
        """Change the parameter that a refusal (and its ``text``) names; return whether there is one to change.

        Each parameter is changed once (a number as long as it gets smaller), so this comes to an end.
        """
        change = None if rejection.content or rejection.length else self._change(rejection)
        if change is None or change in self._tried:
            return False
        self._tried[change] = text
        self.sent = change.made(self.sent)
        return True

    def taken(self) -> None:
        """Learn the changes: the server has accepted the request as it was sent last."""
        last = {change.name: change for change in self._tried}
        self._known.learn({change: self._tried[change] for change in last.values()})

    def _change(self, rejection: Rejection) -> Change | None:
        names = {name: _ALIASES.get(name, ()) for name in self.sent if name not in self._needed and name != _EXTRA}
        if _TOP in self.sent:  # also where it is needed: its number may change
            names |= {_TOP: _ALIASES[_TOP]}
        for inner, value in (self.sent.get(_EXTRA) or {}).items():
            names[inner] = tuple(value) if isinstance(value, dict) else ()
        name = rejection.blames(names)
        limit, other = (LIMIT, NEWER_LIMIT) if LIMIT in self.sent else (NEWER_LIMIT, LIMIT)
        if name in (limit, None) and (other in rejection.text or (name and rejection.unknown)):
            return Change(limit, new_name=other)
        if name == _TOP:
            value = rejection.bound(self.sent[_TOP])
            return Change(_TOP, value=value) if value else None
        if name is None and _SCHEMA in self.sent:  # many servers without schemas do not say what they refuse
            name = _SCHEMA
        return None if name in (limit, None) else Change(str(name))
