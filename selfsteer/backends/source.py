"""Opening a backend by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from selfsteer.backends.base import Backend
from selfsteer.backends.registry import BACKENDS
from selfsteer.chat import Chat
from selfsteer.config import GenerationSettings


@dataclass(frozen=True)
class Weights:
    """The model that a backend samples from: a folder or a hub name, and what transformers loads it with."""

    path: str
    chat: Chat
    dtype: str
    options: Mapping[str, Any]
    load: Callable[[], Any]


@dataclass(frozen=True)
class BackendSource:
    """Everything that a backend can be opened from; each reads what it needs.

    Attributes:
        settings: The recipe's section `generation`, with the settings of single backends (``vllm``, ``endpoint``).
        chat_template_kwargs: Variables of the chat template, for a server that renders the prompts.
        weights: The model; None for backends without weights.
        usage: The file that keeps what servers have used up, None for none.
        other_prices: Prices of the other models in that file, by name: per million tokens of prompts and of answers.
        where: The recipe's section with the caps on the use of servers, for messages.
    """

    settings: GenerationSettings
    seed: int = 0
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights | None = None
    usage: Path | None = None
    other_prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    where: str = "generation.endpoint"


def open_backend(name: str, source: BackendSource) -> Backend:
    """Return the backend of that name; raises :class:`InputError` or :class:`FetchError` where it can't be used."""
    module, _, function = BACKENDS[name].opener.partition(":")
    backend: Backend = getattr(import_module(module), function)(source)
    return backend
