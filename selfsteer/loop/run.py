"""One command from queries to the report: the rounds of a recipe, stage by stage, in a run directory."""

from __future__ import annotations

import dataclasses
import shlex
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from selfsteer.config import Recipe
from selfsteer.errors import ConfigError, PrincipleError, SelfsteerWarning
from selfsteer.estimate.costs import Sizes
from selfsteer.estimate.forecast import warn_of_disk
from selfsteer.estimate.progress_weights import planned
from selfsteer.evaluation import verdict
from selfsteer.evaluation.steerability import Direction
from selfsteer.files import link_atomic, read_json, remove, storage_errors, write_json
from selfsteer.loop.dry_run import changed, plan
from selfsteer.loop.guards import Guards, check_criterion
from selfsteer.records import ROLES, Contrast
from selfsteer.report import write_report
from selfsteer.runs.events import Callback
from selfsteer.runs.ledger import StageRecord, check_place
from selfsteer.runs.plan_step import PlanStep
from selfsteer.runs.progress import Display, PlannedStage
from selfsteer.runs.store import Store
from selfsteer.stages.context import RunContext
from selfsteer.stages.heldout import (
    HeldoutResult,
    direction_on,
    heldout_measures,
    heldout_rows,
    implicit_stage,
    samples,
)
from selfsteer.stages.judgements import judged_stage
from selfsteer.stages.model_checks import check_models
from selfsteer.stages.model_pool import Policy
from selfsteer.stages.preferences import preferences_stage, scored_preferences
from selfsteer.stages.principle_strategies import check_draws
from selfsteer.stages.reference import References, RoundData, trained_on, training_rows
from selfsteer.stages.round_stats import RoundStages, quality_figures, round_figures
from selfsteer.stages.training import Training, restore_log, train_stage
from selfsteer.version import __version__

Summary = dict[str, Any]


def run(
    recipe: Recipe,
    run_dir: Path,
    *,
    display: Display | None = None,
    command: str = "",
    callbacks: Sequence[Callback] = (),
    sweep_dir: Path | None = None,
) -> Summary:
    """Do whatever of a recipe is not done yet in ``run_dir`` and return the summary that the report shows.

    Every stage is keyed by what it depends on: a second call finds everything done, a changed setting redoes only what
    depends on it, and a killed run goes on where it stopped. A run that a guard ended returns as well, and a second
    call says the same: ``selfsteer.loop.guards.stopped`` makes an error of its summary.

    With ``sweep_dir``, the folder of a sweep, stages that another run in it has done are taken from there.

    Raises:
        InputError: The recipe, the queries, the principle set or the model can't be used.
        WorkFailed: A stage failed; what was finished stays.
    """
    stages = open_stages(recipe, run_dir, display or Display(quiet=True), callbacks, sweep_dir)
    return _work(stages, command)


def generate(recipe: Recipe, run_dir: Path, *, display: Display | None = None, command: str = "") -> Summary:
    """Make the preference data of a recipe's first round and nothing else: no policy is trained, nothing is measured.

    Memory does not grow with the number of queries. :func:`run` with the same recipe finds these stages done.

    Raises:
        InputError, WorkFailed: As :func:`run`.
    """
    return _work(open_stages(recipe, run_dir, display or Display(quiet=True)), command, whole=False)


def open_stages(
    recipe: Recipe,
    run_dir: Path,
    display: Display,
    callbacks: Sequence[Callback] = (),
    sweep_dir: Path | None = None,
) -> RunContext:
    """Return the stages of a recipe over a run directory; nothing is written or loaded yet.

    Raises:
        InputError: The principle set can't be used, or the directory holds what `selfsteer reward` has made.
    """
    check_place(run_dir, "run")
    return RunContext.of(recipe, Store(run_dir, display, callbacks, sweep_dir))


def _work(stages: RunContext, command: str, *, whole: bool = True) -> Summary:
    run_dir = stages.store.run_dir
    check(stages)
    with stages.store.display, storage_errors(run_dir), stages.store.locked():
        stages.keep_settings()
        try:
            summary = _Run(stages.recipe, stages, whole).go(command)
        finally:
            stages.models.free()
        write_json(run_dir / "summary.json", summary)
        write_report(run_dir)
        return summary


