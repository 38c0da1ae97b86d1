"""The answers of models under test, kept by content: every benchmark asks through here, and nothing is asked twice."""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from selfsteer.backends import Backend, Completion, Failure, Outcome, Sampling, stop_place
from selfsteer.chat import Chat
from selfsteer.errors import PromptRefused, SelfsteerWarning
from selfsteer.evaluation.benchmarks.model_benchmark import ModelAnswer, Question
from selfsteer.files import fingerprint
from selfsteer.judges.answer_cache import BLOCKED, REFUSED
from selfsteer.judges.content_cache import ContentCache
from selfsteer.principles.steer import fold_system
from selfsteer.quality import answer_of
from selfsteer.records import Finish, Message

_VERSION = 1
"""Version of how answers are asked for and read."""
TOO_LONG = "does not fit into the model's context"
FAILED = "the request failed"
_SCORED = 8
"""Prompts whose replies are scored together."""


class AskedModel(Protocol):
    """What the store needs of a model: :class:`selfsteer.evaluation.benchmarks.evaluated_model.EvaluatedModel`."""

    name: str
    identity: Mapping[str, str]
    batch_size: int

    @property
    def chat(self) -> Chat | None:
        """Its chat template; None behind a server."""

    @property
    def backend(self) -> Backend:
        """Its backend."""

    def label_scores(self, prompts: Sequence[Sequence[Message]], labels: Sequence[str]) -> list[list[float] | None]:
        """Return the log-probs of each label as the reply to each prompt; None where they don't fit."""


@dataclass(frozen=True)
class StoredAnswer:
    """An answer as it is kept.

    Attributes:
        seconds: Its share of the time that its batch took.
        error: Why there is no answer; such an answer is asked for again by the next command.
    """

    text: str
    finish: Finish
    tokens: int | None = None
    prompt_tokens: int | None = None
    thinking: str = ""
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class StoredScores:
    """Log-probs of fixed replies in nats; empty where they do not fit into the context."""

    logprobs: tuple[float, ...]
    seconds: float = 0.0


