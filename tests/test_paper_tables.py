"""recipes/paper/: every recipe of every table loads, at every scale, with whole weights and with adapters."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from selfsteer.config import from_values, load_recipe
from selfsteer.config.paper import load_paper, shipped_tables
from selfsteer.errors import ConfigError
from selfsteer.evaluation.benchmarks.table import model_benchmarks
from selfsteer.reward.recipe import RewardRecipe
from selfsteer.workflows.reproduce_plan import plan_table
from selfsteer.workflows.reproduce_reward import reward_values

TABLES = sorted(shipped_tables())
SCALES = ("full", "small", "tiny")
ISSUED = {f"v1-table{n}" for n in (1, 2, 3, 4, 5, 6, 7, 12)} | {f"v2-table{n}" for n in range(1, 7)} | {"v2-figure3"}


def named(paper) -> dict[str, str]:
    """Give each model of a table without a name one of its own."""
    return {name: f"me/{name}" for name, model in paper.table.models.items() if model.name is None}


def test_the_tables_are_those_of_both_versions():
    assert set(TABLES) == ISSUED


@pytest.mark.parametrize("adapters", ["", "-lora"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TABLES)
def test_every_run_of_every_table_is_a_recipe(name, scale, adapters):
    paper = load_paper(name + adapters, scale)
    plan = plan_table(paper, (), named(paper) if scale == "full" else {})
    assert len(plan.rows) == len(paper.table.models) * len(paper.table.runs)
    assert not [row for row in plan.rows if row.why or row.recipe is None]
    assert all((row.recipe.train.lora is not None) for row in plan.rows) or not adapters
    runs = {variant.name for variant in plan.variants}
    assert {row.done_by for row in plan.rows} - {""} == runs
    if scale == "full":
        trained = [row.name for row in plan.rows if not paper.table.runs[row.run].unchanged]
        assert sorted(runs) == sorted(trained), "at full scale no two runs of a table are equal"
    else:
        assert {row.recipe.model.name for row in plan.rows} == {paper.scale.stand_in}
        assert {row.recipe.generation.backend for row in plan.rows} == {"transformers"}
    if settings := paper.table.reward:
        values, lacking = reward_values(plan, settings, Path("runs"), None)
        assert not lacking
        assert from_values(RewardRecipe, values | {"name": name}).variants == settings.recipe["variants"]


@pytest.mark.parametrize("name", TABLES)
def test_a_column_is_a_figure_that_is_measured(name):
    table = load_paper(name).table
    for source in table.columns.values():
        benchmark, _, metric = source.partition(".")
        if benchmark == "signal":
            assert metric in ("accuracy", "onpolicyness")
        elif benchmark == "reward":
            assert table.reward and metric in ("score", "Chat", "Chat Hard", "Safety", "Reasoning")
        else:
            assert metric in ("length", model_benchmarks()[benchmark].official)


@pytest.mark.parametrize("name", TABLES)
def test_a_header_has_command_hardware_hours_and_the_estimates_command(name):
    text = shipped_tables()[name].read_text(encoding="utf-8")
    head = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    whole = " ".join(head)
    assert f"selfsteer reproduce {name} " in whole and "Hardware: 8 H100" in whole and "Expected: " in whole
    start = next(place for place, line in enumerate(head) if line.startswith("selfsteer estimate "))
    command = shlex.split(" ".join(line.rstrip("\\") for line in head[start : start + 3]))
    overrides = [word for word in command[3:] if "=" in word]
    assert load_recipe(command[2], overrides).model.name and "--gpu" in command


def test_both_scopes_of_the_weight_are_run():
    for name in ("v1-table1", "v1-table2", "v1-table5", "v1-table6", "v1-table7", "v1-table12"):
        paper = load_paper(name)
        plan = plan_table(paper, (), named(paper))
        scopes = {(row.model, row.recipe.train.weight_scope) for row in plan.rows if "sso" in row.run}
        trained = {row.model for row in plan.rows if "sso" in row.run}
        assert scopes == {(model, scope) for model in trained for scope in ("all", "steering")}


def test_the_baselines_of_2026_are_rows():
    for name in ("v1-table1", "v1-table2", "v2-table1"):
        runs = load_paper(name).table.runs
        assert {"prompt-only", "sft", "pbaa", "ultrafeedback-dpo", "rlcd", "self-distillation"} <= runs.keys()


def test_a_prompt_only_row_has_the_positive_principles_of_its_set():
    paper = load_paper("v1-table2")
    rows = {row.run: row for row in plan_table(paper).rows}
    assert "helpful" in rows["prompt-only"].system_prompt and not rows["start"].system_prompt
    tiny = {row.run: row for row in plan_table(load_paper("v1-table2", "tiny")).rows}
    assert "at most 20 words" in tiny["prompt-only"].system_prompt, "the set of the small scales has other aspects"


def test_a_model_that_is_not_published_has_to_be_named():
    plan = plan_table(load_paper("v1-table1"), (), {"qwen2-7b-sft": "me/mine"})
    why = {row.model: row.why for row in plan.rows}
    assert "--model llama3.1-8b-sft=NAME" in why["llama3.1-8b-sft"] and not why["qwen2-7b-sft"]
    assert {variant.recipe.model.name for variant in plan.variants} == {"me/mine"}


def test_an_estimate_counts_the_runs_of_two_models_of_one_size():
    plan = plan_table(load_paper("v2-table1"), sizes=True)
    assert {variant.name.partition("_")[0] for variant in plan.variants} == set(plan.paper.table.models)


def test_an_unknown_table_has_a_suggestion():
    with pytest.raises(ConfigError, match="v1-table1"):
        load_paper("v1-tabel1")