def check(stages: RunContext) -> None:
    """Check what the recipe names before anything is computed: filters, direction, judge, bits of weights, losses."""
    stages.check_filters()
    stages.check_programs()
    check_draws(stages.recipe, stages.principle_set)
    stages.check_models()
    check_criterion(stages)
    if stages.principle_set.steering == "adjectives" and stages.recipe.principles.strategy != "fixed":
        what = "adjectives alone would steer, so the principles that are written would have no effect"
        raise ConfigError(what, where="principles.steering", do="set principles.strategy=fixed, or another steering")
    if stages.recipe.judge.name:
        from selfsteer.judges import make_judge

        make_judge(stages.recipe.judge)
    if stages.models.writer:
        stages.models.writer.check()
    if not stages.models.weightless:
        stages.models.device  # noqa: B018  # raises where there is no such device
    if "vllm" in (stages.recipe.generation.backend, stages.models.writer and stages.models.writer.backend):
        from selfsteer.backends.vllm import check_installed

        check_installed()
    if stages.models.bits:
        from selfsteer.models import check_bits

        check_bits(stages.models.bits, stages.models.device, where="train.lora.bits")
    if stages.recipe.trains:
        _check_losses(stages.recipe)


def _check_losses(recipe: Recipe) -> None:
    from selfsteer.policy.objective import objective_of

    objective = objective_of(recipe.train)
    if recipe.train.reference != "round-start" and not objective.compares:
        what = f"{recipe.train.base_loss} compares with no reference, so train.reference has no effect"
        raise ConfigError(what, where="train.reference", do="leave it out, or take another base_loss")
    if recipe.mode == "generator":
        objective_of(recipe.generator)


