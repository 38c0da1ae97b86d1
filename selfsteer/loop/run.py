"""One command from queries to the report: the rounds of a recipe, stage by stage, in a run directory."""

from __future__ import annotations

import dataclasses
import shlex
import warnings
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import selfsteer
from selfsteer.config import Recipe, dump_recipe
from selfsteer.errors import PrincipleError, SelfsteerWarning
from selfsteer.evaluation import verdict
from selfsteer.evaluation.probe import Direction
from selfsteer.files import link_atomic, read_json, storage_errors, write_atomic, write_json
from selfsteer.loop.blocks import NAMED
from selfsteer.loop.data import DataStages, quality_figures
from selfsteer.loop.display import Display, Planned
from selfsteer.loop.estimating.costs import Sizes
from selfsteer.loop.estimating.foretelling import warn_of_disk
from selfsteer.loop.evaluation import (
    Measured,
    direction,
    heldout_rows,
    implicit_stage,
    judged_stage,
    measured,
    samples,
)
from selfsteer.loop.guards import Guards, check_criterion
from selfsteer.loop.ledger import Entry
from selfsteer.loop.models import Models, Policy
from selfsteer.loop.planning import Step, changed, plan
from selfsteer.loop.store import Store
from selfsteer.loop.training import train_stage
from selfsteer.principles import load_set
from selfsteer.records import Contrast
from selfsteer.report import write_report

Summary = dict[str, Any]

# Expected seconds for one unit of each kind of stage with the embedded model on two cores; only their ratios matter.
_CHOOSE, _WRITE, _SAMPLE, _SCORE, _TRAIN, _IMPLICIT, _KEPT = 0.3, 1.5, 1.3, 1.5, 3.5, 0.4, 0.6
_SCRIPTED = 3e-4
"""What the scripted backend takes of that."""


def run(recipe: Recipe, run_dir: Path, *, display: Display | None = None, command: str = "") -> Summary:
    """Do whatever of a recipe is not done yet in ``run_dir`` and return the summary that the report shows.

    Every stage is keyed by what it depends on: a second call finds everything done, a changed setting redoes only what
    depends on it, and a killed run goes on where it stopped. A run that a guard ended returns as well, and a second
    call says the same: ``selfsteer.loop.guards.stopped`` makes an error of its summary.

    Raises:
        InputError: The recipe, the queries, the principle set or the model can't be used.
        WorkFailed: A stage failed; what was finished stays.
    """
    return _work(recipe, run_dir, display or Display(quiet=True), command, measure=True)


def generate(recipe: Recipe, run_dir: Path, *, display: Display | None = None, command: str = "") -> Summary:
    """Make the preference data of a recipe's first round and nothing else: no training, no held-out measurement.

    Memory does not grow with the number of queries. :func:`run` with the same recipe finds these stages done.

    Raises:
        InputError, WorkFailed: As :func:`run`.
    """
    return _work(data_only(recipe), run_dir, display or Display(quiet=True), command, measure=False)


def data_only(recipe: Recipe) -> Recipe:
    """Return the recipe of :func:`generate`: one round, no training."""
    return Recipe.model_validate(recipe.model_dump() | {"mode": "data-only", "rounds": 1})


def open_stages(recipe: Recipe, run_dir: Path, display: Display) -> DataStages:
    """Return the stages of a recipe over a run directory; nothing is written or loaded yet."""
    return DataStages(recipe, load_set(recipe.principles.set), Store(run_dir, display), Models(recipe, run_dir))


def _work(recipe: Recipe, run_dir: Path, display: Display, command: str, *, measure: bool) -> Summary:
    stages = open_stages(recipe, run_dir, display)
    check(stages)
    with display, storage_errors(run_dir), stages.store.locked():
        write_atomic(run_dir / "recipe.yaml", dump_recipe(recipe))
        try:
            summary = _Run(recipe, stages, measure).go(command)
        finally:
            stages.models.free()
        write_json(run_dir / "summary.json", summary)
        write_report(run_dir)
        return summary


