"""From a judge's name to the judge.

Weights are loaded when the first answer is asked for: where all answers are kept, nothing is loaded. Only a reward
model that was never loaded here has to be, to know under which key its answers are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError
from selfsteer.evaluation.judges.base import Judge
from selfsteer.evaluation.judges.template import JudgeTemplate

if TYPE_CHECKING:
    from selfsteer.backends import Backend
    from selfsteer.chat import Chat

KINDS = ("reward", "endpoint", "program")
_HARDWARE = {"device", "precision", "revision", "trust_remote_code"}
_SETTINGS = {
    "": {"mode", "template", *_HARDWARE},
    "reward": _HARDWARE,
    "endpoint": {"mode", "template", "base_url", "api_key_env"},
    "program": set[str](),
}
"""What each kind of judge goes by, besides its name; "" is a language model on this machine."""
_DEVICES = "take auto, cpu, or cuda, cuda:1, mps where this machine has it"


def open_judge(settings: JudgeSettings) -> Judge:
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
    kinds = {"": _language_model, "reward": _reward_model, "endpoint": _endpoint, "program": _program}
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
    from selfsteer.models.resolving import is_adapter

    path = Path(name).expanduser()
    return name in CATALOGUE or (path.exists() and not is_adapter(str(path)))


def _place(key: str) -> str:
    """Return what a setting is called in a recipe and on the command line."""
    return f"judge.{key} (--{key.replace('_', '-')})"


def _usable(device: str) -> str:
    """Return a device by its name, once something was computed on it; "auto" is the GPU where there is one."""
    import torch

    from selfsteer.models import pick_device
    from selfsteer.models.loading import check_device

    if device == "auto":
        return pick_device()
    try:
        check_device(device)
        torch.zeros(1, device=device).item()
    except ConfigError as error:
        raise ConfigError(error.what, where=_place("device"), do=_DEVICES) from error
    except (RuntimeError, AssertionError) as error:  # what torch raises differs from one kind of device to another
        what = f"torch can't compute on {device!r} here: {str(error).partition(chr(10))[0]}"
        raise ConfigError(what, where=_place("device"), do=_DEVICES) from error
    return device


def _forms() -> str:
    return ", ".join(f"{kind}:{kind.upper() if kind == 'program' else 'MODEL'}" for kind in KINDS)


@dataclass(frozen=True)
class _Local:
    """A model on this machine, loaded when it is needed."""

    settings: JudgeSettings
    source: str

    @property
    def options(self) -> dict[str, Any]:
        return {"trust_remote_code": self.settings.trust_remote_code, "revision": self.settings.revision}

    @cached_property
    def device(self) -> str:
        return _usable(self.settings.device)

    @cached_property
    def dtype(self) -> str:
        from selfsteer.models import pick_dtype

        return pick_dtype(self.settings.precision, self.device)

    @cached_property
    def chat(self) -> Chat:
        from selfsteer.chat import Chat
        from selfsteer.models import end_token_ids, load_tokenizer

        return Chat(load_tokenizer(self.source, **self.options), end_token_ids(self.source, **self.options))

    @cached_property
    def weights(self) -> str:
        from selfsteer.models import model_fingerprint

        return f"{model_fingerprint(self.source, self.settings.revision)} {self.dtype}"

    def model(self) -> Any:
        from selfsteer.models import load_model

        return load_model(self.source, dtype=self.dtype, device=self.device, **self.options)

    def backend(self) -> Backend:
        from selfsteer.backends.transformers import TransformersBackend

        return TransformersBackend(self.model(), self.chat)


def _language_model(settings: JudgeSettings, name: str) -> Judge:
    from selfsteer.evaluation.judges.labels import LogprobJudge
    from selfsteer.evaluation.judges.text import TextJudge
    from selfsteer.models import quiet, resolve

    quiet()
    local, template = _Local(settings, resolve(name)), _template(settings)
    shown = Path(name).name or name
    if settings.mode == "text":
        source = f"{local.weights} {local.chat.fingerprint}"
        return TextJudge(local.backend, name=shown, source=source, template=template)
    return LogprobJudge(local.model, local.chat, name=shown, weights=local.weights, template=template)


def _reward_model(settings: JudgeSettings, name: str) -> Judge:
    from selfsteer.evaluation.judges.reward import RewardJudge, load_reward_model, reward_config, weights_file
    from selfsteer.models import load_tokenizer, quiet, resolve

    quiet()
    local = _Local(settings, resolve(name))
    config = reward_config(local.source, **local.options)
    # Scores are compared with each other, so they are computed in float32 unless told otherwise.
    dtype = "float32" if settings.precision == "auto" else settings.precision
    load = partial(load_reward_model, local.source, device=local.device, dtype=dtype, **local.options)
    return RewardJudge(  # type: ignore[return-value]  # its key is computed when asked for, the protocol's could be set
        load,
        load_tokenizer(local.source, **local.options),
        config=config,
        name=Path(name).name or name,
        kept=weights_file(local.source, dtype=dtype, **local.options),
    )


def _endpoint(settings: JudgeSettings, name: str) -> Judge:
    from selfsteer.backends.endpoint import EndpointBackend
    from selfsteer.evaluation.judges.labels import EndpointLogprobJudge
    from selfsteer.evaluation.judges.text import TextJudge

    try:
        backend = EndpointBackend(name, base_url=settings.base_url, key_variable=settings.api_key_env)
    except ConfigError as error:
        where = _place("api_key_env") if error.where == "key_variable" else error.where
        raise ConfigError(error.what, where=where, do=error.do) from error
    template, source = _template(settings), f"{backend.base_url} {name}"
    if settings.mode == "text":
        return TextJudge(lambda: backend, name=name, source=source, template=template, batch_size=64)
    return EndpointLogprobJudge(backend, name=name, source=source, template=template)


def _program(settings: JudgeSettings, name: str) -> Judge:
    from selfsteer.evaluation.judges.program import ProgramJudge, find_program

    return ProgramJudge(find_program(name))


def _template(settings: JudgeSettings) -> JudgeTemplate:
    return JudgeTemplate(Path(settings.template) if settings.template else None)
