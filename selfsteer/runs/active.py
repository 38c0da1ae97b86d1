"""Which of a ledger's records hold: the newest of each stage, and what they were made from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selfsteer.config import Recipe
from selfsteer.errors import InputError
from selfsteer.runs.ledger import VERDICT, Ledger, Slot, StageRecord
from selfsteer.runs.pipeline import order


def active_records(entries: Sequence[StageRecord]) -> dict[Slot, StageRecord]:
    """Return the active record of each slot: the newest, unless a stage before it in the pipeline has a newer one.

    Then an earlier setting made it, and the run has not come that far again. ``entries``: the oldest first.
    """
    places = {entry.slot: place for place, entry in enumerate(entries)}
    known = {slot: place for slot in places if (place := order(slot[0], heldout=slot[2]))}
    found: dict[Slot, StageRecord] = {}
    latest = -1
    for slot in sorted(known, key=lambda slot: (0 if slot[0] == "queries" else slot[1], known[slot])):
        if places[slot] > latest:
            found[slot] = entries[places[slot]]
        latest = max(latest, places[slot])
    return found


class ActiveRounds(NamedTuple):
    """The rounds of a run whose rows are to be used.

    Attributes:
        given_up: Rounds with rows that a guard rejected.
    """

    rows: dict[int, StageRecord]
    given_up: list[int]

    @property
    def lack(self) -> str:
        """Why there are no rows."""
        return "every round was rejected by a guard" if self.given_up else "this run has no filtered rows yet"

    def __str__(self) -> str:
        told = ", ".join(map(str, self.rows)) or "none"
        given_up = ", ".join(map(str, self.given_up))
        return f"{told} (rejected by a guard: {given_up})" if given_up else told


def active_rounds(recipe: Recipe, ledger: Ledger) -> ActiveRounds:
    """Return the rounds of a recipe whose filtered rows are active, without those that a guard rejected.

    A verdict is about the rows that it was passed on, and about runs that train.
    """
    entries = ledger.entries()
    force = active_records(entries)
    verdicts = {entry.round: entry.info for entry in entries if entry.stage == VERDICT} if recipe.trains else {}
    rounds = ActiveRounds({}, [])
    for number in range(1, recipe.rounds + 1):
        entry, verdict = force.get(("contrasts", number, False)), verdicts.get(number)
        if entry and verdict and verdict["given_up"] and verdict["contrasts"] == entry.key:
            rounds.given_up.append(number)
        elif entry:
            rounds.rows[number] = entry
    return rounds


def check_files(ledger: Ledger, entry: StageRecord) -> None:
    """Raise :class:`InputError` where a file of a finished stage is not there any more."""
    gone = ledger.gone(entry)
    if gone:
        what = f"a file of the stage {entry.stage!r} of round {entry.round} is gone"
        raise InputError(
            what, where=str(ledger.run_dir / gone[0]), do=rerun_command(ledger.run_dir, "to make it again")
        )


def rerun_command(run_dir: Path, purpose: str) -> str:
    """Return the advice to run a run directory's recipe again."""
    recipe, folder = (shlex.quote(str(path)) for path in (run_dir / "recipe.yaml", run_dir))
    return f"run `selfsteer run {recipe} --run-dir {folder}` {purpose}"


def dependencies_of(entries: Sequence[StageRecord]) -> list[dict[str, Any]]:
    """Return the names of records, to check later whether they are still active."""
    unique = {(*entry.slot, entry.key): entry for entry in entries}
    return [
        {"stage": entry.stage, "round": entry.round, "heldout": entry.heldout, "key": entry.key}
        for entry in unique.values()
    ]
