"""The kinds of judges by name. A new one is its file, with a function that opens it, and a line of :data:`JUDGES`.

Weights are loaded with the first answer that a judge has to give: where all answers are kept, nothing is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError, did_you_mean
from selfsteer.files import home_expanded

if TYPE_CHECKING:
    from selfsteer.judges.base import Judge


@dataclass(frozen=True)
class JudgeKind:
    """A kind of judge before it is opened.

    Attributes:
        form: What its name stands for behind the kind, as in "reward:MODEL".
        opener: "module:function" of what takes the settings and the name behind the kind and returns the judge;
            imported when used.
        settings: The keys of :class:`JudgeSettings` that it uses besides the name; another one is an error.
    """

    form: str
    opener: str
    settings: frozenset[str] = frozenset()


_LOADING = frozenset({"device", "precision", "revision", "trust_remote_code", "chat_template_kwargs"})
_ANSWERS = frozenset({"mode", "max_tokens", "template"})
_SERVER = frozenset({"base_url", "api_key_env", "chat_template_kwargs"})

JUDGES: dict[str, JudgeKind] = {
    "": JudgeKind("MODEL", "selfsteer.judges.language_model:open_local", _LOADING | _ANSWERS),
    "reward": JudgeKind("MODEL", "selfsteer.judges.reward:open_judge", _LOADING),
    "implicit": JudgeKind(
        "POLICY@REFERENCE",
        "selfsteer.judges.implicit:open_judge",
        _LOADING - {"revision"} | {"per_token"},  # a revision of which of its two models?
    ),
    "endpoint": JudgeKind("MODEL", "selfsteer.judges.language_model:open_endpoint", _SERVER | _ANSWERS),
    "program": JudgeKind("PROGRAM", "selfsteer.judges.program:open_judge"),
}
"""By what a judge's name begins with, as in "reward:MODEL"; "" is a chat model on this machine."""


def make_judge(settings: JudgeSettings) -> Judge:
    """Return the judge that the settings name.

    Raises:
        ConfigError: No name, an unknown kind or program, a template that can't be read, a setting without effect.
        ModelError: The model can't be used as it is.
        FetchError: It can't be fetched.
    """
    kind, rest = checked_kind(settings)
    module, _, function = JUDGES[kind].opener.partition(":")
    judge: Judge = getattr(import_module(module), function)(settings, rest)
    return judge


def checked_kind(settings: JudgeSettings) -> tuple[str, str]:
    """Return the kind that settings name, a key of :data:`JUDGES`, and the rest of the name.

    Raises :class:`ConfigError` for no name, an unknown kind, a setting without effect.
    """
    if not settings.name:
        raise ConfigError("no judge is named", where="judge", do=f"name a chat model, or {_forms()}")
    kind, rest = _kind(settings.name)
    if not rest:
        raise ConfigError(f"{settings.name!r} names no judge", where="judge", do=f"give {_forms()}")
    idle = sorted(set_keys(settings) - settings_of(settings.name))
    if idle:
        what = f"the judge {settings.name!r} has no setting {', '.join(idle)}"
        raise ConfigError(what, where=", ".join(f"judge.{key}" for key in idle), do="leave it out")
    return kind, rest


def runs_code(settings: JudgeSettings) -> bool:
    """Return whether the judge is Python that the settings name: a program of the user's, or a model's own code."""
    from selfsteer.judges.program import PROGRAMS

    kind, rest = _kind(settings.name or "")
    return settings.trust_remote_code or (kind == "program" and rest not in PROGRAMS)


def settings_of(name: str) -> set[str]:
    """Return the keys of :class:`JudgeSettings` that a judge of this name uses."""
    kind, rest = _kind(name)
    found = set(JUDGES[kind].settings)
    return found - {"revision"} if "revision" in found and _has_no_revisions(rest) else found


def set_keys(settings: JudgeSettings) -> set[str]:
    """Return the keys that make a judge other than it would be by default."""
    fields = JudgeSettings.model_fields.items()
    return {key for key, field in fields if getattr(settings, key) != field.default} - {"name", "by"}


def _kind(name: str) -> tuple[str, str]:
    kind, separator, rest = name.partition(":")
    if separator and kind in JUDGES:
        return kind, rest
    # A path may hold a colon, and so may a file's name; a single word before it looks like a misspelt kind.
    if separator and re.fullmatch("[a-z_-]{2,}", kind) and not home_expanded(name).exists():
        known = [one for one in JUDGES if one]
        raise ConfigError(f"unknown kind of judge {kind!r}", where=f"judge {name}", do=did_you_mean(kind, known))
    return "", name


def _has_no_revisions(name: str) -> bool:
    """Whether a model comes with this package or is on this machine; an adapter's base may be on the hub."""
    from selfsteer.models import CATALOGUE
    from selfsteer.models.resolve import is_adapter

    path = home_expanded(name)
    return name in CATALOGUE or (path.exists() and not is_adapter(str(path)))


def _forms() -> str:
    return ", ".join(f"{kind}:{found.form}" for kind, found in JUDGES.items() if kind)
