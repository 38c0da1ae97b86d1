"""One command from queries to the report: the rounds of a recipe, stage by stage, in a run directory."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selfsteer.config import Recipe, TrainSettings
from selfsteer.errors import ConfigError, ModelError, did_you_mean
from selfsteer.estimate.costs import Sizes
from selfsteer.estimate.fit import fitted, launch_of_recipe
from selfsteer.estimate.forecast import costs_of, warn_of_disk
from selfsteer.evaluation import verdict
from selfsteer.files import link_atomic, read_json, remove, storage_errors, write_json
from selfsteer.jobs.nodes import Leader, follow
from selfsteer.jobs.ranks import node_rank
from selfsteer.loop.dry_run import changed, plan
from selfsteer.loop.guards import Guards, check_criterion
from selfsteer.loop.opening import opening_lines
from selfsteer.loop.rounds import Walk
from selfsteer.records import Contrast
from selfsteer.report import write_report
from selfsteer.runs.events import Callback
from selfsteer.runs.ledger import Slot, StageRecord, check_place
from selfsteer.runs.pipeline import stage
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store
from selfsteer.stages.context import Pass, RunContext
from selfsteer.stages.engines import check_engines
from selfsteer.stages.heldout import heldout_measures, samples
from selfsteer.stages.model_checks import check_models
from selfsteer.stages.principle_strategies import check_draws
from selfsteer.stages.queries import QueriesResult, queries_stage
from selfsteer.stages.round_stats import round_figures
from selfsteer.stages.trainers import check_trainer
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
    depends on it, and an interrupted run resumes. A run that a guard ended returns as well, and a second
    call says the same: ``selfsteer.loop.guards.stopped`` makes an error of its summary.

    With ``sweep_dir``, the folder of a sweep, stages that another run in it has done are taken from there.

    With ``train.nodes`` above 1, a node that is not the first gives its processes to the trainings of the first, and
    returns that one's summary.

    Raises:
        InputError: The recipe, the queries, the principle set or the model can't be used.
        WorkFailed: A stage failed; what was finished stays.
    """
    stages = open_stages(recipe, run_dir, display or Display(quiet=True), callbacks, sweep_dir)
    return _work(stages, command)


def generate(recipe: Recipe, run_dir: Path, *, display: Display | None = None, command: str = "") -> Summary:
    """Make the preference data of a recipe's first round and nothing else: no policy is trained, nothing is measured.

    Memory does not grow with the number of queries. :func:`run` with the same recipe finds these stages done.
    """
    return _work(open_stages(recipe, run_dir, display or Display(quiet=True)), command, whole=False)


def open_stages(
    recipe: Recipe,
    run_dir: Path,
    display: Display,
    callbacks: Sequence[Callback] = (),
    sweep_dir: Path | None = None,
    *,
    runs_code: bool = True,
) -> RunContext:
    """Return the stages of a recipe over a run directory; nothing is written or loaded yet.

    ``runs_code`` as for :class:`selfsteer.stages.model_pool.ModelPool`.

    Raises:
        InputError: The principle set can't be used, or the directory holds what `selfsteer reward` has made.
    """
    check_place(run_dir, "run")
    return RunContext.from_recipe(recipe, Store(run_dir, display, callbacks, sweep_dir), runs_code=runs_code)


def _work(context: RunContext, command: str, *, whole: bool = True) -> Summary:
    run_dir = context.store.run_dir
    check(context)
    nodes, recipe = context.launch.meeting.nodes, context.recipe.model_dump(mode="json")
    if nodes > 1 and node_rank():
        follow(run_dir, recipe, context.launch.meeting.timeout)
        return dict(read_json(run_dir / "summary.json"))
    with context.store.display, storage_errors(run_dir), context.store.locked(), ExitStack() as stack:
        if nodes > 1:
            leader = Leader(run_dir, nodes, recipe)
            stack.enter_context(leader.leading())
            context.launch = dataclasses.replace(context.launch, leader=leader)
        context.keep_settings()
        for line in opening_lines(context):
            context.store.display.say(line)
        try:
            summary = _Run(context, whole).go(command)
        finally:
            context.models.free()
        write_json(run_dir / "summary.json", summary)
        write_report(run_dir)
        return summary


def check(context: RunContext) -> None:
    """Check what the recipe names before anything is computed: filters, direction, judge, bits of weights, losses."""
    context.check_filters()
    context.check_programs()
    check_draws(context.recipe, context.principle_set)
    context.check_models()
    check_criterion(context)
    if context.principle_set.steering == "adjectives" and context.recipe.principles.strategy != "fixed":
        what = "adjectives alone would steer, so the principles that are written would have no effect"
        raise ConfigError(what, where="principles.steering", do="set principles.strategy=fixed, or another steering")
    if context.recipe.judge.name:
        from selfsteer.judges.registry import make_judge, runs_code

        if context.models.runs_code or not runs_code(context.recipe.judge):
            make_judge(context.recipe.judge)
    if context.models.writer:
        context.models.writer.check()
    # Asking for the device raises where there is no such one.
    check_engines(context.recipe, "" if context.models.weightless else context.models.device)
    if "vllm" in (context.recipe.generation.backend, context.models.writer and context.models.writer.backend):
        from selfsteer.backends.vllm import check_installed

        check_installed()
    if context.models.bits:
        from selfsteer.models import check_bits

        check_bits(context.models.bits, context.models.device, where="train.lora.bits")
    if context.recipe.trains:
        from selfsteer.policy.objective import objective_of

        train = context.recipe.train
        check_optimizer(train)
        check_trainer(train.objective)
        context.launch = launch_of_recipe(context.recipe, context.models.device)
        if not objective_of(train).compares and train.reference != "round-start":
            what = f"{train.base_loss} compares with no reference, so train.reference has no effect"
            raise ConfigError(what, where="train.reference", do="leave it out, or take another base_loss")
        if context.recipe.mode == "generator":
            objective_of(context.recipe.generator)


