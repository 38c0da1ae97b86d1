"""The language model that judges benchmarks: what `--judge` names as a chat model or an endpoint, answers cached."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from selfsteer.backends import Backend, Completion, Failure, Outcome, Sampling, may_think
from selfsteer.chat import SystemRole
from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError, PromptRefused, SelfsteerWarning
from selfsteer.evaluation.benchmarks.model_benchmark import ModelAnswer, TextJudgeModel
from selfsteer.files import fingerprint
from selfsteer.judges import Judge, make_judge
from selfsteer.judges.answer_cache import BLOCKED, REFUSED, TOO_LONG
from selfsteer.judges.content_cache import ContentCache
from selfsteer.judges.language_model import endpoint_of
from selfsteer.judges.loading import local_model
from selfsteer.judges.logprob import label_scores
from selfsteer.judges.registry import checked_kind
from selfsteer.judges.text import REPLY_TOKENS, THINKING_TOKENS
from selfsteer.principles.steer import fold_system
from selfsteer.quality import answer_of
from selfsteer.records import Message

if TYPE_CHECKING:
    from selfsteer.backends.endpoint import EndpointBackend
    from selfsteer.backends.transformers import TransformersBackend

_VERSION = 1
"""Version of how labels and replies are asked for and read."""
FAILED = "the request failed"
_NOT_FINITE = "the judge's log-probs are not finite"
_ASKED_AGAIN = (FAILED, TOO_LONG.why)
"""Errors that may be others next time: a server answers again, a judge has a longer context."""


@dataclass(frozen=True)
class LabelAnswer:
    """The probabilities of labels as a reply, in their order; None for one that is not listed.

    ``error`` is why there are none, "" where there are.
    """

    probabilities: tuple[float | None, ...] = ()
    error: str = ""


Kept = TypeVar("Kept", ModelAnswer, LabelAnswer)


class _Model(Protocol):
    """A chat model before it is asked: ``source`` identifies it with all that its answers depend on."""

    name: str
    source: str
    batch_size: int

    @property
    def backend(self) -> Backend: ...

    @property
    def system_role(self) -> SystemRole: ...

    def labels(
        self, prompts: Sequence[Sequence[Message]], labels: Sequence[str]
    ) -> list[Sequence[float | None] | str | Failure]:
        """Return the log-probs (nats) of the labels as a reply to each prompt, or why there are none."""
        ...


class JudgeModel:
    """A chat model that replies to prompts and gives probabilities of labels; each batch is cached at once.

    Where the chat template takes no system message, it goes in front of the user's. What concerns one prompt (too long,
    refused, blocked, a request that failed) is that answer's ``error``, one of a few texts that can be counted. Failed
    and too long ones are asked again by the next run, the others are kept.

    Args:
        settings: ``mode="text"`` reads labels off greedy replies in place of log-probs: the label that a reply consists
            of has probability 1. ``max_tokens`` replaces the token limit of replies, thoughts included; None allows
            thoughts :data:`THINKING_TOKENS` more than the limit asked for, where the model may think.
        folder: Where answers are kept, in one file a judge; None keeps them in this object.
        progress: Is called with (answered, all) prompts of a call.
    """

    def __init__(
        self,
        model: _Model,
        settings: JudgeSettings,
        folder: Path | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._model, self._mode, self._max_tokens, self._progress = model, settings.mode, settings.max_tokens, progress
        self.name = model.name if settings.mode == "logprobs" else f"{model.name} (text)"
        self.key = fingerprint(["judge model", _VERSION, model.source, settings.mode, settings.max_tokens])
        path = folder / f"{self.key}.jsonl" if folder else None
        self._cache: ContentCache[Any] = ContentCache(path, _read, lambda answer: answer.error not in _ASKED_AGAIN)

    def replies(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[ModelAnswer]:
        """Return one reply a prompt, in order, without its thoughts. Equal prompts are asked once.

        Raises :class:`SelfsteerError` where nothing more can be asked: no valid key, no such model, no server.
        """
        keys = [fingerprint([self.key, "reply", prompt, asdict(sampling)]) for prompt in prompts]

        def ask(batch: Sequence[str], asked: Sequence[Sequence[Message]]) -> list[ModelAnswer | Failure]:
            # By content: a batch draws the same whenever it is asked.
            return self._written(asked, sampling, seed=int(fingerprint(batch), 16) % 2**31)

        found = self._answers(dict(zip(keys, prompts, strict=True)), ask, lambda why: ModelAnswer("", "", error=why))
        return [replace(found[key], key=key) for key in keys]

    def label_probabilities(
        self, prompts: Sequence[Sequence[Message]], labels: Sequence[str]
    ) -> list[tuple[float | None, ...] | str]:
        """Return the probability of each label as the beginning of the reply, or why there is none.

        A label of several tokens has the product of their probabilities under a model on this machine. A server names
        the likeliest first tokens alone: a label that is not one of them, with or without a leading blank, is None, and
        so is one of several tokens. In mode text a label is None where the reply is another text.
        """
        keys = [fingerprint([self.key, "labels", prompt, list(labels)]) for prompt in prompts]

        def ask(_: Sequence[str], asked: Sequence[Sequence[Message]]) -> list[LabelAnswer | Failure]:
            if self._mode == "text":
                written = self._written(asked, Sampling(REPLY_TOKENS, temperature=0.0, top_p=1.0), seed=0)
                return [one if isinstance(one, Failure) else _written_label(one, labels) for one in written]
            return list(map(_probabilities, self._model.labels(asked, labels)))

        found = self._answers(dict(zip(keys, prompts, strict=True)), ask, lambda why: LabelAnswer(error=why))
        return [found[key].error or found[key].probabilities for key in keys]

    def _answers(
        self,
        asked: Mapping[str, Sequence[Message]],
        ask: Callable[[Sequence[str], Sequence[Sequence[Message]]], Sequence[Kept | Failure]],
        failed: Callable[[str], Kept],
    ) -> dict[str, Kept]:
        """Return the answer of every key; those that are not cached are asked for, batch by batch."""
        found: dict[str, Kept] = {key: self._cache[key] for key in asked if key in self._cache}
        # By size, so that a batch has little padding; the largest first, as one that does not fit in memory fails now.
        wanted = sorted(asked.keys() - found.keys(), key=lambda key: (_size(asked[key]), key), reverse=True)
        self._progress(len(found), len(asked))
        messages: list[str] = []
        for start in range(0, len(wanted), self._model.batch_size):
            batch = wanted[start : start + self._model.batch_size]
            outcomes = ask(batch, [fold_system(asked[key], self._model.system_role) for key in batch])
            answers = {
                key: failed(_why(one)) if isinstance(one, Failure) else one
                for key, one in zip(batch, outcomes, strict=True)
            }
            self._cache.add(answers, self.name)  # before anything is raised: answers beside a failure are paid for
            failures = [one for one in outcomes if isinstance(one, Failure)]
            if ended := next((one for one in failures if one.ends), None):
                raise ended.error
            messages += [one.error.what for one in failures]
            found |= answers
            self._progress(len(found), len(asked))
        if messages:
            what = f"{self.name} did not answer {len(messages)} of {len(asked)} prompts, the first: {messages[0]}"
            warnings.warn(what, SelfsteerWarning, stacklevel=3)
        return found

    def _written(
        self, prompts: Sequence[Sequence[Message]], sampling: Sampling, *, seed: int
    ) -> list[ModelAnswer | Failure]:
        """Return the replies of a batch; what does not fit the context is not asked."""
        backend = self._model.backend
        thoughts = THINKING_TOKENS if may_think(backend.name, backend.chat) else 0
        tokens = self._max_tokens or sampling.max_new_tokens + thoughts
        room = math.inf if backend.context is None else backend.context - tokens
        reasons = [_unfit(backend, prompt, room) for prompt in prompts]
        fitting = [prompt for prompt, why in zip(prompts, reasons, strict=True) if not why]
        outcomes = iter(backend.generate(fitting, replace(sampling, max_new_tokens=tokens), seed=seed))
        return [ModelAnswer("", "", error=why) if why else self._reply(next(outcomes)) for why in reasons]

    def _reply(self, outcome: Outcome) -> ModelAnswer | Failure:
        if isinstance(outcome, Failure):
            return outcome
        answer: Completion = answer_of(outcome, self._model.backend.chat)
        tokens = None if outcome.token_ids is None else len(outcome.token_ids)
        return ModelAnswer("", answer.text, answer.finish, tokens, answer.thinking)


class _LocalModel:
    """A chat model on this machine; its weights are loaded with the first question."""

    batch_size = 8

    def __init__(self, settings: JudgeSettings, name: str) -> None:
        self._local = local_model(settings, name)
        self.name, self.source = Path(name).name or name, self._local.fingerprint

    @property
    def system_role(self) -> SystemRole:
        return self._local.chat.system_role

    @cached_property
    def backend(self) -> TransformersBackend:
        return self._local.backend()  # type: ignore[return-value]

    def labels(
        self, prompts: Sequence[Sequence[Message]], labels: Sequence[str]
    ) -> list[Sequence[float | None] | str | Failure]:
        chat, ids = self.backend.chat, [self.backend.chat.encode_response(label, False) for label in labels]
        refused = [_unfit(self.backend, prompt, math.inf) for prompt in prompts]
        fitting = [prompt for prompt, why in zip(prompts, refused, strict=True) if not why]
        scores = iter(label_scores(self.backend.model, chat, fitting, ids))
        return [why or next(scores) or TOO_LONG.why for why in refused]


class _EndpointModel:
    """A chat model behind a server."""

    batch_size = 64
    system_role: SystemRole = "native"

    def __init__(self, settings: JudgeSettings, name: str) -> None:
        self.backend: EndpointBackend
        self.backend, self.source = endpoint_of(settings, name)
        self.name = name

    def labels(
        self, prompts: Sequence[Sequence[Message]], labels: Sequence[str]
    ) -> list[Sequence[float | None] | str | Failure]:
        return list(self.backend.label_logprobs(prompts, labels, keep_failures=True))


_MODELS: dict[str, Callable[[JudgeSettings, str], _Model]] = {"": _LocalModel, "endpoint": _EndpointModel}
"""The kinds of judges (:data:`selfsteer.judges.registry.JUDGES`) that are language models."""


def open_benchmark_judge(
    settings: JudgeSettings,
    folder: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[TextJudgeModel | None, Judge | None]:
    """Return the judge of benchmarks that settings name: a language model, or else a judge that only compares pairs.

    One of the two is None, or both where no judge is named. ``folder`` and ``progress`` as of :class:`JudgeModel`.

    Raises:
        ConfigError: An unknown kind, a setting without effect; ``template``, as benchmarks bring their own.
        ModelError, FetchError: The model can't be used as it is, or not be fetched.
    """
    if not settings.name:
        return None, None
    kind, rest = checked_kind(settings)
    if kind not in _MODELS:
        return None, make_judge(settings)
    if settings.template is not None:
        what = "benchmarks have their own prompts for judges, so a template has no effect"
        raise ConfigError(what, where="judge.template (--template)", do="leave it out")
    return JudgeModel(_MODELS[kind](settings, rest), settings, folder, progress), None


def _why(failure: Failure) -> str:
    """Return what a failure counts as."""
    if failure.blocked == "length":
        return TOO_LONG.why
    return BLOCKED if failure.blocked else FAILED


def _unfit(backend: Backend, prompt: Sequence[Message], room: float) -> str:
    """Return why a prompt can't be asked, "" where it can."""
    try:
        return "" if backend.length(prompt) <= room else TOO_LONG.why
    except PromptRefused:
        return REFUSED


