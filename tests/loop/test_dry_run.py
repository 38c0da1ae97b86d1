"""Plans: what a run would do and why, on scripted runs and on a tiny model's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from selfsteer.config import Recipe
from selfsteer.files import read_json_lines
from selfsteer.loop import generate, run
from selfsteer.loop.dry_run import changed, plan
from selfsteer.loop.run import open_stages
from selfsteer.runs.plan_step import StepState
from selfsteer.runs.progress import Display
from selfsteer.runs.store import recorded_dependencies, stage_key
from selfsteer.stages.model_pool import ModelPool, Policy
from tests.run_helpers import scripted_recipe, small_recipe, without_reports


def _plan(recipe, run_dir, *, measure=True):
    return plan(open_stages(recipe, run_dir, Display(quiet=True)), measure=measure)


def _states(steps) -> list[tuple[str, str]]:
    return [(step.title, str(step.state)) for step in steps]


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in [folder, *folder.rglob("*")]}


@pytest.fixture
def copied(scripted_run, tmp_path) -> Path:
    return Path(shutil.copytree(scripted_run, tmp_path / "run", symlinks=True))


def test_a_new_run_is_all_to_do_and_its_folder_is_not_made(queries, tmp_path):
    steps = _plan(scripted_recipe(queries), tmp_path / "none")
    assert {step.state for step in steps} == {StepState.TODO} and {step.why for step in steps} == {""}
    assert not (tmp_path / "none").exists()


def test_a_finished_run_is_all_done_in_the_order_in_which_it_was_done(queries, scripted_run):
    before = _snapshot(scripted_run)
    steps = _plan(scripted_recipe(queries), scripted_run)
    assert {step.state for step in steps} == {StepState.DONE}
    done = [(row["stage"], row["round"], row["key"]) for row in read_json_lines(scripted_run / "ledger.jsonl")]
    assert [(step.entry.stage, step.entry.round, step.entry.key) for step in steps] == done
    assert _snapshot(scripted_run) == before


def test_a_changed_filter_redoes_what_depends_on_it_and_says_which(queries, scripted_run):
    steps = _plan(scripted_recipe(queries, quality={"filters": ["identical"]}), scripted_run)
    redone = [step for step in steps if step.state is not StepState.DONE]
    assert _states(redone) == [("quality control, round 1", "redo")]
    assert redone[0].why.startswith("quality.filters [") and redone[0].why.endswith('-> ["identical"]')


def test_a_changed_length_redoes_all_that_follows_each_with_its_reason(queries, scripted_run):
    generation = {"backend": "scripted", "max_new_tokens": 12}
    why = {step.title: step.why for step in _plan(scripted_recipe(queries, generation=generation), scripted_run)}
    assert why == {
        "read queries": "",
        "choose aspects, held-out, before": "",
        "sample responses, held-out, before": "generation.max_new_tokens 18 -> 12",
        "clean and score, held-out, before": "the responses changed",
        "choose aspects, round 1": "",
        "sample responses, round 1": "generation.max_new_tokens 18 -> 12",
        "clean and score, round 1": "the responses changed",
        "quality control, round 1": "the scores changed",
    }


@pytest.mark.parametrize(
    ("base", "change", "title", "why"),
    [
        (
            {},
            {"generation": {"roles": {"original": {"temperature": 0}}}},
            "sample responses, round 1",
            'generation.roles null -> {"original": [0.0, 0.8]}',
        ),
        (
            {"generation": {"roles": {"original": {"temperature": 0}}}},
            {"generation": {"roles": {"original": {"temperature": 1.0, "top_p": 1.0}}}},
            "sample responses, held-out, before",
            "generation.roles original.0 0.0 -> 1.0",
        ),
        ({}, {"principles": {"choice": "shuffled"}}, "choose aspects, round 1", "principles.choice first -> shuffled"),
        (
            {},
            {"principles": {"choice_temperature": 0.7}},
            "choose aspects, held-out, before",
            "principles.choice_temperature 0.0 -> 0.7",
        ),
        (
            {"principles": {"choice_temperature": 0.7}},
            {"principles": {"choice_temperature": 0.7}, "generation": {"top_p": 1.0}},
            "choose aspects, round 1",
            "generation.top_p 0.8 -> 1.0",
        ),
    ],
)
def test_how_something_is_drawn_is_a_reason(queries, tmp_path, base, change, title, why):
    def recipe(sections):
        values = scripted_recipe(queries).model_dump()
        for name, settings in sections.items():
            values[name] |= settings
        return Recipe.model_validate(values)

    with without_reports():
        run(recipe(base), tmp_path / "run")
    found = {step.title: step.why for step in _plan(recipe(change), tmp_path / "run")}
    assert why in found[title]


def test_other_queries_in_the_same_file_are_a_reason(copied, tmp_path, queries):
    other = tmp_path / "queries.txt"
    shutil.copy(queries, other)
    recipe = scripted_recipe(other)
    with without_reports():
        run(recipe, copied)
    other.write_text(other.read_text(encoding="utf-8") + "One more?\n", encoding="utf-8")
    first = _plan(recipe, copied)[0]
    assert (first.state, first.why) == (StepState.REDO, "the content of the queries changed")


def test_an_edited_chat_template_is_a_reason_and_redoes_all_that_the_model_says(tiny_chat_model, queries, tmp_path):
    model = Path(shutil.copytree(tiny_chat_model, tmp_path / "model"))
    recipe = small_recipe(model, queries, mode="data-only")
    with without_reports():
        run(recipe, tmp_path / "run")
    assert {step.state for step in _plan(recipe, tmp_path / "run")} == {StepState.DONE}
    template = model / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("You help.", "You hinder."), encoding="utf-8")
    first, *others = _plan(recipe, tmp_path / "run")
    assert (first.title, first.state) == ("read queries", StepState.DONE) and len(others) == 7
    assert {step.state for step in others} == {StepState.REDO}
    why = {step.title: step.why for step in others}
    said = "the model (weights, tokenizer, chat template, end tokens) "
    assert why["sample responses, round 1"].startswith(said) and why["clean and score, round 1"].startswith(said)


def test_arguments_of_vllm_that_act_on_texts_are_a_part_of_the_key(queries, tmp_path):
    def engine(**options):
        recipe = scripted_recipe(queries, generation={"backend": "vllm", "vllm": options})
        return ModelPool(recipe, tmp_path).sampling_key(Policy(0, "model", "name", "vllm"))

    assert engine(gpu_memory_utilization=0.5) == engine() and engine(max_model_len=64) == [
        *engine(),
        {"max_model_len": 64},
    ]


def test_files_that_are_gone_are_a_reason(queries, copied):
    (gone,) = (copied / "round-01/contrasts").glob("*.parquet")
    gone.unlink()
    last = _plan(scripted_recipe(queries), copied)[-1]
    assert (last.state, last.why) == (StepState.REDO, f"its files are gone: {gone.relative_to(copied)}")


def test_a_stage_that_was_killed_goes_on(queries, copied):
    lines = (copied / "ledger.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (copied / "ledger.jsonl").write_text("".join(lines[:-1]), encoding="utf-8")
    last = _plan(scripted_recipe(queries), copied)[-1]
    assert (last.state, last.why) == (StepState.TODO, "continues: a part of it is on disk")


def test_an_old_ledger_is_understood_and_its_reasons_are_unknown(queries, copied):
    rows = read_json_lines(copied / "ledger.jsonl")
    assert all(row.pop("depends") for row in rows)
    (copied / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert {step.state for step in _plan(scripted_recipe(queries), copied)} == {StepState.DONE}
    last = _plan(scripted_recipe(queries, quality={"filters": ["identical"]}), copied)[-1]
    assert last.state is StepState.REDO and last.why.startswith("reason unknown: ")


def test_a_setting_taken_back_finds_the_first_result(queries, copied):
    with without_reports():
        run(scripted_recipe(queries, quality={"filters": ["identical"]}), copied)
    assert {step.state for step in _plan(scripted_recipe(queries), copied)} == {StepState.DONE}


def test_generating_plans_no_held_out_stage(queries, tmp_path):
    recipe = scripted_recipe(queries)
    with without_reports():
        generate(recipe, tmp_path / "run")
    steps = _plan(recipe, tmp_path / "run", measure=False)
    assert [step.slot[0] for step in steps] == ["queries", "principles", "responses", "scores", "contrasts"]
    assert {step.state for step in steps} == {StepState.DONE}


class _Said(Display):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a_run_says_before_it_starts_what_it_redoes_and_why(queries, copied):
    said = _Said()
    with without_reports():
        run(scripted_recipe(queries, quality={"filters": ["identical"]}), copied, display=said)
    redone, first, *rest = said.lines[2:]  # after the versions and the backend
    assert redone.startswith("      redone: quality control, round 1: quality.filters ")
    assert "read queries" in first and not any("redone" in line for line in rest)


def test_a_plan_has_the_stages_of_a_run_of_a_model(tiny_chat_model, queries, tmp_path):
    """Two rounds and a judge: the plan's titles are those that the run's display and summary have."""
    recipe = small_recipe(tiny_chat_model, queries, rounds=2, train__epochs=1, judge={"name": "program:shorter"})
    fresh = _plan(recipe, tmp_path / "run")
    with without_reports():
        summary = run(recipe, tmp_path / "run")
    assert [step.title for step in fresh] == [stage["stage"] for stage in summary["stages"]]
    assert _states(_plan(recipe, tmp_path / "run")) == [(stage["stage"], "done") for stage in summary["stages"]]


def test_what_waits_for_a_policy_is_after_that(tiny_chat_model, queries, tmp_path):
    """No key is looked up behind a policy that is not there; the start's own stages are."""
    recipe = small_recipe(tiny_chat_model, queries, rounds=2)
    states = {step.title: step.state for step in _plan(recipe, tmp_path / "none")}
    assert states["train, round 1"] is StepState.TODO
    waiting = [title for title, state in states.items() if state is StepState.AFTER]
    assert waiting == list(states)[list(states).index("train, round 1") + 1 :]
    assert "sample responses, round 2" in waiting and "train, round 2" in waiting


