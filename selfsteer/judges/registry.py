"""From a judge's name to the judge.

Weights are loaded when the first answer is asked for: where all answers are kept, nothing is loaded.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from selfsteer.backends.local_model import LocalModel
from selfsteer.config import EndpointSettings, JudgeSettings, per_token
from selfsteer.errors import ConfigError
from selfsteer.files import fingerprint, read_json
from selfsteer.judges.base import Judge
from selfsteer.judges.template import JudgeTemplate

if TYPE_CHECKING:
    from selfsteer.chat import Chat

KINDS = ("reward", "implicit", "endpoint", "program")
_LOCAL = {"device", "precision", "revision", "trust_remote_code", "chat_template_kwargs"}
_SETTINGS = {
    "": {"mode", "max_tokens", "template", *_LOCAL},
    "reward": _LOCAL,
    "implicit": {"per_token", *_LOCAL} - {"revision"},  # of which of its two models?
    "endpoint": {"mode", "max_tokens", "template", "base_url", "api_key_env", "chat_template_kwargs"},
    "program": set[str](),
}
"""What each kind of judge goes by, besides its name; "" is a language model on this machine."""


def make_judge(settings: JudgeSettings) -> Judge:
    """Return the judge that the settings name.

    Raises:
        ConfigError: No name, an unknown program, a template that can't be read, a setting that the judge can't use.
        ModelError: The model can't be used as it is.
        FetchError: It can't be fetched.
    """
    if not settings.name:
        raise ConfigError("no judge is named", where="judge", do=f"name a chat model, or {_forms()}")
    kind, rest = _kind(settings.name)
    if not rest:
        raise ConfigError(f"{settings.name!r} names no judge", where="judge", do=f"give {_forms()}")
    idle = sorted(given(settings) - settings_of(settings.name))
    if idle:
        what = f"the judge {settings.name!r} does not go by {', '.join(idle)}"
        raise ConfigError(what, where=", ".join(f"judge.{key}" for key in idle), do="leave it out")
    kinds = {
        "": _language_model,
        "reward": _reward_model,
        "implicit": _implicit,
        "endpoint": _endpoint,
        "program": _program,
    }
    return kinds[kind](settings, rest)


def settings_of(name: str) -> set[str]:
    """Return the keys of :class:`JudgeSettings` that a judge of this name goes by."""
    kind, rest = _kind(name)
    return _SETTINGS[kind] - ({"revision"} if kind in ("", "reward") and _has_no_revisions(rest) else set())


def given(settings: JudgeSettings) -> set[str]:
    """Return the keys that make a judge other than it would be by default."""
    fields = JudgeSettings.model_fields.items()
    return {key for key, field in fields if getattr(settings, key) != field.default} - {"name", "by"}


def _kind(name: str) -> tuple[str, str]:
    kind, separator, rest = name.partition(":")
    return (kind, rest) if separator and kind in KINDS else ("", name)


def _has_no_revisions(name: str) -> bool:
    """Whether a model comes with this package or lies on this machine; an adapter's base may be on the hub."""
    from selfsteer.models import CATALOGUE
    from selfsteer.models.resolve import is_adapter

    path = Path(name).expanduser()
    return name in CATALOGUE or (path.exists() and not is_adapter(str(path)))


def _place(key: str) -> str:
    """Return what a setting is called in a recipe and on the command line."""
    return f"judge.{key} (--{key.replace('_', '-')})"


def _forms() -> str:
    names = {"implicit": "POLICY@REFERENCE", "program": "PROGRAM"}
    return ", ".join(f"{kind}:{names.get(kind, 'MODEL')}" for kind in KINDS)


def _local(settings: JudgeSettings, name: str) -> LocalModel:
    from selfsteer.models import resolve, silence_transformers

    silence_transformers()
    return LocalModel(settings, resolve(name), _place("device"))


def _precise(settings: JudgeSettings) -> JudgeSettings:
    """Return settings in which "auto" is float32: scores are compared with each other, and may be nearly the same."""
    return settings.model_copy(update={"precision": "float32"}) if settings.precision == "auto" else settings