def check(stages: DataStages) -> None:
    """Check what the recipe names before anything is computed: filters, direction, bits of the weights, loss."""
    stages.check_filters()
    stages.check_programs()
    stages.check_harm()
    check_criterion(stages)
    if stages.recipe.judge.name:
        from selfsteer.evaluation.judges import open_judge

        open_judge(stages.recipe.judge)
    if stages.models.writer:
        stages.models.writer.check()
    if stages.models.bits:
        from selfsteer.models import check_bits

        check_bits(stages.models.bits, stages.models.device, where="train.lora.bits")
    if stages.recipe.mode == "online":
        from selfsteer.policy.config import check_loss_settings, loss_settings

        check_loss_settings(loss_settings(stages.recipe.train))


class _Run:
    """The stages of one run in their order, and the figures they leave for the summary."""

    def __init__(self, recipe: Recipe, stages: DataStages, measure: bool) -> None:
        self.recipe, self.stages, self.measure = recipe, stages, measure
        self.store, self.display = stages.store, stages.store.display
        self.rounds: list[dict[str, Any]] = []
        self.heldout: list[Measured] = []

    def go(self, command: str) -> Summary:
        steps = self._announce()
        queries = self.stages.queries()
        warn_of_disk(self.stages, steps, Sizes(queries.info["train"], queries.info["heldout"] if self.measure else 0))
        self.display.plan([Planned("", 1.0), *self._plan(queries)])
        policy = self.stages.models.start(self.display.say)
        principles = self._heldout_principles(queries, policy)
        if principles:
            entry = heldout_rows(self.stages, principles, policy)
            judged = self._check_direction(entry, "heldout", 0)
            self.heldout.append(Measured(policy, entry, None, judged))
        if self.recipe.mode != "online":
            self._round(1, queries, policy)
            return self._summary(command, None)
        guards = Guards(self.stages, policy, self.rounds, self.heldout)
        for number in range(1, self.recipe.rounds + 1):
            guards.close(number, guards.attempt(partial(self._measured_round, number, queries, principles)))
            if guards.ended:
                break
        return self._summary(command, guards)

    def _measured_round(self, number: int, queries: Entry, principles: Entry | None, policy: Policy) -> Policy:
        trained = self._round(number, queries, policy)
        if principles:
            entry = heldout_rows(self.stages, principles, trained)
            implicit = implicit_stage(self.stages, self.heldout[0].rows, trained)
            judged = judged_stage(self.stages, entry, "heldout", number)
            self.heldout.append(Measured(trained, entry, implicit, judged))
        return trained

    def _announce(self) -> list[Step]:
        """Tell which stages a change has to redo, and why, before any is done."""
        steps = plan(self.stages, measure=self.measure, say=self.display.say)
        for line in changed(steps):
            self.display.say(line)
        return steps

    def _check_direction(self, entry: Entry, split: str, round: int) -> Entry | None:
        """Refuse to train a policy away from what its principles say; what nobody can tell is not refused.

        Returns the stage in which the recipe's judge was asked, None where it names none.
        """
        judged = judged_stage(self.stages, entry, split, round)
        found = direction(self.stages, entry, judged)
        if found is not None and found.refused:
            self._refuse(found, "held-out" if split == "heldout" else "training")
        return judged

    def _refuse(self, found: Direction, which: str) -> None:
        what = (
            f"y+ is better than y- in {found.accuracy:.0%} of {found.n} {which} pairs only (by {found.by}): this "
            "model does not follow these principles, and training would teach it the opposite"
        )
        settings = self.recipe.principles
        where = f"principles.set={settings.set}, model={self.recipe.model.name}"
        do = "take another set or a larger model, or set principles.below_chance=warn to go on"
        if settings.below_chance == "refuse":
            raise PrincipleError(what, where=where, do=do)
        warnings.warn(what, SelfsteerWarning, stacklevel=2)

    def _heldout_principles(self, queries: Entry, policy: Policy) -> Entry | None:
        """The start chooses the held-out principles for all policies, so that these stay comparable."""
        wanted = self.measure and queries.info["heldout"]
        return self.stages.principles(queries, "heldout", 0, policy) if wanted else None

    def _round(self, number: int, queries: Entry, policy: Policy) -> Policy:
        """One round: data from the newest policy, which is also its reference; then training."""
        principles = self.stages.principles(queries, "train", number, policy)
        responses = self.stages.responses(principles, "train", number, policy)
        scores = self.stages.scores(principles, responses, "train", number, policy)
        if self.measure and number == 1 and not self.heldout:
            # The first block of rows is enough to tell, however many there are.
            self._check_direction(dataclasses.replace(scores, files=scores.files[:1]), "train", number)
        contrasts = self.stages.contrasts(scores, number)
        figures = self._data_figures(number, queries, principles, responses, contrasts)
        self.rounds.append(figures)
        if self.recipe.mode != "online":
            return policy
        entry, trained = train_stage(
            self.recipe, self.store, self.stages.models, contrasts, number, policy, self.stages.scoring(policy)
        )
        figures["training"] = entry.info
        link_atomic(self.store.run_dir / f"round-{number:02d}" / "policy", self.store.run_dir / entry.files[0])
        return trained

    def _data_figures(
        self, number: int, queries: Entry, principles: Entry, responses: Entry, contrasts: Entry
    ) -> dict[str, Any]:
        before = [queries.info, principles.info, responses.info]
        return {
            "round": number,
            "queries": {
                "read": queries.info["read"],
                "used": queries.info["train"] - sum(info["left_out"] for info in before[1:]),
                "left_out": sum(info["left_out"] for info in before),
                "dropped": [drop for info in before for drop in info["dropped"]][:NAMED],
            },
            "aspects": principles.info["aspects"],
            "choices": principles.info["choices"],
            "writings": principles.info["writings"],
            "responses": {name: responses.info[name] for name in ("responses", "cut", "tokens")},
            "quality": quality_figures(contrasts.info),
            "training": None,
        }

    def _plan(self, queries: Entry) -> list[Planned]:
        factor = _SCRIPTED if self.recipe.generation.backend == "scripted" else 1.0
        return [Planned(stage.title, factor * stage.cost) for stage in self._stages(queries)]

    def _stages(self, queries: Entry) -> list[Planned]:
        train, held = queries.info["train"], queries.info["heldout"] if self.measure else 0
        sampled = _SAMPLE * self.recipe.generation.max_new_tokens / 160
        write = _CHOOSE if self.recipe.principles.strategy == "fixed" else _WRITE
        data = [
            Planned("", write * train),
            Planned("", 3 * sampled * train),
            Planned("", _SCORE * train),
            Planned("", 1),
        ]
        measuring = [Planned("", 3 * sampled * held), Planned("", _SCORE * held)] if held else []
        start = [Planned("", write * held), *measuring] if held else []
        if self.recipe.mode != "online":
            return [*start, *data]
        training = Planned("", _TRAIN * _KEPT * train * self.recipe.train.epochs)
        after = [*measuring, Planned("", _IMPLICIT * held)] if held else []
        return [*start, *[*data, training, *after] * self.recipe.rounds]

    def _summary(self, command: str, guards: Guards | None) -> Summary:
        policies = [
            {"round": of.policy.round, "label": f"after round {of.policy.round}" if of.policy.round else "before"}
            | measured(self.stages, of, self.heldout[0].rows)
            for of in self.heldout
        ]
        # What is handed out is compared with the start; where no round is good, the last is.
        best = [place for place, of in enumerate(self.heldout) if guards and of.policy.round == guards.best]
        last = best[0] if best else -1
        shown = [self.store.read(of.rows, Contrast) for of in self.heldout]
        return {
            "schema_version": 1,
            "name": self.recipe.name,
            "mode": self.recipe.mode,
            "model": self.stages.models.name,
            "principle_set": self.stages.principle_set.name,
            "version": selfsteer.__version__,
            "seed": self.recipe.seed,
            "created": self._created(),
            "command": command or f"selfsteer run {shlex.quote(str(self.store.run_dir / 'recipe.yaml'))}",
            "rounds": self.rounds,
            "policies": policies,
            "verdict": verdict(policies[0], policies[last]) if len(policies) > 1 else [],
            "samples": samples(shown[0], shown[last], self.recipe.evaluation.samples) if len(shown) > 1 else [],
            "guards": guards.summary() if guards else None,
            "stages": self.store.stages,
        }

    def _created(self) -> str:
        """Return when the results were made: a run that finds everything done keeps the time of the first."""
        before = read_json(self.store.run_dir / "summary.json")
        if isinstance(before, dict) and all(stage["reused"] for stage in self.store.stages) and "created" in before:
            return str(before["created"])
        return datetime.now(UTC).isoformat(timespec="seconds")
