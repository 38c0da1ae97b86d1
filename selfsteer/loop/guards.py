"""The guards of a run: rounds are judged, the next begins where the last good one ended, the best is handed out."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfsteer.config import GuardSettings
from selfsteer.errors import ConfigError, GuardStopped, NothingSurvived, SelfsteerWarning, TrainingDiverged
from selfsteer.evaluation.guards import GUARDS, Compared, Finding, RoundFigures, best_round, check_round, rejects
from selfsteer.files import fingerprint, link_atomic, remove
from selfsteer.runs.ledger import VERDICT
from selfsteer.runs.store import StageKey
from selfsteer.stages.context import Pass, RunContext
from selfsteer.stages.heldout import heldout_measures
from selfsteer.stages.model_pool import Policy


def check_criterion(context: RunContext) -> None:
    """Raise :class:`ConfigError` where ``guards.best`` names a figure that the run will not have."""
    criterion, recipe = context.recipe.guards.best, context.recipe
    if not recipe.trains or criterion == "last":
        return
    where = f"guards.best={criterion}"
    if recipe.queries.heldout == 0:
        do = "hold some out (queries.heldout), or set guards.best=last"
        raise ConfigError("without held-out queries there is nothing to compare rounds by", where=where, do=do)
    # An aspect's program applies where it is a row's only one.
    alone = (recipe.principles.aspects_per_query or context.principle_set.aspects_per_query) == 1
    program = context.direction or (alone and any(aspect.direction for aspect in context.principle_set.choosable))
    if criterion == "signal_accuracy" and not recipe.judge.name and not program:
        do = "name a judge or evaluation.direction, or set guards.best=last"
        raise ConfigError("nobody says which response is better: no program and no judge", where=where, do=do)


def verdict_depends(guards: GuardSettings, direction: str | None, asked: Sequence[StageKey]) -> dict[str, Any]:
    """Return what the verdict on a round depends on: the guards, and all stages up to the round's end or failure."""
    settings = guards.model_dump(exclude={"best"})
    return {"settings": settings, "direction": direction, "stages": fingerprint(sorted(set(asked)))}


def may_give_up(settings: GuardSettings) -> bool:
    """Return whether any guard does more than warn."""
    actions = {getattr(settings, name).action or settings.action for name in GUARDS}
    return bool(actions & {"stop", "rollback"})


