"""A model on this machine that is not the policy (a judge, a principle model): loaded when it is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from selfsteer.errors import ConfigError

if TYPE_CHECKING:
    from selfsteer.backends import Backend
    from selfsteer.chat import Chat
    from selfsteer.config import LocalModelSettings

_DEVICES = "use auto, cpu, or cuda, cuda:1, mps where this machine has it"


@dataclass(frozen=True)
class LocalModel:
    """A model that is loaded when it is needed; ``key`` names the setting of the device, for messages."""

    settings: LocalModelSettings
    source: str
    key: str

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of every function that loads a part of it."""
        return {"trust_remote_code": self.settings.trust_remote_code, "revision": self.settings.revision}

    @cached_property
    def device(self) -> str:
        """The device, once something was computed on it; :class:`ConfigError` where that fails."""
        return usable_device(self.settings.device, self.key)

    @cached_property
    def dtype(self) -> str:
        """The precision in words."""
        from selfsteer.models import pick_dtype

        return pick_dtype(self.settings.precision, self.device)

    @cached_property
    def chat(self) -> Chat:
        """Its chat template."""
        from selfsteer.chat import Chat

        return Chat.load(self.source, template_kwargs=self.settings.chat_template_kwargs, **self.options)

    @cached_property
    def fingerprint(self) -> str:
        """Names its weights with their precision, its tokenizer, chat template with its variables, and end tokens."""
        from selfsteer.models import model_fingerprint

        kwargs = self.settings.chat_template_kwargs
        variables = [json.dumps(dict(kwargs), sort_keys=True)] if kwargs else []
        return " ".join([model_fingerprint(self.source, **self.options, chat=True), self.dtype, *variables])

    def model(self) -> Any:
        """Load it."""
        from selfsteer.models import load_model

        return load_model(self.source, dtype=self.dtype, device=self.device, **self.options)

    def backend(self) -> Backend:
        """Load it, as a backend that samples from it."""
        from selfsteer.backends.transformers import TransformersBackend

        return TransformersBackend(self.model(), self.chat)


def usable_device(device: str, key: str) -> str:
    """Return a device by its name, once something was computed on it; "auto" is the GPU where there is one."""
    import torch

    from selfsteer.models import pick_device
    from selfsteer.models.gpus import assumed_gpus
    from selfsteer.models.load import check_device

    if device == "auto":
        return pick_device()
    if assumed_gpus() and device.partition(":")[0] == "cuda":
        return device
    try:
        check_device(device)
        torch.zeros(1, device=device).item()  # a device may exist and yet fail at the first kernel
    except ConfigError as error:
        raise ConfigError(error.what, where=key, do=_DEVICES) from error
    except (RuntimeError, AssertionError) as error:  # torch raises one or the other, by the kind of device
        what = f"torch can't compute on {device!r} here: {str(error).partition(chr(10))[0]}"
        raise ConfigError(what, where=key, do=_DEVICES) from error
    return device
