"""What a run would do: each stage done, to do or to be redone, and which setting or input makes it so.

The stages themselves are asked for their keys, by a store that looks them up in the ledger and does no work. So nothing
is written, no weights are loaded, and a plan can't key a stage in another way than the run does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from selfsteer.loop.data import DataStages, stage_title
from selfsteer.loop.display import Display
from selfsteer.loop.evaluation import heldout_rows, implicit_stage, judged_stage
from selfsteer.loop.ledger import Entry, Slot
from selfsteer.loop.models import Models, Policy
from selfsteer.loop.preferences import preferences_stage, scored_preferences
from selfsteer.loop.reasons import reasons
from selfsteer.loop.references import Made, References, trained_on, training_rows
from selfsteer.loop.store import Asked, Row, Store, kept
from selfsteer.loop.training import Training, train_stage
from selfsteer.records import ROLES
from selfsteer.showing import visible

Claim = tuple[str, int, str]
"""A stage by its name, its round and its key."""


class State(StrEnum):
    """Where a stage stands. ``SHARED`` is another run's of the sweep; ``AFTER`` depends on a result not there yet."""

    DONE = "done"
    SHARED = "shared"
    TODO = "to do"
    REDO = "redo"
    AFTER = "after that"


@dataclass(frozen=True)
class Step:
    """One stage of a plan.

    Attributes:
        slot: Which stage.
        title: What the run calls it.
        state: Where it stands.
        why: What has changed, or what of it is on disk already; "" where there is nothing to tell.
        entry: What the ledger has of a finished stage.
        key: The stage's key, "" where it is left open.
    """

    slot: Slot
    title: str
    state: State
    why: str = ""
    entry: Entry | None = None
    key: str = ""

    @property
    def todo(self) -> bool:
        """Whether this run has to do it."""
        return self.state not in (State.DONE, State.SHARED)

    @property
    def claim(self) -> Claim:
        """What another run of a sweep takes it by."""
        return self.slot[0], self.slot[1], self.key


def plan(
    stages: DataStages,
    *,
    measure: bool,
    start: Policy | None = None,
    say: Callable[[str], None] = lambda text: None,
    claims: Mapping[Claim, str] | None = None,
) -> list[Step]:
    """Return the stages of a run in their order, given its stages over the run directory (which may be missing).

    Args:
        stages: As a run opens them; they are left alone.
        measure: Whether the run measures on held-out queries (``generate`` does not).
        start: The start, where it is known; its weights' name is part of the keys.
        say: Is told how far a download of the model is.
        claims: Stages that another run of the sweep will have done before this one, with its name.

    Raises:
        InputError, FetchError: The queries or the model can't be used, as in a run.
    """
    recipe, store = stages.recipe, Looking(stages.store, claims or {})
    looking = DataStages(recipe, stages.principle_set, store, Models(recipe, store.run_dir))
    _walk(looking, start or stages.models.start(say), measure=measure, say=say)
    return store.steps


def _walk(stages: DataStages, start: Policy, *, measure: bool, say: Callable[[str], None]) -> None:
    """Go through the stages of a run as :func:`selfsteer.loop.run` does, over a store that does not work."""
    recipe, policy = stages.recipe, start
    queries = stages.queries()
    held = stages.principles(queries, "heldout", 0, policy) if measure and queries.info["heldout"] else None
    before = _held(stages, held, policy, 0) if held else None
    trains, references, made = measure and recipe.trains, References(stages, start), list[Made]()
    for number in range(1, recipe.rounds + 1 if trains else 2):
        reference = references.of(policy)
        judges = measure and number == 1 and not (held and recipe.writes_itself)
        made.append(Made(_data(stages, queries, number, policy, say, judges=judges), policy))
        if not trains:
            return
        rows = training_rows(stages, number, trained_on(recipe, made), reference)
        _, policy = train_stage(stages, Training("policy", number, rows, policy, reference))
        if held and before:
            _held(stages, held, policy, number, before)


def _data(
    stages: DataStages, queries: Entry, number: int, policy: Policy, say: Callable[[str], None], *, judges: bool
) -> Entry:
    """Go through the stages of a round's data; ``judges``: its first pairs tell whether principles are followed."""
    recipe, roles = stages.recipe, tuple[str, ...](ROLES)
    if recipe.preferences.source:
        scores = scored_preferences(stages, preferences_stage(stages, queries), policy)
        return stages.contrasts(scores, number)
    if recipe.mode == "generator":
        principles = stages.principles(queries, "train", number, policy)
        writer, roles = _generator(stages, principles, number, policy, judges=judges), ROLES[:2]
        judges = False
    else:
        writer = _responder(stages, policy, say)
        principles = stages.principles(queries, "train", number, writer, reader=policy)
    responses = stages.responses(principles, "train", number, writer, roles=roles)
    scores = stages.scores(principles, responses, "train", number, writer, roles=roles, scorer=policy)
    if judges:
        _judged(stages, scores, "train", number)
    return stages.contrasts(scores, number)


def _responder(stages: DataStages, policy: Policy, say: Callable[[str], None]) -> Policy:
    """Return who writes the responses, without a name for its weights where the start has none."""
    name = stages.recipe.generation.model
    if name is None or policy.fingerprint:
        return stages.models.responder(policy, say)
    return Policy(0, name, "", stages.recipe.generation.backend, name, foreign=True)


