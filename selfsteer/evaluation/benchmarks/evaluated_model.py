"""The model that benchmarks ask: on this machine, in an engine, or behind a server; loaded with the first question."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from selfsteer.backends import BACKENDS, Backend
from selfsteer.backends.local_model import LocalModel
from selfsteer.backends.source import BackendSource, Weights, open_backend
from selfsteer.chat import Chat
from selfsteer.config import EndpointSettings, GenerationSettings, LocalModelSettings
from selfsteer.errors import InputError, SelfsteerWarning
from selfsteer.files import fingerprint
from selfsteer.judges.loading import local_model
from selfsteer.judges.logprob import label_scores
from selfsteer.models.resolve import base_of, is_adapter
from selfsteer.models.single_slot import OneHeld
from selfsteer.records import Message

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ ' ' if message['role'] == 'assistant' }}{{ message['content'] }}"
    "{{ '\n\n' if message['role'] != 'user' }}{% endfor %}"
)
"""The prompt of a base model: texts as they are, an answer after a blank, a blank line after it and after a system
message. Examples as turns become what lm-eval writes without a chat template."""


@dataclass(frozen=True)
class ModelOptions:
    """How the models of a command are opened.

    Attributes:
        backend: A name of :data:`selfsteer.backends.BACKENDS`.
        settings: Device, precision, revision and the like of a model on this machine.
        base_url, api_key_env: Of a server.
        chat_template: False gives the text alone to the model, see :data:`PLAIN_TEMPLATE`.
        batch_size: Questions asked together; None is the backend's own number.
        system_prompt: Is put before every question; a model with one has its own name in tables and files.
    """

    backend: str = "transformers"
    settings: LocalModelSettings = field(default_factory=LocalModelSettings)
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    chat_template: bool = True
    batch_size: int | None = None
    system_prompt: str = ""


class EvaluatedModel:
    """A model under test.

    Args:
        name: A catalogue name, a hub name, a folder (an adapter's too), or a run directory, which stands for its
            policy; behind a server, the model's name there.

    Attributes:
        name: Short, for tables and files.
        identity: What its answers depend on besides the questions: weights, chat template, precision, engine.
        about: What a result says of it.
        system_prompt: What every question is asked with; "" for none.

    Raises:
        ConfigError, ModelError, FetchError: A setting is wrong; the model can't be used as it is, or not be fetched.
        InputError: A run directory has no policy.
    """

    def __init__(self, name: str, options: ModelOptions) -> None:
        self._options, self._kind = options, BACKENDS[options.backend]
        self._held = OneHeld()
        self._local = None if self._kind.weightless else _local(name, options)
        self.batch_size = options.batch_size or self._kind.batch
        if self._local is None:
            self.name = _short(name)
            self._source = BackendSource(self._server(name), 0, options.settings.chat_template_kwargs)
            where = f" {self.backend.base_url}" if self._kind.remote else ""  # type: ignore[attr-defined]
            self.identity: Mapping[str, str] = {
                "model": name,
                "template": fingerprint(options.settings.chat_template_kwargs),
                "precision": "",
                "engine": options.backend + where,
            }
            self.about: dict[str, Any] = {"name": self.name, "fingerprint": name, "engine": self.identity["engine"]}
            self.about |= {"revision": None, "dtype": None, "template": None, "adapter": None}
        else:
            self.name = _short(name if "/" not in name or not Path(name).is_dir() else str(Path(name).absolute()))
            self.identity, self.about = self._known(self._local)
        self.system_prompt = options.system_prompt
        if self.system_prompt:
            self.name = f"{self.name}-system-{fingerprint(self.system_prompt)[:8]}"
            self.about |= {"name": self.name, "system_prompt": self.system_prompt}

    def _server(self, name: str) -> GenerationSettings:
        if not self._kind.remote:
            return GenerationSettings(backend=self._options.backend)
        server = EndpointSettings(model=name, base_url=self._options.base_url, api_key_env=self._options.api_key_env)
        return GenerationSettings(backend=self._options.backend, endpoint=server)

    def _known(self, local: LocalModel) -> tuple[dict[str, str], dict[str, Any]]:
        from selfsteer.models import model_fingerprint

        assert self.chat is not None
        if (engine := self._options.backend) == "vllm":
            from selfsteer.backends.vllm import installed_version

            engine_version = installed_version()
        else:
            engine_version = version(engine)
        identity = {
            "model": model_fingerprint(local.source, **local.options),
            "template": self.chat.fingerprint,
            "precision": local.dtype,
            "engine": f"{engine} {engine_version}",
        }
        base, _ = base_of(local.source, local.settings.revision)
        about = {"name": self.name, "fingerprint": identity["model"], "revision": local.settings.revision}
        about |= {"dtype": local.dtype, "template": identity["template"] if self._options.chat_template else "none"}
        about |= {"adapter": Path(base).name if is_adapter(local.source) else None, "engine": identity["engine"]}
        return identity, about

    @cached_property
    def chat(self) -> Chat | None:
        """Its chat template; None behind a server."""
        if self._local is None:
            return None
        return self._local.chat if self._options.chat_template else plain_chat(self._local)

    @property
    def backend(self) -> Backend:
        """Its backend, loaded when it is first asked for and kept until :meth:`free`."""
        found: Backend = self._held.hold("model", self._open)
        return found

    def _open(self) -> Backend:
        local, chat = self._local, self.chat
        if local is None or chat is None:
            return open_backend(self._options.backend, self._source)
        weights = Weights(local.source, chat, local.dtype, local.options, load=local.model)
        settings = GenerationSettings(backend=self._options.backend)
        return open_backend(self._options.backend, BackendSource(settings, 0, weights=weights))

    @property
    def has_scores(self) -> bool:
        """Whether it gives log-probs of fixed replies."""
        return self._kind.runs == "model"

    def label_scores(self, prompts: Sequence[Sequence[Message]], labels: Sequence[str]) -> list[list[float] | None]:
        """Return the log-probs (nats) of each label as the reply to each prompt; None where they don't fit."""
        assert self.chat is not None
        ids = [self.chat.encode_response(label, False) for label in labels]
        return label_scores(self.backend.model, self.chat, prompts, ids)  # type: ignore[attr-defined]

    def free(self) -> None:
        """Let go of weights, engine or connections."""
        self._held.free()


def plain_chat(local: LocalModel) -> Chat:
    """Return a chat that writes texts as they are, for a model without a chat template."""
    from selfsteer.models import end_token_ids, load_tokenizer

    tokenizer = load_tokenizer(local.source, **local.options)
    starts = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    tokenizer.chat_template = "{{ bos_token }}" * starts + PLAIN_TEMPLATE
    with warnings.catch_warnings():  # of a template that ends an answer with no token of its own, as this one
        warnings.simplefilter("ignore", SelfsteerWarning)
        return Chat(tokenizer, end_token_ids(local.source, **local.options))


def _local(name: str, options: ModelOptions) -> LocalModel:
    folder = Path(name)
    if (folder / "recipe.yaml").is_file():
        if not (folder / "policy").exists():
            what = "the run has no policy: it trains none, has not trained yet, or its guards rejected every round"
            raise InputError(what, where=str(folder), do="name a model's folder, or finish the run")
        name = str(folder / "policy")
    return local_model(options.settings, name, "--device")


def _short(name: str) -> str:
    """Return the last part of a folder's name, or a hub name with "--" for its slash."""
    return Path(name).name if Path(name).is_absolute() else name.replace("/", "--")