def check_optimizer(train: TrainSettings) -> None:
    """Raise :class:`ConfigError` for an optimizer that transformers has not."""
    if train.optimizer != "adamw":
        from transformers.training_args import OptimizerNames

        known = {"adamw", *(one.value for one in OptimizerNames)}
        if train.optimizer not in known:
            what = f"unknown optimizer {train.optimizer!r}"
            raise ConfigError(what, where="train.optimizer", do=did_you_mean(train.optimizer, known))


class _Run:
    """One run: walks the stages, and keeps the figures they leave for the summary."""

    def __init__(self, context: RunContext, whole: bool) -> None:
        self.context, self.recipe, self.whole = context, context.recipe, whole
        self.store, self.display = context.store, context.store.display
        self.rounds: list[dict[str, Any]] = []
        self.heldout: list[Pass] = []

    def go(self, command: str) -> Summary:
        context, models = self.context, self.context.models
        steps = plan(context, measure=self.whole, say=self.display.say)
        for line in changed(steps):
            self.display.say(line)
        if any(step.todo for step in steps):
            check_models(context, models.initial_policy(self.display.say), measures=self.whole)
        self.display.plan([_expected(step.slot, Sizes(1, 1)) for step in steps])  # their number is known by now
        queries = queries_stage(context.recipe, context.store)
        found = QueriesResult.of(queries)
        sizes = Sizes(found.train, found.heldout if self.whole else 0)
        warn_of_disk(context, steps, sizes)
        if context.launch.processes and models.device.startswith("cuda") and any(step.todo for step in steps):
            self._fit(sizes)
        self.display.plan([_expected(step.slot, sizes) for step in steps])
        start = models.initial_policy(self.display.say)
        walk = Walk(context, queries, measures=self.whole, on_record=self._note)
        guards = Guards(context, start, self.rounds, self.heldout) if walk.trains else None
        walk.run(start, guards)
        return self._summary(command, guards)

    def _fit(self, sizes: Sizes) -> None:
        """Choose the trainings' strategy by the memory of a GPU, and say so; raises as :func:`fitted`."""
        import torch

        with suppress(ModelError):  # a model that can't be estimated may still run
            costs = costs_of(self.context, sizes)
            capacity = torch.cuda.get_device_properties(0).total_memory
            precision = self.context.models.precision(self.recipe.train.precision)
            self.context.launch, told = fitted(costs, self.context.launch, precision, capacity)
            self.display.say(told)

    def _note(self, state: Pass, name: str, record: StageRecord) -> None:
        """Keep what a stage leaves for the summary; hand out or discard weights."""
        match state.split, name:
            case "heldout", "scores":
                self.heldout.append(state)
            case "train", "contrasts":
                self.rounds.append(round_figures(state))
                if self.recipe.mode == "generator":
                    # A generator's weights go once it has answered, unless the recipe keeps them.
                    weights = Path(state.writer.path)
                    link = weights.parent / "policy"
                    if self.recipe.generator.keep:
                        self.context.models.make(state.writer)
                        link_atomic(link, weights)
                    elif weights.is_relative_to(self.store.run_dir):  # nothing outside it is ever removed
                        remove(link)
                        remove(weights)
            case "train", "policy":
                self.rounds[-1]["training"] = record.info
                link_atomic(
                    self.store.run_dir / f"round-{state.number:02d}" / "policy", self.store.run_dir / record.files[0]
                )

    def _summary(self, command: str, guards: Guards | None) -> Summary:
        policies = [
            {"round": of.number, "label": f"after round {of.number}" if of.number else "before"} | heldout_measures(of)
            for of in self.heldout
        ]
        # What is handed out is compared with the start; where no round is good, the last is.
        best = [place for place, of in enumerate(self.heldout) if guards and of.number == guards.best]
        last = best[0] if best else -1
        # Who wrote the responses where that was not a policy of the run.
        offline = self.recipe.mode == "offline" and not self.recipe.preferences.source
        generation = self.recipe.generation
        stand_in = str(generation.endpoint.model or generation.backend) if generation.weightless else None
        # A run that finds everything done keeps the time of the first.
        before = read_json(self.store.run_dir / "summary.json")
        created = datetime.now(UTC).isoformat(timespec="seconds")
        if isinstance(before, dict) and all(stage["reused"] for stage in self.store.stages):
            created = str(before.get("created", created))
        shown = [self.store.read(of.records["scores"], Contrast) for of in self.heldout]
        return {
            "schema_version": 1,
            "name": self.recipe.name,
            "mode": self.recipe.mode if guards else "data-only",
            "model": self.context.models.name,
            "annotated": self.recipe.preferences.source,
            "writer": (generation.model or stand_in) if offline else None,
            "principle_set": self.context.principle_set.name,
            "version": __version__,
            "seed": self.recipe.seed,
            "created": created,
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


def _expected(slot: Slot, sizes: Sizes) -> float:
    """Return what a stage of the plan is expected to cost, for the time left."""
    name, _, heldout = slot
    return stage(name).seconds * (sizes.heldout if heldout else sizes.train)
