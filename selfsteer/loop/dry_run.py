"""What a run would do: each stage done, to do or to be redone, and which setting or input makes it so.

The stages themselves are asked for their keys, by a store that looks them up in the ledger and does no work. So nothing
is written, no weights are loaded, and a plan can't key a stage in another way than the run does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from selfsteer.loop.explain import reasons
from selfsteer.loop.guards import may_give_up, verdict_depends
from selfsteer.loop.rounds import Walk
from selfsteer.runs.ledger import VERDICT, StageRecord
from selfsteer.runs.pipeline import stage
from selfsteer.runs.plan_step import PlanStep, StepState
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Row, StageKey, StageSpec, Store, recorded_dependencies, stage_key
from selfsteer.sanitize import escape_controls
from selfsteer.stages.context import RunContext
from selfsteer.stages.model_pool import ModelPool, Policy
from selfsteer.stages.queries import queries_stage


def plan(
    context: RunContext,
    *,
    measure: bool,
    start: Policy | None = None,
    say: Callable[[str], None] = lambda text: None,
    claims: Mapping[StageKey, str] | None = None,
) -> list[PlanStep]:
    """Return the stages of a run in their order, given its stages over the run directory (which may be missing).

    Args:
        context: As a run opens them; they are left alone.
        measure: Whether the run measures on held-out queries (``generate`` does not).
        start: The start, where it is known; its weights' name is part of the keys.
        claims: Stages that another run of the sweep will have done before this one, with its name.

    Raises:
        InputError, FetchError: The queries or the model can't be used, as in a run.
    """
    recipe, store = context.recipe, DryRunStore(context.store, claims or {})
    looking = RunContext(
        recipe, context.principle_set, store, ModelPool(recipe, store.run_dir, runs_code=context.models.runs_code)
    )
    queries = queries_stage(recipe, store)
    walk = Walk(looking, queries, measures=measure)
    policy = start or context.models.initial_policy(say)
    walk.run(policy, _NotedVerdicts(looking, store, policy) if walk.trains else None)
    return store.steps


class _NotedVerdicts:
    """What the guards of an earlier run said of each round; a round without a verdict is taken for good."""

    def __init__(self, context: RunContext, store: DryRunStore, start: Policy) -> None:
        self._context, self._store, self._policy = context, store, start
        self.good: list[int] = []
        self.ended: int | None = None

    def run_round(self, number: int, work: Callable[[Policy], Policy]) -> None:
        """Look a round up, and what became of it."""
        self._store.begin_round()
        trained = work(self._policy)
        verdict = self._store.verdict(number, self._context)
        if verdict["ended"]:
            self.ended = number
        if not verdict["given_up"]:
            self.good.append(number)
            self._policy = trained


def changed(steps: Sequence[PlanStep]) -> Iterator[str]:
    """Yield a line for each stage that is redone, with the reason, and one for all that wait for those."""
    for step in steps:
        if step.state is StepState.REDO:
            yield f"      redone: {step.title}: {step.why}"
    if any(step.state is StepState.REDO for step in steps):
        waiting = sum(step.state is StepState.AFTER for step in steps)
        if waiting:
            yield f"      and the {waiting} stages that depend on what comes of it"


_STAND_INS: dict[str, dict[str, Any]] = {
    "principles": {"aspects": {}, "choices": {}, "writings": {}},
    "responses": {"responses": 0, "cut": 0},
    "scores": {"figures": {}},
    "contrasts": {"total": 1, "counts": {"kept": 1}, "thresholds": {}, "aspects": {}},
    "preferences": {"read": 0, "pairs": 0},
    "reference": {"rows": 1},
    "reward-data": {"content": "", "examples": 1},
}
"""What later stages read of a stage that is not done yet; nothing is concluded from it."""

_WEIGHTS = ("policy", "generator", "average")
"""Stages that make weights: the keys of what comes after name them."""


class DryRunStore(Store):
    """A store that looks stages up and notes where they stand, in place of doing them."""

    computes = False

    def __init__(self, store: Store, claims: Mapping[StageKey, str] = MappingProxyType({})) -> None:
        super().__init__(store.run_dir, Display(quiet=True), sweep_dir=store.sweep_dir)
        self.steps: list[PlanStep] = []
        self._done = {entry.claim for entry in self.ledger.entries()}
        self._others = claims
        self._waits: str | None = None
        """Why later stages can't be looked up, None where they can."""
        self._round: tuple[int, str | None] = 0, None

    def begin_round(self) -> None:
        """Remember where a round begins: it may turn out to have failed on the way."""
        self._round = len(self.steps), self._waits

    def verdict(self, number: int, context: RunContext) -> dict[str, Any]:
        """Return what guards have said of a round whose last stage was asked for; "good" where they may yet say it.

        Where the round failed on the way, the steps behind that are taken back.
        """
        begin, waits = self._round
        last = len(self.steps)
        failures = [
            n for n in range(last, begin, -1) if self.steps[n - 1].todo and self.claims[n - 1] not in self._done
        ]
        # A verdict's key is made of all stages before it, so it is not computed for a round that has none.
        judged = any(one.newest((VERDICT, number, False)) for one in (self.ledger, *self.sibling_ledgers()))
        for end in dict.fromkeys([last, *failures]) if judged else ():
            depends = verdict_depends(context.recipe.guards, context.direction, self.claims[:end])
            key = stage_key(VERDICT, depends)
            own, other = self._look_up((VERDICT, number, key))
            if found := own or other:
                if end in failures:
                    # The round ends with the stage that failed, and will fail at once when it is asked for again.
                    del self.steps[end:], self.claims[end:]
                    why = "it failed, and the guards rejected the round"
                    # Without a key: it has no result to take.
                    self.steps[-1] = replace(self.steps[-1], state=StepState.DONE, why=why, key="")
                    self._waits = waits
                return found.info
        if self._waits is None and may_give_up(context.recipe.guards):
            self._waits = f"the guards have to judge round {number} first"
        return {"given_up": False, "ended": False}

    def _look_up(self, claim: StageKey) -> tuple[StageRecord | None, StageRecord | None]:
        """Return what this ledger has of a stage, or else another one of the sweep."""
        own = self.ledger.find(*claim)
        sibling = None if own else self.sibling(claim)
        return own, sibling[1] if sibling else None

    def _settle(self, asked: StageSpec) -> StageRecord:
        """Note where a stage stands; return what a ledger has of it, else an entry with its key and no result."""
        own, other = self._look_up(asked.claim)
        entry = own or other
        whose = "" if own else other.taken_from if other else self._others.get(asked.claim, "")
        self.steps.append(self._step(asked, entry, whose))
        if asked.name in _WEIGHTS and entry is None:
            self._waits = self._waits or ""
        stand_in = _STAND_INS.get(stage(asked.name).name, {})
        if asked.name == "queries":  # whether some are held out matters to the walk; how many does to no key
            stand_in = {"read": 0, "train": sys.maxsize, "heldout": int(bool(asked.depends["settings"]["heldout"]))}
        return entry or StageRecord(asked.name, asked.round, asked.key, [f"{asked.folder}/{asked.key}"], 0.0, stand_in)

    def _step(self, asked: StageSpec, entry: StageRecord | None, whose: str) -> PlanStep:
        """Return where a stage stands; ``whose`` names the run of the sweep that it is taken from, "" where none."""
        slot = (asked.name, asked.round, "heldout" in Path(asked.folder).parts)
        if whose:
            return PlanStep(slot, asked.title, StepState.SHARED, f"with {whose}", entry, asked.key)
        if self._waits is not None:
            return PlanStep(slot, asked.title, StepState.AFTER, self._waits, key=asked.key)
        if entry is not None:
            return PlanStep(slot, asked.title, StepState.DONE, entry=entry, key=asked.key)
        folder, key = self.run_dir / asked.folder, asked.key
        begun = folder.is_dir() and any(folder.glob(f"*{key}*"))
        before = self.ledger.newest(slot)
        gone = self.ledger.gone(before) if before and before.key == key else []
        if before is None or (begun and not gone):
            return PlanStep(
                slot, asked.title, StepState.TODO, "continues: a part of it is on disk" if begun else "", key=key
            )
        changes = [] if gone else reasons(slot[0], before.depends, recorded_dependencies(asked.name, asked.depends))
        why = f"its files are gone: {gone[0]}" if gone else "; ".join(changes)
        return PlanStep(slot, asked.title, StepState.REDO, escape_controls(why), key=key)

    def files(self, entry: StageRecord) -> list[Path]:
        """Return none: a plan reads no rows."""
        return []

    def read(self, entry: StageRecord, kind: type[Row]) -> list[Row]:
        """Return none: a plan reads no rows."""
        return []
