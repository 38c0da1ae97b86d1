"""`selfsteer reward`: each variant of a recipe is trained once a seed, and all models are scored on the same pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from selfsteer.config import dump_recipe
from selfsteer.estimate.model_shape import source_of
from selfsteer.files import link_atomic, storage_errors, write_atomic, write_json
from selfsteer.loop.dry_run import DryRunStore
from selfsteer.models.single_slot import give_back
from selfsteer.reward.recipe import RewardRecipe, Trained
from selfsteer.runs.ledger import StageRecord, check_place
from selfsteer.runs.plan_step import PlanStep, StepState
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store
from selfsteer.workflows.reward_results import Results, as_markdown
from selfsteer.workflows.reward_stages import MODELS, RewardStages, log_file


def reward(recipe: RewardRecipe, run_dir: Path, *, display: Display | None = None, command: str = "") -> Results:
    """Do whatever of a reward recipe is not done yet in ``run_dir`` and return the figures of all models.

    Every stage is keyed by what it depends on: a second call finds everything done, a changed setting redoes what
    depends on it, and a killed training goes on from its last whole checkpoint, to the same weights.

    Raises:
        InputError: The recipe, a source, a file to evaluate on or the base can't be used; or ``run_dir`` holds
            something else.
        NothingSurvived: No pair is left to train on.
        WorkFailed: A training failed, or another process works in ``run_dir``; what was finished stays.
    """
    check_place(run_dir, "reward")
    work = RewardStages(recipe, Store(run_dir, display or Display(quiet=True)))
    with work.store.display, storage_errors(run_dir), work.store.locked():
        write_atomic(run_dir / "recipe.yaml", dump_recipe(recipe))
        results = _results(work, command)
        write_json(run_dir / "results.json", results)
        write_atomic(run_dir / "results.md", as_markdown(results))
        return results


def planned_rewards(recipe: RewardRecipe, run_dir: Path) -> list[PlanStep]:
    """Return the stages that :func:`reward` goes through, with their states. Nothing is written, fetched or loaded.

    Raises :class:`InputError` as :func:`reward`, or if the base is one of the catalogue that is not here yet.
    """
    check_place(run_dir, "reward")
    source_of(recipe.model.name)
    store = DryRunStore(Store(run_dir, Display(quiet=True)))
    work = RewardStages(recipe, store)
    data = {one: work.data_stage(one) for one in recipe.trainings}
    undrawn = {one for one, step in zip(recipe.trainings, list(store.steps), strict=True) if step.todo}
    for one in recipe.trainings:
        first = len(store.steps)
        trained = work.train_stage(one, data[one])
        for name in recipe.evaluate:
            work.score_stage(one, trained, name)
        if one in undrawn:  # the pairs that it is trained on name all that comes of it
            store.steps[first:] = [replace(step, state=StepState.AFTER, why="") for step in store.steps[first:]]
    for name in recipe.evaluate:
        work.length_stage(name)
    return store.steps


def _results(work: RewardStages, command: str) -> Results:
    work.check_model()
    recipe, store = work.recipe, work.store
    trainings, files = recipe.trainings, recipe.evaluate
    each = [60.0, *(10.0 for name in files)]
    first, last = [1.0] * len(trainings), [1.0] * len(files)
    store.display.plan([*first, *each * len(trainings), *last])
    data = {one: work.data_stage(one) for one in trainings}
    work.check_margins(data)
    made = [_train_and_score(work, one, data[one]) for one in trainings]
    length = {name: work.length_stage(name).info for name in files}
    return {
        "schema_version": 1,
        "name": recipe.name,
        "command": command,
        "base": recipe.model.name,
        "sets": {name: {"source": settings.source, "what": work.sources[name].what}
                 for name, settings in recipe.sets.items()},
        "models": made,
        "length": length,
    }  # fmt: skip


def _train_and_score(work: RewardStages, one: Trained, data: StageRecord) -> dict[str, Any]:
    entry = work.train_stage(one, data)
    work.log(one).restore(log_file(work.store.workspace(MODELS, entry.key)))
    give_back()  # a trainer refers to itself, and holds weights, gradients and the optimiser's moments
    folder = work.store.files(entry)[0]
    scores = {name: work.score_stage(one, entry, name).info for name in work.recipe.evaluate}
    write_atomic(folder / "README.md", work.card(one, data.info, entry.info, scores))
    link = folder.parent / str(one)
    if not link.is_symlink() or link.resolve() != folder.resolve():
        link_atomic(link, folder)
    own = {"variant": one.variant, "seed": one.seed, "folder": f"models/{one}"}
    return own | {"data": data.info, "training": entry.info, "accuracy": scores}