def _probabilities(found: Sequence[float | None] | str | Failure) -> LabelAnswer | Failure:
    """Return what log-probs say."""
    if isinstance(found, Failure):
        return found
    if isinstance(found, str):
        return LabelAnswer(error=found)
    if not all(one is None or one < math.inf for one in found):  # NaN is not
        return LabelAnswer(error=_NOT_FINITE)
    # A sum of a label's forms may exceed 1 by rounding.
    return LabelAnswer(tuple(None if one is None else min(math.exp(one), 1.0) for one in found))


def _written_label(reply: ModelAnswer, labels: Sequence[str]) -> LabelAnswer:
    if reply.error:
        return LabelAnswer(error=reply.error)
    text = reply.text.strip().strip("\"'`*.:()[]")
    return LabelAnswer(tuple(1.0 if text == label else None for label in labels))


def _size(prompt: Sequence[Message]) -> int:
    return sum(len(message["content"]) for message in prompt)


def _read(values: Any) -> ModelAnswer | LabelAnswer | None:
    """Return the answer that was written, None for what is none."""
    if not isinstance(values, dict) or not isinstance(values.get("error"), str):
        return None
    try:
        if "probabilities" not in values:
            answer = ModelAnswer(**values)
            tokens = answer.tokens is None or type(answer.tokens) is int
            texts = all(isinstance(one, str) for one in (answer.key, answer.text, answer.thinking))
            return answer if tokens and texts and answer.finish in ("stop", "length") else None
        shares = tuple(values["probabilities"])
        sound = all(one is None or (type(one) in (int, float) and 0 <= one <= 1) for one in shares)
        return LabelAnswer(shares, values["error"]) if sound and len(values) == 2 else None
    except TypeError:
        return None
