"""Implicit rewards as judges: a policy's log-probs against those of its reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfsteer.config import JudgeSettings, per_token
from selfsteer.errors import ConfigError, ModelError, PromptRefused
from selfsteer.files import fingerprint, home_expanded, read_json
from selfsteer.judges.answer_cache import REFUSED, TOO_LONG, Answer, scored_answer
from selfsteer.judges.base import PresentedPair
from selfsteer.judges.loading import scoring_model
from selfsteer.models.rope import context_of
from selfsteer.models.single_slot import OneHeld
from selfsteer.views import SCALES

if TYPE_CHECKING:
    from selfsteer.chat import Chat

TokenIds = tuple[int, ...]
Row = tuple[TokenIds, tuple[TokenIds, TokenIds]]
"""The ids of a prompt and of both responses."""
Likelihoods = dict[tuple[TokenIds, TokenIds], float]
"""Log-probs in nats by (prompt, response); cells that don't fit the model's context are missing."""

_VERSION = 2
"""Version of the tokenisation of pairs."""
_EMPTY = Answer(0, valid=False, why="a response without tokens, which has no log-prob")


def open_judge(settings: JudgeSettings, name: str) -> ImplicitJudge:
    """Return the implicit reward of POLICY@REFERENCE, or of a policy whose folder names its reference."""
    policy, reference = _policy_and_reference(name)

    means = settings.per_token
    if means is None:  # as the loss that trained the policy, which its folder names; else sums
        trained = read_json(home_expanded(policy) / "selfsteer.json") or {}
        means = "base_loss" in trained and per_token(trained.get("objective", ""), trained["base_loss"])
    locals_ = [(Path(name).name or name, scoring_model(settings, name)) for name in (policy, reference)]
    sides = [Side(local.model, local.chat, shown, local.fingerprint) for shown, local in locals_]
    return ImplicitJudge(*sides, per_token=means)


def _policy_and_reference(name: str) -> tuple[str, str]:
    """Split POLICY@REFERENCE; without a reference, the policy's folder has to name what it was trained from."""
    from selfsteer.models.resolve import recorded_base

    policy, at, reference = ("", "", "") if home_expanded(name).exists() else name.rpartition("@")
    if at and policy and reference:
        return policy, reference
    base = recorded_base(str(home_expanded(name))) if not at else None
    if base is None:
        what = f"nothing records which model {(policy or name)!r} was trained from"
        do = f"name it: implicit:{policy or name}@REFERENCE"
        raise ConfigError(what, where=f"judge implicit:{name}", do=do)
    return name, base


@dataclass(frozen=True)
class Side:
    """The policy, or its reference.

    Attributes:
        load: Returns the causal language model in eval mode; called when it is needed, more than once.
        weights: Identifies the weights, their precision, the tokenizer and the end tokens.
    """

    load: Callable[[], Any]
    chat: Chat
    name: str
    weights: str


class ImplicitJudge:
    """A policy's implicit reward, log policy(y|x) - log reference(y|x): that of DPO (arXiv 2305.18290) without beta.

    The log-odds are the difference of the two responses' rewards: of summed nats, as DPO compares them, or of means per
    token, as IPO does here. It ignores a pair's criterion. One of the two models is in memory at a time.

    Args:
        per_token: Compare means per token, the end token counted.
        batch_size: Presentations that each model scores before the other is loaded; it does not affect memory.

    Raises:
        ConfigError: Both have the same weights.
        ModelError: Their tokenizers or templates differ, so they would not score the same tokens.
    """

    def __init__(self, policy: Side, reference: Side, *, per_token: bool, batch_size: int = 256) -> None:
        if policy.weights == reference.weights:
            what = f"the policy {policy.name} and its reference {reference.name} have the same weights"
            raise ConfigError(what, where="judge", do="name the model that the policy was trained from after @")
        if policy.chat.fingerprint != reference.chat.fingerprint:
            what = f"{policy.name} and {reference.name} have different tokenizers or chat templates"
            raise ModelError(
                what, where=f"judge implicit:{policy.name}", do="name the model that the policy was trained from"
            )
        self._sides, self._held = (policy, reference), OneHeld()
        self._chat, self._per_token, self.batch_size = policy.chat, per_token, batch_size
        self.name = f"{policy.name} against {reference.name} (implicit, {SCALES[per_token]})"
        self.key = fingerprint(
            ["implicit", _VERSION, policy.weights, reference.weights, policy.chat.fingerprint, per_token]
        )

    def answer(self, shown: Sequence[PresentedPair]) -> list[Answer]:
        """Return one answer a presentation; both orders of a pair are scored once. WorkFailed for NaN or infinity."""
        rows = list(map(self._encoded, shown))
        scorable = [row for row in rows if not isinstance(row, Answer)]
        # The model in memory first: a batch then costs one load.
        order = [1, 0] if self._held.name == 1 else [0, 1]
        likelihoods = {place: self._likelihoods(place, scorable) for place in order if scorable}
        return [
            row if isinstance(row, Answer) else self._answer(one, row, likelihoods)
            for one, row in zip(shown, rows, strict=True)
        ]

    def _encoded(self, shown: PresentedPair) -> Row | Answer:
        """Return the ids of the prompt and of both responses, or the invalid answer where they can't be scored."""
        # As training has them: with the end token where a response ended by itself.
        answers = [(text, finish == "stop") for text, finish in zip(shown.responses, shown.finishes, strict=True)]
        try:
            prompt, (first, second) = self._chat.encode_answers(shown.pair.prompt, answers)
        except PromptRefused as error:
            return Answer(0, text=error.what, valid=False, why=REFUSED)
        return (tuple(prompt), (tuple(first), tuple(second))) if first and second else _EMPTY

    def _likelihoods(self, place: int, rows: Sequence[Row]) -> Likelihoods:
        """Return the log-prob of each response given its prompt, under one model."""
        import torch

        from selfsteer.logprobs import PromptRow, score_responses

        model = self._held.hold(place, self._sides[place].load)
        context = context_of(model.config) or math.inf
        distinct = dict.fromkeys((prompt, tuple(sorted(set(both)))) for prompt, both in rows)  # both orders are one row
        fitting = [(prompt, texts) for prompt, texts in distinct if len(prompt) + max(map(len, texts)) <= context]
        with torch.inference_mode():
            scores = score_responses(model, [PromptRow(prompt, texts) for prompt, texts in fitting], wide_head=True)
        return {
            (prompt, ids): logp / len(ids) if self._per_token else logp
            for (prompt, texts), found in zip(fitting, scores, strict=True)
            for ids, logp in zip(texts, found.tolist(), strict=True)
        }

    def _answer(self, shown: PresentedPair, row: Row, likelihoods: dict[int, Likelihoods]) -> Answer:
        cells = [(row[0], ids) for ids in row[1]]
        if any(cell not in found for cell in cells for found in likelihoods.values()):
            return TOO_LONG
        rewards = [likelihoods[0][cell] - likelihoods[1][cell] for cell in cells]
        return scored_answer(rewards, "the implicit rewards", f"pair {shown.pair.id!r}, judge {self.name!r}")