def _generator(stages: DataStages, principles: Entry, number: int, policy: Policy, *, judges: bool) -> Policy:
    limit = stages.recipe.generator.queries
    responses = stages.responses(principles, "generator", number, policy, limit=limit)
    scores = stages.scores(principles, responses, "generator", number, policy)
    if judges:
        _judged(stages, scores, "train", number)
    contrasts = stages.contrasts(scores, number, "generator")
    return train_stage(stages, Training("generator", number, [contrasts], policy, policy))[1]


def _held(stages: DataStages, principles: Entry, policy: Policy, round: int, before: Entry | None = None) -> Entry:
    entry = heldout_rows(stages, principles, policy)
    if before:
        implicit_stage(stages, before, policy)
    _judged(stages, entry, "heldout", round)
    return entry


def _judged(stages: DataStages, entry: Entry, split: str, round: int) -> None:
    """The key of a reward model's stage may need its weights, so it is left open."""
    kind, _, name = (stages.recipe.judge.name or "").partition(":")
    if kind != "reward":
        judged_stage(stages, entry, split, round)
        return
    assert isinstance(stages.store, Looking)
    slot, title = ("judgements", round, split == "heldout"), stage_title(f"ask {name}", split, round)
    stages.store.steps.append(Step(slot, title, State.AFTER, "its key needs the judge's weights"))


def changed(steps: Sequence[Step]) -> Iterator[str]:
    """Yield a line for each stage that is redone, with the reason, and one for all that wait for those."""
    for step in steps:
        if step.state is State.REDO:
            yield f"      redone: {step.title}: {step.why}"
    if any(step.state is State.REDO for step in steps):
        waiting = sum(step.state is State.AFTER for step in steps)
        if waiting:
            yield f"      and the {waiting} stages that depend on the policy trained then"


_STAND_INS: dict[str, dict[str, Any]] = {
    "responses": {"responses": 0},
    "generator-responses": {"responses": 0},
    "contrasts": {"counts": {"kept": 1}},
    "generator-contrasts": {"counts": {"kept": 1}},
    "reference": {"rows": 1},
    "reward-data": {"content": "", "examples": 1},
}
"""What the code between two stages reads of the first one, where that is not done yet; nothing is concluded from it."""


_WEIGHTS = ("policy", "generator", "average")
"""Stages that make weights: what follows is named by them."""


class Looking(Store):
    """A store that looks stages up and notes where they stand, in place of doing them.

    Args:
        store: The one that a run works with; it is left alone.
        claims: As of :func:`plan`.
    """

    def __init__(self, store: Store, claims: Mapping[Claim, str] = MappingProxyType({})) -> None:
        super().__init__(store.run_dir, Display(quiet=True), shelf=store.shelf)
        self.steps: list[Step] = []
        self._entries = self.ledger.entries()
        self._claims = claims
        self._policy_is_missing = False

    def _settle(self, asked: Asked) -> Entry:
        """Note where a stage stands; return what a ledger has of it, else an entry with its key and no result."""
        own = self.ledger.find(asked.name, asked.round, asked.key)
        sibling = None if own else self.sibling(asked)
        entry = own or (sibling[1] if sibling else None)
        claimed = self._claims.get((asked.name, asked.round, asked.key), "")
        whose = "" if own else sibling[1].taken_from if sibling else claimed
        self.steps.append(self._step(asked, entry, whose))
        if asked.name in _WEIGHTS and entry is None:
            self._policy_is_missing = True
        stand_in = self._stand_in(asked.name, asked.depends)
        return entry or Entry(asked.name, asked.round, asked.key, [f"{asked.folder}/{asked.key}"], 0.0, stand_in)

    def _step(self, asked: Asked, entry: Entry | None, whose: str) -> Step:
        """Return where a stage stands; ``whose`` names the run of the sweep that it is taken from, "" where none."""
        slot = (asked.name, asked.round, "heldout" in Path(asked.folder).parts)
        if whose:
            return Step(slot, asked.title, State.SHARED, f"with {whose}", entry, asked.key)
        if self._policy_is_missing:
            return Step(slot, asked.title, State.AFTER, key=asked.key)
        if entry is not None:
            return Step(slot, asked.title, State.DONE, entry=entry, key=asked.key)
        return self._undone(slot, asked)

    def _undone(self, slot: Slot, asked: Asked) -> Step:
        folder, key = self.run_dir / asked.folder, asked.key
        begun = folder.is_dir() and any(folder.glob(f"*{key}*"))
        before = next((entry for entry in reversed(self._entries) if entry.slot == slot), None)
        if begun or before is None:
            return Step(slot, asked.title, State.TODO, "goes on: a part of it is on disk" if begun else "", key=key)
        if before.key == key:
            why = f"its files are gone: {self.ledger.gone(before)[0]}"
        else:
            why = "; ".join(reasons(slot[0], before.depends, kept(asked.name, asked.depends)))
        return Step(slot, asked.title, State.REDO, visible(why), key=key)

    def _stand_in(self, name: str, depends: dict[str, Any]) -> dict[str, Any]:
        if name == "queries":  # held-out ones are asked for; how many there are does not matter to a key
            return {"train": sys.maxsize, "heldout": 1 if depends["settings"]["heldout"] else 0}
        return _STAND_INS.get(name.partition(":")[0], {})

    def files(self, entry: Entry) -> list[Path]:
        """Return none: a plan reads no rows."""
        return []

    def read(self, entry: Entry, kind: type[Row]) -> list[Row]:
        """Return none: a plan reads no rows."""
        return []