class AnswerStore:
    """Asks a model, batch by batch, and keeps its answers in a file of its own.

    The file is named by what the answers depend on besides the question: weights, chat template, precision and engine.
    A batch is the unit of seeding and is written as one line, so a killed command repeats one batch, and the same
    command asks nothing twice.

    Args:
        folder: Where files of answers are; None keeps them in this object.
        seed: Of sampled answers; greedy ones don't depend on it.
        progress: Is called with (answered, all) questions of a call.
    """

    def __init__(
        self,
        model: AskedModel,
        folder: Path | None,
        *,
        seed: int = 0,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._model, self._seed, self._progress = model, seed, progress
        self.key = fingerprint([_VERSION, dict(model.identity)])
        stem = folder / self.key if folder else None
        self._answers = ContentCache(_file(stem, "answers"), _read_answer, lambda answer: not answer.error)
        self._scores = ContentCache(_file(stem, "scores"), _read_scores)

    def key_of(self, question: Question) -> str:
        """Return the name of a question's answer within this store."""
        seed = self._seed if question.sampling.temperature > 0 else None
        messages = [dict(message) for message in question.messages]
        return fingerprint([messages, asdict(question.sampling), seed, question.choice])

    def answer(self, questions: Sequence[Question]) -> list[ModelAnswer]:
        """Return one answer a question, in order; those that are not known are asked for.

        What concerns one question (too long, refused, blocked, a request that failed) is that answer's ``error``.
        Raises :class:`SelfsteerError` where nothing more can be asked: no valid key, no such model, no server.
        """
        keys = [self.key_of(question) for question in questions]
        asked = dict(zip(keys, questions, strict=True))
        done, failures = sum(key in self._answers for key in asked), list[Failure]()
        self._progress(done, len(asked))
        for batch in self._planned(asked) if done < len(asked) else ():
            # Planned with the known ones, so that a batch is the same one after an interruption.
            missing = [place for place, key in enumerate(batch.keys) if key not in self._answers]
            if missing:
                failures += self._ask(batch, missing)
                done += len(missing)
                self._progress(done, len(asked))
        if failures:
            what = f"{self._model.name} did not answer {len(failures)} of {len(asked)} questions, the first: "
            warnings.warn(what + failures[0].error.what, SelfsteerWarning, stacklevel=2)
        return [_shown(key, self._answers[key]) for key in keys]

    def stored(self, key: str) -> StoredAnswer:
        """Return what is kept of an answer; KeyError for one that was not asked for."""
        return self._answers[key]

    def label_logprobs(self, asked: Sequence[tuple[Sequence[Message], Sequence[str]]]) -> list[list[float] | str]:
        """Return the log-prob (nats) of each reply to each prompt, or why there are none."""
        keys = [fingerprint([[dict(message) for message in prompt], list(labels)]) for prompt, labels in asked]
        wanted = {key: one for key, one in zip(keys, asked, strict=True) if key not in self._scores}
        alike: dict[tuple[str, ...], list[str]] = {}
        for key, (_, labels) in wanted.items():
            alike.setdefault(tuple(labels), []).append(key)
        done = len(keys) - len(wanted)
        for labels, own in alike.items():
            own.sort(key=lambda key: (-sum(len(message["content"]) for message in wanted[key][0]), key))
            for start in range(0, len(own), _SCORED):
                batch, began = own[start : start + _SCORED], time.monotonic()
                prompts = [self._prompt(wanted[key][0]) for key in batch]
                found = self._model.label_scores(prompts, labels)
                each = (time.monotonic() - began) / len(batch)
                scores = {key: StoredScores(tuple(one or ()), each) for key, one in zip(batch, found, strict=True)}
                self._scores.add(scores, self._model.name)
                done += len(batch)
                self._progress(done, len(keys))
        return [list(self._scores[key].logprobs) or TOO_LONG for key in keys]

    def _prompt(self, messages: Sequence[Message]) -> list[Message]:
        chat, system = self._model.chat, messages[0]["role"] == "system"
        return fold_system(messages) if chat and system and chat.system_role == "folded" else list(messages)

    def _planned(self, asked: Mapping[str, Question]) -> Iterator[_Batch]:
        """Yield the batches; questions that can't be asked are answered with an error.

        A batch has one way of sampling and prompts of about one length. Where many questions follow the same messages,
        such as worked examples, they stay together, so that these are computed once.
        """
        backend, size = self._model.backend, self._model.batch_size
        together = Counter(fingerprint(question.messages[:-1]) for question in asked.values())
        groups: dict[tuple[Sampling, str, int], _Group] = {}
        for key, question in asked.items():
            prompt = self._prompt(question.messages)
            ids = self._ids(prompt)
            length = backend.length(prompt) if ids == [] else len(ids or ())
            sampling, room = question.sampling, math.inf if backend.context is None else backend.context - length
            if why := REFUSED if ids is None else TOO_LONG if room < 1 else "":
                self._answers.add({key: StoredAnswer("", "stop", error=why)}, self._model.name)
                continue
            own = size
            if room < sampling.max_new_tokens:  # by itself, so that no other one gets less room
                sampling, own = replace(sampling, max_new_tokens=int(room)), 1
            before = fingerprint(question.messages[:-1])
            name = before if together[before] >= size > 1 else ""
            groups.setdefault((sampling, name, own), _Group()).add(length, key, prompt, ids if name and ids else [])
        for (sampling, _, own), group in groups.items():
            # The largest first, as one that does not fit in memory fails now.
            items = sorted(group.items, key=lambda item: (-item[0], item[1]))
            for start in range(0, len(items), own):
                batch = items[start : start + own]
                yield _Batch([key for _, key, _ in batch], [prompt for _, _, prompt in batch], sampling, group.prefix)

    def _ids(self, prompt: Sequence[Message]) -> list[int] | None:
        """Return a prompt's tokens, none where the backend has no tokens; None where the template refuses it."""
        try:
            return self._model.chat.encode(prompt) if self._model.chat else []
        except PromptRefused:
            return None

    def _ask(self, batch: _Batch, missing: Sequence[int]) -> list[Failure]:
        """Ask the missing questions of a batch and keep the answers; return the requests that failed."""
        chat, sampling = self._model.chat, batch.sampling
        # A thought may hold a stop string, which must not end the answer.
        asked = replace(sampling, stop=()) if chat and chat.thinking else sampling
        seed = int(fingerprint([self._seed, batch.keys]), 16) % 2**31
        prompts, began = [batch.prompts[place] for place in missing], time.monotonic()
        outcomes = self._model.backend.generate(prompts, asked, seed=seed, shared_prefix=batch.prefix)
        each = (time.monotonic() - began) / len(missing)
        found = {
            batch.keys[place]: _kept(one, chat, sampling, each) for place, one in zip(missing, outcomes, strict=True)
        }
        self._answers.add(found, self._model.name)  # before anything is raised: answers beside a failure are paid for
        failures = [one for one in outcomes if isinstance(one, Failure)]
        if ended := next((one for one in failures if one.ends), None):
            raise ended.error
        return failures


class _Group:
    """Questions that may share a batch, and the tokens that all of them begin with."""

    def __init__(self) -> None:
        self.items: list[tuple[int, str, list[Message]]] = []
        self._first: list[int] = []
        self._last: list[int] = []
        self._shortest = 0

    def add(self, length: int, key: str, prompt: list[Message], ids: list[int]) -> None:
        """Add a question; those without ``ids`` share no tokens."""
        self._first, self._last = (min(self._first, ids), max(self._last, ids)) if self.items else (ids, ids)
        self._shortest = min(self._shortest, len(ids)) if self.items else len(ids)
        self.items.append((length, key, prompt))

    @property
    def prefix(self) -> list[int]:
        """The tokens that all begin with, of which the first and the last in order are enough; none ends with it."""
        pairs = takewhile(lambda pair: pair[0] == pair[1], zip(self._first, self._last, strict=False))
        return [ours for ours, _ in pairs][: max(self._shortest - 1, 0)]


@dataclass(frozen=True)
class _Batch:
    keys: list[str]
    prompts: list[list[Message]]
    sampling: Sampling
    prefix: list[int]


def _file(stem: Path | None, kind: str) -> Path | None:
    return stem and stem.with_name(f"{stem.name}.{kind}.jsonl")


def _kept(outcome: Outcome, chat: Chat | None, sampling: Sampling, seconds: float) -> StoredAnswer:
    """Return what is kept of an outcome: the answer without its thinking part, cut at the first stop string."""
    if isinstance(outcome, Failure):
        blocked = {"": FAILED, "content": BLOCKED, "length": TOO_LONG}
        return StoredAnswer("", "stop", seconds=seconds, error=blocked[outcome.blocked])
    text, thinking, finish = outcome.text, outcome.thinking, outcome.finish
    answer: Completion = answer_of(outcome, chat)
    if answer.text != text.strip():
        thinking = thinking or text.strip().removesuffix(answer.text).strip()
        text = answer.text
    if (place := stop_place(text, sampling.stop)) is not None:
        text, finish = text[:place], "stop"
    ids, prompt = outcome.token_ids, outcome.prompt_token_ids
    counts = (None if ids is None else len(ids), None if prompt is None else len(prompt))
    return StoredAnswer(text, finish, *counts, thinking, seconds)


def _shown(key: str, stored: StoredAnswer) -> ModelAnswer:
    return ModelAnswer(key, stored.text, stored.finish, stored.tokens, stored.thinking, stored.error)


def _read_answer(values: Any) -> StoredAnswer | None:
    """Return the answer that was written, None for what is none."""
    try:
        answer = StoredAnswer(**values)
    except TypeError:
        return None
    texts = all(isinstance(one, str) for one in (answer.text, answer.thinking, answer.error))
    counts = all(one is None or type(one) is int for one in (answer.tokens, answer.prompt_tokens))
    sound = texts and counts and answer.finish in ("stop", "length") and isinstance(answer.seconds, float | int)
    return answer if sound else None


def _read_scores(values: Any) -> StoredScores | None:
    try:
        scores = StoredScores(tuple(values["logprobs"]), values["seconds"])
    except (TypeError, LookupError):
        return None
    return scores if all(type(one) in (float, int) for one in (*scores.logprobs, scores.seconds)) else None