def _language_model(settings: JudgeSettings, name: str) -> Judge:
    from selfsteer.judges.logprob import LogprobJudge
    from selfsteer.judges.text import TextJudge

    local, template = _local(settings, name), _template(settings)
    shown = Path(name).name or name
    if settings.mode == "text":
        tokens = _reply_tokens(settings, local.chat)
        return TextJudge(local.backend, name=shown, source=local.fingerprint, template=template, max_tokens=tokens)
    return LogprobJudge(local.model, local.chat, name=shown, weights=local.fingerprint, template=template)


def _reward_model(settings: JudgeSettings, name: str) -> Judge:
    from selfsteer.judges.reward import RewardJudge
    from selfsteer.models import load_tokenizer
    from selfsteer.reward.loading import load_reward_model, reward_config

    local = _local(_precise(settings), name)
    return RewardJudge(
        partial(load_reward_model, local.source, device=local.device, dtype=local.dtype, **local.options),
        load_tokenizer(local.source, **local.options),
        config=reward_config(local.source, **local.options),
        name=Path(name).name or name,
        content=local.fingerprint,
        template_kwargs=settings.chat_template_kwargs,
    )


def _implicit(settings: JudgeSettings, name: str) -> Judge:
    from selfsteer.judges.implicit import ImplicitJudge, Side

    policy, reference = _policy_and_reference(name)

    def side(model: str) -> Side:
        local = _local(_precise(settings), model)
        return Side(local.model, local.chat, Path(model).name or model, local.fingerprint)

    return ImplicitJudge(side(policy), side(reference), per_token=_per_token(settings, policy))


def _per_token(settings: JudgeSettings, policy: str) -> bool:
    """Return whether to compare means: as asked, else as the loss did that the policy's folder names, else not."""
    if settings.per_token is not None:
        return settings.per_token
    trained = read_json(Path(policy).expanduser() / "selfsteer.json") or {}
    return "base_loss" in trained and per_token(trained.get("objective", ""), trained["base_loss"])


def _policy_and_reference(name: str) -> tuple[str, str]:
    """Split POLICY@REFERENCE; where no reference is given, the policy's folder has to tell what it was trained from."""
    from selfsteer.models.resolve import recorded_base

    policy, at, reference = ("", "", "") if Path(name).expanduser().exists() else name.rpartition("@")
    if at and policy and reference:
        return policy, reference
    base = recorded_base(str(Path(name).expanduser())) if not at else None
    if base is None:
        what = f"nothing tells which model {(policy or name)!r} was trained from"
        do = f"name it: implicit:{policy or name}@REFERENCE"
        raise ConfigError(what, where=f"judge implicit:{name}", do=do)
    return name, base


def _endpoint(settings: JudgeSettings, name: str) -> Judge:
    from selfsteer.backends.endpoint import EndpointBackend
    from selfsteer.judges.logprob import EndpointLogprobJudge
    from selfsteer.judges.text import TextJudge

    try:
        server = EndpointSettings(model=name, base_url=settings.base_url, api_key_env=settings.api_key_env)
        backend = EndpointBackend(server, chat_template_kwargs=settings.chat_template_kwargs)
    except ConfigError as error:
        where = _place("api_key_env") if error.where == "api_key_env" else error.where
        raise ConfigError(error.what, where=where, do=error.do) from error
    template, source = _template(settings), f"{backend.base_url} {name}"
    if settings.chat_template_kwargs:
        source += f" {fingerprint(settings.chat_template_kwargs)}"
    if settings.mode == "text":
        tokens = _reply_tokens(settings, None)
        return TextJudge(lambda: backend, name=name, source=source, template=template, max_tokens=tokens, batch_size=64)
    return EndpointLogprobJudge(backend, name=name, source=source, template=template)


def _reply_tokens(settings: JudgeSettings, chat: Chat | None) -> int:
    """Return the tokens of a reply; ``chat`` is None for a model behind a server, of which nothing is known."""
    from selfsteer.judges.text import REPLY_TOKENS, THINKING_TOKENS

    room = THINKING_TOKENS if chat is None or chat.thinking is not None else 0
    return settings.max_tokens or REPLY_TOKENS + room


def _program(settings: JudgeSettings, name: str) -> Judge:
    from selfsteer.judges.program import ProgramJudge, find_program

    return ProgramJudge(find_program(name))


def _template(settings: JudgeSettings) -> JudgeTemplate:
    return JudgeTemplate(Path(settings.template) if settings.template else None)
