"""Reading a run directory, finished or still in progress: the active rows, round by round."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from selfsteer.config import load_recipe
from selfsteer.errors import InputError
from selfsteer.evaluation.metrics import implicit_changes
from selfsteer.evaluation.row_table import principles_of
from selfsteer.evaluation.signal_quality import Chosen, Implicit, Part
from selfsteer.files import read_json
from selfsteer.records import Contrast, StoredRows, read_columns
from selfsteer.runs.active import active_records, check_files, rerun_command
from selfsteer.runs.ledger import Slot, StageRecord
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store
from selfsteer.stages.context import RunContext
from selfsteer.views import SCALES


class Reading(NamedTuple):
    """What was read.

    Attributes:
        parts: One a round, or one a policy for the held-out split.
        entries: The ledger's entries that the rows come from.
        pending: What is not there yet, one sentence each.
    """

    parts: list[Part]
    entries: list[StageRecord]
    pending: list[str]


class RunReader:
    """Reads the rows of a run directory; several settings may have left results there, the newest line counts.

    Nothing is written and no lock is needed, so the run may be going on.

    Raises:
        InputError: It is not a run directory, its recipe or its principle set can't be read.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        file = run_dir / "recipe.yaml"
        if not file.is_file():
            what = (
                "this is not a run directory: it has no recipe.yaml" if run_dir.is_dir() else "there is no such folder"
            )
            do = "name the folder that `selfsteer run` was given as --run-dir"
            raise InputError(what, where=str(run_dir), do=do)
        self.recipe = load_recipe(file)
        store = Store(run_dir, Display(quiet=True))
        self.stages = RunContext.from_run(self.recipe, store)
        self._entries = store.ledger.entries()
        self._force = active_records(self._entries)

    def train(self) -> Reading:
        """Return the training rows of each round of the recipe that are there.

        Raises:
            InputError: No round has rows yet, or a file of one is gone.
        """
        found = Reading([], [], [])
        for number in range(1, self.recipe.rounds + 1):
            slots = ("contrasts", number, False), ("scores", number, False)
            entry = self._force.get(slots[0]) or self._force.get(slots[1])
            if not (entry and entry.stage == "contrasts"):
                found.pending.append(self._pending(slots[0] if entry else slots[1]))
            if entry:
                filtered, implicit = entry.stage == "contrasts", self._implicit(number, found.entries)
                rows, chosen = self._stored(entry), self._chosen(number)
                found.parts.append(Part(number, f"round {number}", rows, filtered, implicit=implicit, chosen=chosen))
                found.entries.append(entry)
        return self._checked(found)

    def heldout(self) -> Reading:
        """Return the held-out rows of the start and of each round's policy that are there.

        Raises:
            InputError: The run holds nothing out, no policy has answered yet, or a file is gone.
        """
        found = Reading([], [], [])
        rounds = self.recipe.rounds if self.recipe.trains else 0
        for number in range(rounds + 1):
            slot = ("scores", number, True)
            entry = self._force.get(slot)
            if entry:
                label, implicit = f"after round {number}" if number else "before", self._implicit(number, found.entries)
                found.parts.append(Part(number, label, self._stored(entry), False, implicit=implicit))
                found.entries.append(entry)
            else:
                found.pending.append(self._pending(slot))
        queries = self._force.get(("queries", 1, False))
        if queries and not queries.info["heldout"]:
            do = "ask for --split train, or set queries.heldout and run again"
            raise InputError("this run has no held-out queries", where=str(self.run_dir), do=do)
        return self._checked(found)

    def _implicit(self, number: int, entries: list[StageRecord]) -> Implicit | None:
        """Return the implicit rewards after a round, and add the entries they come from."""
        found, start = self._force.get(("implicit", number, True)), self._force.get(("scores", 0, True))
        if not found or not start or not self.recipe.trains:
            return None
        entries += [found, start]
        rows = self._rows(start)
        means = self.recipe.implicit_per_token
        limit = self.recipe.train.max_length
        changes = implicit_changes(rows, self._rows(found), per_token=means, max_length=limit)
        rewards = {name: positive - negative for name, (positive, negative) in changes.items()}
        return Implicit([row for row in rows if row.id in rewards], rewards, SCALES[means])

    def _chosen(self, number: int) -> Chosen | None:
        """Return how often each aspect and each principle was chosen for a round; None where its file is gone."""
        entry = self._force.get(("principles", number, False))
        if entry is None or self.stages.store.ledger.gone(entry):
            return None
        aspects: Counter[str] = Counter()
        principles: Counter[str] = Counter()
        columns = ["aspects", "positive_principle", "writing"]
        for names, principle, writing in read_columns(self.stages.store.files(entry), columns):
            aspects.update(names)
            principles.update(principles_of(names, principle, writing))
        return Chosen(aspects, principles)

    def _stored(self, entry: StageRecord) -> StoredRows:
        check_files(self.stages.store.ledger, entry)
        return StoredRows(self.stages.store.files(entry))

    def _rows(self, entry: StageRecord) -> list[Contrast]:
        """Return the rows of a held-out stage, which are few."""
        return sorted(self._stored(entry), key=lambda row: row.id)

    def _pending(self, slot: Slot) -> str:
        stage, number, heldout = slot
        what = f"the stage {stage!r} of {'the held-out queries, ' if heldout else ''}round {number}"
        if any(entry.slot == slot for entry in self._entries):
            return f"{what} is there for an earlier setting only"
        summary = read_json(self.run_dir / "summary.json")
        ended = ((summary.get("guards") if isinstance(summary, dict) else None) or {}).get("ended")
        if ended and number > ended:
            return f"{what} was not made: a guard ended the run in round {ended}"
        return f"{what} is not finished yet"

    def _checked(self, reading: Reading) -> Reading:
        if not reading.parts:
            what = f"this run has no rows to look at yet: {reading.pending[0]}"
            raise InputError(what, where=str(self.run_dir), do=rerun_command(self.run_dir, "to continue"))
        return reading
