"""The reward models of a table of the paper: trained on its runs' pairs, scored on labelled pairs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from selfsteer.config import JudgeSettings, from_values
from selfsteer.config.paper import PaperReward
from selfsteer.errors import SelfsteerError
from selfsteer.evaluation.benchmarks import BENCHMARKS
from selfsteer.judges.agreement import agreement
from selfsteer.judges.tables import Judged
from selfsteer.queries import is_split
from selfsteer.reward.recipe import RewardRecipe, Trained
from selfsteer.runs.progress import Display
from selfsteer.stages.judgements import judge_with_cache
from selfsteer.workflows.evaluate_reward import benchmarks_of, read_sets, sections_of
from selfsteer.workflows.judge import open_judges
from selfsteer.workflows.reproduce_plan import TablePlan
from selfsteer.workflows.reproduce_results import Cell, RewardRow
from selfsteer.workflows.reward import reward

_SPLIT = "filtered"
"""RewardBench's split of the pairs that count."""


def reward_rows(
    plan: TablePlan,
    folder: Path,
    preferences: str | None,
    labelled: Sequence[str],
    display: Callable[[], Display],
) -> list[RewardRow]:
    """Train and score the reward models of a table; [] for a table without any.

    A variant whose data can't be had has a row that says why.

    Args:
        preferences: A source of annotated pairs in place of the table's.
        labelled: Labelled pairs in place of the table's.
    """
    settings = plan.paper.table.reward
    if settings is None:
        return []
    published = plan.paper.table.paper.get(settings.model, {})
    values, lacking = reward_values(plan, settings, folder / "runs", preferences)
    rows = [RewardRow(settings.model, name, published.get(name, {}), {}, why) for name, why in lacking.items()]
    for variant in values["variants"]:
        names = values["variants"][variant]
        own = values | {
            "name": f"{plan.paper.name}-{variant}",
            "variants": {variant: names},
            "sets": {name: values["sets"][name] for name in names},
        }
        cells: dict[str, Cell] = {}
        why = ""
        try:
            recipe = from_values(RewardRecipe, own, (), plan.paper.name)
            place = folder / "reward" / variant
            reward(recipe, place, display=display())
            model = place / "models" / str(Trained(variant, recipe.seeds[0]))
            cells = _scored(model, labelled or settings.evaluate, plan, folder / "judgements")
        except SelfsteerError as error:
            why = f"{error.what} ({error.where})" if error.where else error.what
        rows.append(RewardRow(settings.model, variant, published.get(variant, {}), cells, why))
    order = list(settings.recipe["variants"])
    return sorted(rows, key=lambda row: order.index(row.run))


def reward_values(
    plan: TablePlan, settings: PaperReward, runs: Path, preferences: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of a reward recipe whose variants can be trained, and why the others can't."""
    values: dict[str, Any] = copy.deepcopy(settings.recipe)
    done = {row.run: row for row in plan.rows if row.model == settings.model}
    recipe = next((row.recipe for row in plan.rows if row.model == settings.model and row.recipe), None)
    scale = copy.deepcopy(plan.paper.scale.reward)
    values["options"] = values.get("options", {}) | scale.get("options", {})
    if plan.paper.lora:
        values["options"]["lora"] = {"r": plan.paper.lora["train.lora.r"], "alpha": plan.paper.lora["train.lora.alpha"]}
    values["model"] = recipe.model.name if recipe else ""
    limit = plan.paper.scale.annotated.get("preferences.limit")
    why: dict[str, str] = {}
    for name, one in values["sets"].items():
        run = one["source"].removeprefix("run:")
        if run == one["source"]:
            one |= {"limit": limit} if limit else {}
            if preferences is not None:
                one |= {"source": preferences}
                one.pop("dataset_split", None)
        elif done[run].why or recipe is None:
            why[name] = f"the run {run} is not done: {done[run].why or 'no model is named'}"
        else:
            one["source"] = str(runs / done[run].done_by)
    lacking = {variant: why[name] for variant, names in values["variants"].items() for name in names if name in why}
    if recipe is None:
        lacking = dict.fromkeys(values["variants"], next(iter(done.values())).why)
    values["variants"] = {name: sets for name, sets in values["variants"].items() if name not in lacking}
    return values, lacking


def _scored(model: Path, sources: Sequence[str], plan: TablePlan, cache: Path) -> dict[str, Cell]:
    """Return a reward model's RewardBench score and sections, or its share of other pairs."""
    paths = [Path(source) for source in sources]
    limit = plan.paper.scale.reward.get("evaluate_limit")
    split = _SPLIT if any(is_split(source) for source in sources) else None
    sets = read_sets(paths, limit=limit, split=split)
    judge = open_judges(JudgeSettings(), [f"reward:{model}"])[0]
    judged: Judged = judge_with_cache(judge, [pair for one in sets for pair in one.pairs], cache)
    figures = agreement(judged.judgements)
    cells: dict[str, Cell] = {}
    if figures.debiased.share is not None:
        low, high = (100 * end for end in figures.debiased.interval or (0, 0))
        n = figures.n_labelled
        cells["reward.accuracy"] = Cell(100 * figures.debiased.share, low, high, n, n)
    known = benchmarks_of(judged)
    if "rewardbench" in known:
        benchmark = BENCHMARKS["rewardbench"]
        sections = sections_of(benchmark, judged)
        for section in sections:
            if section.share is not None:
                low, high = (100 * end for end in section.interval or (0, 0))
                cells[f"reward.{section.name}"] = Cell(100 * section.share, low, high, section.n, section.expected)
        if (score := benchmark.score(sections)) is not None:
            cells["reward.score"] = Cell(100 * score, None, None, figures.n_labelled, figures.n_labelled)
    return cells
