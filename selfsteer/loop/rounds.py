"""The walk over a run's stages, written once: a run computes them, a dry run looks them up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Protocol

from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.pipeline import GENERATOR, lines
from selfsteer.stages.context import Pass, RoundData, RunContext
from selfsteer.stages.model_pool import Policy
from selfsteer.stages.queries import QueriesResult
from selfsteer.stages.reference import References


class RoundJudge(Protocol):
    """Judges the rounds of a walk: the guards, or in a dry run what they have noted."""

    @property
    def good(self) -> Sequence[int]:
        """The rounds so far that were not rejected."""

    @property
    def ended(self) -> int | None:
        """The round in which the run ended early."""

    def run_round(self, number: int, work: Callable[[Policy], Policy]) -> None:
        """Do a round's work on the policy that it begins from, and judge it."""


class Walk:
    """The stages of a run in their order.

    Args:
        context: The run's; its store computes the stages, or only looks them up.
        queries: The record of the stage ``queries``, which all rounds share.
        measures: Whether held-out queries are measured on and a policy is trained (``generate`` does neither).
        on_record: Is given each stage's record with its pass as soon as it is there.

    Attributes:
        made: The data of the rounds that count, for the training of later ones.
    """

    def __init__(
        self,
        context: RunContext,
        queries: StageRecord,
        *,
        measures: bool,
        on_record: Callable[[Pass, str, StageRecord], None] = lambda state, name, record: None,
    ) -> None:
        self.context, self.measures, self._queries, self._on_record = context, measures, queries, on_record
        self.trains = measures and context.recipe.trains
        self.made: list[RoundData] = []
        self._start_pass: Pass | None = None

    def run(self, start: Policy, judge: RoundJudge | None) -> None:
        """Go through all rounds; without a judge through the first one's data alone."""
        recipe = self.context.recipe
        self._references = References(self.context, start)
        if self.measures and QueriesResult.of(self._queries).heldout:
            self._start_pass = self._measure(start, {"queries": self._queries})
        if judge is None:
            self._data_pass(1, start)
            return
        for number in range(1, recipe.rounds + 1):
            judge.run_round(number, partial(self._round, number))
            # Rows of a rejected round are not trained on again.
            good = set(judge.good)
            self.made = [one for one in self.made if one.contrasts.round in good]
            if judge.ended:
                break

    def _round(self, number: int, policy: Policy) -> Policy:
        """Make a round's data, train the policy on it, measure the result."""
        reference = self._references.of(policy)
        trained = self._data_pass(number, policy, reference).policy
        if self._start_pass:
            # The start chose the principles for all policies, so that these stay comparable.
            principles = self._start_pass.records["principles"]
            self._measure(trained, {"queries": self._queries, "principles": principles})
        return trained

    def _data_pass(self, number: int, policy: Policy, reference: Policy | None = None) -> Pass:
        writer, preferences = policy, self.context.recipe.preferences.source is not None
        if self.context.recipe.mode != "generator" and not preferences:
            writer = self.context.models.responder_model(policy, self.context.store.display.say)
        # Where the policy writes its own data, the held-out pairs have shown already whether it follows the principles.
        checked = self._start_pass is not None and self.context.recipe.writes_itself
        checks = self.measures and number == 1 and not checked and not preferences
        state = Pass(
            self.context, "train", number, policy, writer, {"queries": self._queries}, trains=self.trains,
            checks=checks, reference=reference, made=self.made,
        )  # fmt: skip
        self._do(state)
        return state

    def _measure(self, policy: Policy, records: dict[str, StageRecord]) -> Pass:
        start = self._start_pass
        state = Pass(
            self.context, "heldout", policy.round, policy, policy, records,
            checks=start is None and self.context.recipe.writes_itself,
            start_rows=start.records["scores"] if start else None,
        )  # fmt: skip
        self._do(state)
        return state

    def _do(self, state: Pass) -> None:
        for line in lines(state.split):
            if line.name in state.records:
                continue
            if line.name == "generator" and self.context.recipe.mode == "generator":
                # The rows that a generator is trained on: the policy's own answers to the first queries.
                given = {name: state.records[name] for name in ("queries", "principles")}
                policy = state.policy
                inner = Pass(self.context, "generator", state.number, policy, policy, dict(given), checks=state.checks)
                self._do(inner)
                made = {f"{GENERATOR}{name}": one for name, one in inner.records.items() if name not in given}
                state.records |= made
                state.checks = False
            record = import_module(f"selfsteer.stages.{line.name}").run(state)
            if record is None:
                continue
            state.records[line.name] = record
            if (line.name, state.split) == ("contrasts", "train"):
                self.made.append(RoundData(record, state.policy))
            self._on_record(state, line.name, record)