class Guards:
    """Judges the rounds of one run as they end, and points RUN/policy to the best of the good ones.

    Args:
        rounds, heldout: What the run has found so far; it adds to them.

    Attributes:
        policy: Where the next round begins: the last good round's policy, or the start.
        ended: The round in which a guard ended the run, None where none did.
    """

    def __init__(
        self, context: RunContext, start: Policy, rounds: Sequence[Mapping[str, Any]], heldout: Sequence[Pass]
    ) -> None:
        self.settings = context.recipe.guards
        self.policy = start
        self.ended: int | None = None
        self._stages, self._rounds, self._heldout = context, rounds, heldout
        self._good: dict[int, tuple[RoundFigures, Policy]] = {}
        self._findings: list[Finding] = []
        self._failures: dict[str, str] = {}

    @property
    def good(self) -> list[int]:
        """The rounds that were not rejected."""
        return list(self._good)

    @property
    def best(self) -> int | None:
        """The round whose policy is handed out; None where no round is good."""
        return best_round(self.settings.best, [figures for figures, _ in self._good.values()])

    def run_round(self, number: int, work: Callable[[Policy], Policy]) -> None:
        """Do a round's work on the policy it begins from, and judge it.

        A failure that no guard is to act upon is raised: there would be no policy to continue with.
        """
        self._failures = {}
        trained = None
        try:
            trained = work(self.policy)
        except (TrainingDiverged, NothingSurvived) as error:
            name = "not_finite" if isinstance(error, TrainingDiverged) else "kept"
            action = getattr(self.settings, name).action or self.settings.action
            # Where the first round keeps no row, the recipe is to blame and not what training did.
            if action in ("ignore", "warn") or (name == "kept" and not self._rounds):
                raise
            self._failures = {name: f"{error.what} ({error.where})"}
        self.record(number, trained)

    def record(self, number: int, trained: Policy | None) -> None:
        """Judge a round; ``trained`` is None where it failed."""
        start, now = self._figures(0), self._figures(number)
        before = self._good[self.policy.round][0] if self.policy.round else start
        first_kept = _kept(self._rounds[0]) if self._rounds else None
        found = check_round(self.settings, Compared(start, before, now, first_kept))
        self._findings += found
        if trained is not None and not rejects(found):
            self._good[number] = now, trained
            self.policy = trained
        if any(one.standing == "fired" and one.action == "stop" for one in found):
            self.ended = number
        # The verdict is kept for plans of the run and for whoever reads its rows.
        store = self._stages.store
        contrasts = [key for name, round, key in store.claims if (name, round) == ("contrasts", number)]
        info = {
            "given_up": number not in self._good,
            "ended": self.ended is not None,
            "contrasts": contrasts[-1] if contrasts else None,
        }
        depends = verdict_depends(self._stages.recipe.guards, self._stages.direction, store.claims)
        store.note(VERDICT, number, depends, info)
        begins = f"round {self.policy.round}'s policy" if self.policy.round else "the start"
        then = {
            "warn": "",
            "stop": "; the round is rejected and the run ends",
            "rollback": f"; the round is rejected, the next one begins from {begins}",
        }
        for one in found:
            if one.standing == "fired":
                what = f"round {number}, guard {one.guard}: {one.detail}{then[one.action]}"
                warnings.warn(what, SelfsteerWarning, stacklevel=2)
        names = {kind: [one.guard for one in found if one.standing == kind] for kind in ("fired", "quiet", "silent")}
        told = "; ".join(f"{kind}: {', '.join(own)}" for kind, own in names.items() if own)
        self._stages.store.display.say(f"      guards after round {number}: {told or 'none asked'}")
        link = self._stages.store.run_dir / "policy"
        if self.best is None:
            remove(link)
        else:
            link_atomic(link, Path(self._good[self.best][1].path))

    def summary(self) -> dict[str, Any]:
        """Return what summary.json says: the best round, the good ones, where a guard ended the run, every finding."""
        return {
            "criterion": self.settings.best,
            "best": self.best,
            "good": self.good,
            "ended": self.ended,
            "findings": [dataclasses.asdict(one) for one in self._findings],
        }

    def verdict(self) -> list[dict[str, str]]:
        """Return the line that comes first where no round is good: the others then describe no policy to use."""
        if self.best is not None:
            return []
        detail = "all rounds were rejected; the figures below are those of the last measured round"
        return [{"question": "Is there a policy to hand out?", "answer": "no", "detail": detail}]

    def _figures(self, number: int) -> RoundFigures:
        found = [of for of in self._heldout if of.policy.round == number]
        figures = heldout_measures(found[0]) if found else None
        kept = next((_kept(row) for row in self._rounds if row["round"] == number), None)
        return RoundFigures(number, figures, kept, self._failures if number else {})


def stopped(summary: Mapping[str, Any], run_dir: Path) -> GuardStopped | None:
    """Return the error that a run's summary amounts to; None where the run did what was asked and has a good policy."""
    guards = summary["guards"]
    if not guards or (guards["ended"] is None and guards["best"] is not None):
        return None
    fired = [one for one in guards["findings"] if one["standing"] == "fired" and one["action"] != "warn"]
    last = [one for one in fired if one["round"] == fired[-1]["round"]]
    why = "; ".join(f"{one['guard']}: {one['detail']}" for one in last)
    what = f"a guard ended the run in round {guards['ended']}" if guards["ended"] else "no round's policy is good"
    policy = f"{run_dir / 'policy'} is round {guards['best']}'s" if guards["best"] else "there is no good policy"
    # A training that diverged left nothing to continue from.
    keys = [f"guards.{one['guard']}.action=warn" for one in last if one["guard"] != "not_finite"]
    past = f"; with {', '.join(keys)} the run continues" if keys else ""
    do = f"look at {run_dir / 'report.html'}, then fix the recipe{past}"
    return GuardStopped(f"{what} ({why}); {policy}", where=str(run_dir), do=do)


def _kept(row: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many training rows of a round the filters kept, of how many."""
    return row["quality"]["kept"], row["quality"]["total"]