def test_a_plan_of_many_rounds_hashes_no_verdict_that_no_ledger_can_have(
    tiny_chat_model, queries, tmp_path, monkeypatch
):
    """The key of a round's verdict is made of all stages before it: tried for each round, this takes minutes."""
    asked: list[int] = []
    monkeypatch.setattr("selfsteer.loop.dry_run.verdict_depends", lambda *of: asked.append(len(of[2])) or {})
    steps = _plan(small_recipe(tiny_chat_model, queries, rounds=20), tmp_path / "none")
    assert sum(step.slot[0] == "policy" for step in steps) == 20 and asked == []


def test_lines_of_a_change_name_each_redone_stage(queries, scripted_run):
    generation = {"backend": "scripted", "max_new_tokens": 12}
    lines = list(changed(_plan(scripted_recipe(queries, generation=generation), scripted_run)))
    assert len(lines) == 5 and all(line.startswith("      redone: ") for line in lines)
    assert not list(changed(_plan(scripted_recipe(queries), scripted_run)))


def test_a_plan_of_several_rounds_knows_the_template_of_policies_that_are_not_trained_yet(
    tiny_chat_model, queries, tmp_path
):
    """A writer of principles goes by it: the role that every policy's prompts take."""
    written = {"principles__strategy": "guideline", "principles__model": {"name": "scripted"}}
    recipe = small_recipe(tiny_chat_model, queries, rounds=2, **written)
    steps = _plan(recipe, tmp_path / "run")
    assert [step.slot for step in steps if step.slot[0] == "policy"] == [("policy", 1, False), ("policy", 2, False)]


def test_the_ledger_keeps_what_a_key_was_made_of_and_of_long_values_the_fingerprint():
    depends = {"settings": {"betas": (0.9, 0.95)}, "queries": [["q", "text"]] * 1000}
    found = recorded_dependencies("policy", depends)
    assert found["settings"] == {"betas": [0.9, 0.95]} and len(found["queries"]) == 16
    assert json.loads(json.dumps(found)) == found
    assert stage_key("policy", depends) != stage_key("policy", {**depends, "seed": 1})