class _Run:
    """The stages of one run in their order, and the figures they leave for the summary."""

    def __init__(self, recipe: Recipe, stages: RunContext, whole: bool) -> None:
        self.recipe, self.stages, self.whole = recipe, stages, whole
        self.trains = whole and recipe.trains
        self.store, self.display = stages.store, stages.store.display
        self.rounds: list[dict[str, Any]] = []
        self.made: list[RoundData] = []
        self.heldout: list[HeldoutResult] = []

    def go(self, command: str) -> Summary:
        steps = self._announce()
        if any(step.todo for step in steps):
            check_models(self.stages, self.stages.models.initial_policy(self.display.say), measures=self.whole)
        queries = self.stages.queries()
        held = queries.info["heldout"] if self.whole else 0
        warn_of_disk(self.stages, steps, Sizes(queries.info["train"], held))
        self.display.plan(
            [PlannedStage("", 1.0), *planned(self.recipe, queries.info["train"], held, trains=self.trains)]
        )
        policy = self.stages.models.initial_policy(self.display.say)
        references = References(self.stages, policy)
        principles = self._measure_start(queries, policy)
        if not self.trains:
            self._make(1, queries, policy)
            return self._summary(command, None)
        guards = Guards(self.stages, policy, self.rounds, self.heldout)
        for number in range(1, self.recipe.rounds + 1):
            guards.close(number, guards.attempt(partial(self._round, number, queries, principles, references)))
            # What a round that is given up was trained on is not trained on again.
            self.made = [one for one in self.made if one.contrasts.round in guards.good]
            if guards.ended:
                break
        return self._summary(command, guards)

    def _round(
        self, number: int, queries: StageRecord, principles: StageRecord | None, references: References, policy: Policy
    ) -> Policy:
        reference = references.of(policy)
        self._make(number, queries, policy)
        trained = self._train(number, policy, reference)
        self._measure(principles, trained)
        return trained

    def _measure_start(self, queries: StageRecord, policy: Policy) -> StageRecord | None:
        """The start chooses the held-out principles for all policies, so that these stay comparable."""
        if not (self.whole and queries.info["heldout"]):
            return None
        principles = self.stages.principles(queries, "heldout", 0, policy)
        entry = heldout_rows(self.stages, principles, policy)
        check = self._check_direction if self.recipe.writes_itself else self._judged
        judged = check(entry, "heldout", 0)
        self.heldout.append(HeldoutResult(policy, entry, None, judged))
        return principles

    def _measure(self, principles: StageRecord | None, policy: Policy) -> None:
        if principles:
            entry = heldout_rows(self.stages, principles, policy)
            implicit = implicit_stage(self.stages, self.heldout[0].rows, policy)
            self.heldout.append(HeldoutResult(policy, entry, implicit, self._judged(entry, "heldout", policy.round)))

    def _announce(self) -> list[PlanStep]:
        """Tell which stages a change has to redo, and why, before any is done."""
        steps = plan(self.stages, measure=self.whole, say=self.display.say)
        for line in changed(steps):
            self.display.say(line)
        return steps

    def _judged(self, entry: StageRecord, split: str, round: int) -> StageRecord | None:
        return judged_stage(self.stages, entry, split, round)

    def _check_direction(self, entry: StageRecord, split: str, round: int) -> StageRecord | None:
        """Refuse to train a policy away from what its principles say; what nobody can tell is not refused.

        Returns the stage in which the recipe's judge was asked, None where it names none.
        """
        judged = self._judged(entry, split, round)
        found = direction_on(self.stages, entry, judged)
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

    def _check_unmeasured(self, scores: StageRecord, number: int) -> None:
        """Without held-out pairs of who writes the data, the first training pairs tell whether it follows them."""
        heldout_measures = self.heldout and self.recipe.writes_itself
        if self.whole and number == 1 and not heldout_measures:
            # The first block of rows is enough to tell, however many there are.
            self._check_direction(dataclasses.replace(scores, files=scores.files[:1]), "train", number)

    def _make(self, number: int, queries: StageRecord, policy: Policy) -> None:
        """Make a round's data, each row scored by the policy that is to be trained."""
        if self.recipe.preferences.source:
            made = self._read_preferences(queries, policy)
        elif self.recipe.mode == "generator":
            made = self._make_by_generator(number, queries, policy)
        else:
            made = self._make_by_writer(number, queries, policy)
        self.made.append(RoundData(made.contrasts, policy))
        self.rounds.append(round_figures(number, made))

    def _make_by_writer(self, number: int, queries: StageRecord, policy: Policy) -> RoundStages:
        """The newest policy answers, or in mode offline whom the recipe names."""
        writer = self.stages.models.responder_model(policy, self.display.say)
        principles = self.stages.principles(queries, "train", number, writer, reader=policy)
        return self._answered(number, queries, principles, writer, policy, ROLES)

    def _make_by_generator(self, number: int, queries: StageRecord, policy: Policy) -> RoundStages:
        """v2: a generator is trained from the policy on part of the queries; it answers all of them under x+ and x-."""
        principles = self.stages.principles(queries, "train", number, policy)
        generator, figures = self._generator(number, principles, policy)
        made = self._answered(number, queries, principles, generator, policy, ROLES[:2])
        self._keep_or_discard(generator)
        return made._replace(generator=figures)

    def _keep_or_discard(self, generator: Policy) -> None:
        """A generator has answered: its weights go, unless the recipe wants them."""
        weights = Path(generator.path)
        link = weights.parent / "policy"
        if self.recipe.generator.keep:
            self.stages.models.make(generator)
            link_atomic(link, weights)
        else:
            remove(link)
            remove(weights)

    def _generator(self, number: int, principles: StageRecord, policy: Policy) -> tuple[Policy, dict[str, Any]]:
        """Train the generator on what the policy answers to the first queries."""
        stages, limit = self.stages, self.recipe.generator.queries
        responses = stages.responses(principles, "generator", number, policy, limit=limit)
        scores = stages.scores(principles, responses, "generator", number, policy)
        self._check_unmeasured(scores, number)
        contrasts = stages.contrasts(scores, number, "generator")
        training = Training("generator", number, [contrasts], policy, policy)
        entry, generator = train_stage(stages, training)
        restore_log(stages, training, entry)
        figures = {"quality": quality_figures(contrasts.info), "data": scores.info["figures"], "training": entry.info}
        return generator, figures

    def _answered(
        self,
        number: int,
        queries: StageRecord,
        principles: StageRecord,
        writer: Policy,
        policy: Policy,
        roles: Sequence[str],
    ) -> RoundStages:
        """Let ``writer`` answer, and ``policy`` score the answers."""
        stages = self.stages
        responses = stages.responses(principles, "train", number, writer, roles=roles)
        scores = stages.scores(principles, responses, "train", number, writer, roles=roles, scorer=policy)
        if self.recipe.mode != "generator":  # there the policy's own answers have told
            self._check_unmeasured(scores, number)
        contrasts = stages.contrasts(scores, number)
        asked = len(stages.asked(queries, "train", number))
        return RoundStages([queries, principles, responses, scores], asked, scores, contrasts, principles, responses)

    def _read_preferences(self, queries: StageRecord, policy: Policy) -> RoundStages:
        preferences = preferences_stage(self.stages, queries)
        scores = scored_preferences(self.stages, preferences, policy)
        contrasts = self.stages.contrasts(scores, 1)
        return RoundStages([preferences, scores], preferences.info["pairs"], scores, contrasts)

    def _train(self, number: int, policy: Policy, reference: Policy) -> Policy:
        """Train the policy on the round's data, and on those of older rounds where the recipe says so."""
        rows = training_rows(self.stages, number, trained_on(self.recipe, self.made), reference)
        training = Training("policy", number, rows, policy, reference)
        entry, trained = train_stage(self.stages, training)
        restore_log(self.stages, training, entry)
        self.rounds[-1]["training"] = entry.info
        link_atomic(self.store.run_dir / f"round-{number:02d}" / "policy", self.store.run_dir / entry.files[0])
        return trained

    def _summary(self, command: str, guards: Guards | None) -> Summary:
        policies = [
            {"round": of.policy.round, "label": f"after round {of.policy.round}" if of.policy.round else "before"}
            | heldout_measures(self.stages, of, self.heldout[0].rows)
            for of in self.heldout
        ]
        # What is handed out is compared with the start; where no round is good, the last is.
        best = [place for place, of in enumerate(self.heldout) if guards and of.policy.round == guards.best]
        last = best[0] if best else -1
        shown = [self.store.read(of.rows, Contrast) for of in self.heldout]
        return {
            "schema_version": 1,
            "name": self.recipe.name,
            "mode": self.recipe.mode if self.trains else "data-only",
            "model": self.stages.models.name,
            "annotated": self.recipe.preferences.source,
            "writer": self._writer_name(),
            "principle_set": self.stages.principle_set.name,
            "version": __version__,
            "seed": self.recipe.seed,
            "created": self._created(),
            "command": command or f"selfsteer run {shlex.quote(str(self.store.run_dir / 'recipe.yaml'))}",
            "rounds": self.rounds,
            "policies": policies,
            "verdict": [
                *(guards.verdict() if guards else []),
                *(verdict(policies[0], policies[last]) if len(policies) > 1 else []),
            ],
            "samples": samples(shown[0], shown[last], self.recipe.evaluation.samples) if len(shown) > 1 else [],
            "guards": guards.summary() if guards else None,
            "stages": self.store.stages,
        }

    def _writer_name(self) -> str | None:
        """Return who wrote the responses where that was not a policy of the run."""
        generation = self.recipe.generation
        if self.recipe.mode != "offline" or self.recipe.preferences.source:
            return None
        return generation.model or (
            str(generation.endpoint.model or generation.backend) if generation.weightless else None
        )

    def _created(self) -> str:
        """Return when the results were made: a run that finds everything done keeps the time of the first."""
        before = read_json(self.store.run_dir / "summary.json")
        if isinstance(before, dict) and all(stage["reused"] for stage in self.store.stages) and "created" in before:
            return str(before["created"])
        return datetime.now(UTC).isoformat(timespec="seconds")
