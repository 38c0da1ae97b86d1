"""Opening language models as judges: on this machine or behind a server, by log-probs or by text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from selfsteer.config import EndpointSettings, JudgeSettings
from selfsteer.errors import ConfigError
from selfsteer.files import fingerprint
from selfsteer.judges.base import Judge
from selfsteer.judges.loading import local_model
from selfsteer.judges.logprob import EndpointLogprobJudge, LogprobJudge
from selfsteer.judges.template import JudgeTemplate
from selfsteer.judges.text import REPLY_TOKENS, THINKING_TOKENS, TextJudge

if TYPE_CHECKING:
    from selfsteer.backends.endpoint import EndpointBackend
    from selfsteer.chat import Chat


def open_local(settings: JudgeSettings, name: str) -> Judge:
    """Return a chat model on this machine as a judge."""
    local, template = local_model(settings, name), _template(settings)
    shown = Path(name).name or name
    if settings.mode == "text":
        tokens = _reply_tokens(settings, local.chat)
        return TextJudge(local.backend, name=shown, source=local.fingerprint, template=template, max_tokens=tokens)
    return LogprobJudge(local.model, local.chat, name=shown, weights=local.fingerprint, template=template)


def open_endpoint(settings: JudgeSettings, name: str) -> Judge:
    """Return a model behind a server as a judge; nothing is asked yet."""
    backend, source = endpoint_of(settings, name)
    template = _template(settings)
    if settings.mode == "text":
        tokens = _reply_tokens(settings, None)
        return TextJudge(lambda: backend, name=name, source=source, template=template, max_tokens=tokens, batch_size=64)
    return EndpointLogprobJudge(backend, name=name, source=source, template=template)


def endpoint_of(settings: JudgeSettings, name: str) -> tuple[EndpointBackend, str]:
    """Return the backend of a model behind a server, and what identifies the two."""
    from selfsteer.backends.endpoint import EndpointBackend

    try:
        server = EndpointSettings(model=name, base_url=settings.base_url, api_key_env=settings.api_key_env)
        backend = EndpointBackend(server, chat_template_kwargs=settings.chat_template_kwargs)
    except ConfigError as error:
        where = "judge.api_key_env (--api-key-env)" if error.where == "api_key_env" else error.where
        raise ConfigError(error.what, where=where, do=error.do) from error
    source = f"{backend.base_url} {name}"
    if settings.chat_template_kwargs:
        source += f" {fingerprint(settings.chat_template_kwargs)}"
    return backend, source


def _template(settings: JudgeSettings) -> JudgeTemplate:
    return JudgeTemplate(Path(settings.template) if settings.template else None)


def _reply_tokens(settings: JudgeSettings, chat: Chat | None) -> int:
    """Return the tokens of a reply; ``chat`` is None for a model behind a server, which may think unseen."""
    thoughts = THINKING_TOKENS if chat is None or chat.thinking is not None else 0
    return settings.max_tokens or REPLY_TOKENS + thoughts
