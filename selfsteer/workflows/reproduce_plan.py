"""The rows of a table of the paper, and the runs that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selfsteer.config import Recipe, Setting, load_recipe
from selfsteer.config.paper import Paper, PaperRun
from selfsteer.principles import load_set, pair_for, steering_message
from selfsteer.workflows.sweep_variants import Variant, naming


@dataclass(frozen=True)
class Row:
    """A cell's row: a model of the table, and what is done with it.

    Attributes:
        model, run: Their names in the table.
        label: Of the run, for readers.
        recipe: Of the run; of an unchanged model, how it is loaded. None where the model is not named.
        done_by: The name of the run whose policy it is; "" for an unchanged model.
        system_prompt: What an unchanged model is asked with.
        paper: The published figures by column.
        why: Why it can't be run, "" where it can.
    """

    model: str
    run: str
    label: str
    recipe: Recipe | None = None
    done_by: str = ""
    system_prompt: str = ""
    paper: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    @property
    def name(self) -> str:
        """Of its results."""
        return f"{self.model}_{self.run}"


@dataclass(frozen=True)
class TablePlan:
    """The rows of a table, and the runs by whose policies they are filled; equal runs are one."""

    paper: Paper
    rows: list[Row]
    variants: list[Variant]


def plan_table(
    paper: Paper,
    overrides: Sequence[str] = (),
    models: Mapping[str, str] | None = None,
    *,
    preferences: str | None = None,
    sizes: bool = False,
) -> TablePlan:
    """Return the rows and runs of a table at a scale.

    Args:
        overrides: ``key=value`` settings of every run.
        models: By a model's name in the table, the model to take.
        preferences: A source of annotated pairs in place of the table's.
        sizes: For an estimate: a known model of the same size stands for each that has one.

    Raises:
        ConfigError: A setting is wrong, or a model is named that the table does not have.
    """
    rows, variants = list[Row](), list[Variant]()
    for model in paper.table.models:
        name = _model_name(paper, model, models or {}, sizes=sizes)
        for run, what in paper.table.runs.items():
            row = Row(model, run, what.label, paper=paper.table.paper.get(model, {}).get(run, {}))
            if name is None:
                about = paper.table.models[model].about
                rows.append(replace(row, why=f"no model is named: --model {model}=NAME ({about})"))
                continue
            with naming(row.name):
                settings = _settings(paper, what, name, preferences)
                title = Setting("name", f"{paper.name}-{row.name}", paper.name)
                recipe = load_recipe(paper.table.recipe, overrides, [title, *settings])
            if what.unchanged:
                system = _positive(recipe, what.principles) if what.principles else ""
                rows.append(replace(row, recipe=recipe, system_prompt=system))
                continue
            bare = recipe.model_copy(update={"name": ""})
            same = (one for one in variants if one.recipe.model_copy(update={"name": ""}) == bare)
            done_by = None if sizes else next(same, None)  # one model may stand for the sizes of two
            if done_by is None:
                values = {setting.key: setting.value for setting in settings}
                done_by = Variant(row.name, row.name, values, recipe)
                variants.append(done_by)
            rows.append(replace(row, recipe=recipe, done_by=done_by.name))
    return TablePlan(paper, rows, variants)


def _model_name(paper: Paper, model: str, given: Mapping[str, str], *, sizes: bool) -> str | None:
    own = paper.table.models[model]
    if sizes and paper.scale.stand_in is None and own.like:
        return own.like
    return given.get(model) or paper.scale.stand_in or own.name


def _settings(paper: Paper, run: PaperRun, model: str, preferences: str | None) -> list[Setting]:
    """Return the settings of a run, those that act later after those before."""
    table, scale = paper.table, paper.scale
    own = flat(run.settings)
    own = {key: value for key, value in own.items() if not any(_below(key, one) for one in scale.ignored)}
    annotated = "preferences.source" in own
    if annotated:
        own["quality.filters"] = run.settings["quality.filters"]  # the scale's look at steered prompts
    values = flat(table.settings) | {"model": model} | paper.lora | flat(scale.settings)
    if own.get("mode") is None and load_recipe(table.recipe).mode == "generator":
        values |= flat(scale.generator)
    values |= flat(scale.annotated) if annotated else {}
    values |= own
    if annotated and preferences is not None:
        values |= {"preferences.source": preferences, "preferences.dataset_split": "train"}
    if paper.lora and "train.lora.r" in own:
        values |= {key: value for key, value in paper.lora.items() if key.startswith("train.lora.")}
    return [Setting(key, value, f"{paper.name}, {key}") for key, value in values.items()]


def _below(key: str, start: str) -> bool:
    return key == start or key.startswith(f"{start}.")


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def _positive(recipe: Recipe, aspects: Sequence[str]) -> str:
    """Return the positive steering message of a set's aspects; of its first ones where it lacks these."""
    chosen = load_set(recipe.principles.set)
    known = {aspect.name for aspect in chosen.choosable}
    own = [name for name in aspects if name in known] or [one.name for one in chosen.choosable[:1]]
    if recipe.principles.steering:
        chosen = chosen.model_copy(update={"steering": recipe.principles.steering})
    return steering_message(pair_for(chosen, own), "positive")
