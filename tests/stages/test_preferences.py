"""Annotated preferences: the checks of a recipe look at their prompts, and at no query that nothing is trained on."""

from __future__ import annotations

import json

import pytest

from selfsteer.config import Recipe
from selfsteer.errors import ConfigError, DataError
from selfsteer.loop.dry_run import plan
from selfsteer.loop.run import open_stages
from selfsteer.records import Contrast
from selfsteer.runs.plan_step import StepState
from selfsteer.runs.progress import Display
from selfsteer.stages.context import RunContext
from selfsteer.stages.preferences import preferences_stage
from selfsteer.stages.queries import queries_stage

QUESTIONS = [f"Question {i}: what happens to the river {i} when it meets the sea number {i}?" for i in range(8)]
HELD = "Tell me in a few words how a lighthouse keeper spends a long winter night alone on his island."
GERMAN = "Erkläre mir bitte in wenigen Sätzen, warum der Himmel am Abend rot wird und am Mittag blau ist."


@pytest.fixture
def read(tmp_path):
    """Read pairs with these prompts under some query settings; returns the stages, the queries' entry and theirs."""

    def read(prompts, **settings) -> tuple[RunContext, dict, dict]:
        lines(tmp_path / "pairs.jsonl", [{"prompt": one, "chosen": "Yes, so.", "rejected": "No."} for one in prompts])
        stages = open_stages(recipe(tmp_path, **settings), tmp_path / "run", Display(quiet=True))
        queries = queries_stage(stages.recipe, stages.store)
        return stages, queries, preferences_stage(stages, queries)

    lines(tmp_path / "queries.jsonl", QUESTIONS)
    lines(tmp_path / "held.jsonl", [HELD])
    return read


def recipe(folder, model="none", **settings) -> Recipe:
    queries = {"source": str(folder / "queries.jsonl"), "heldout": str(folder / "held.jsonl")}
    return Recipe.model_validate(
        {"mode": "offline", "preferences": {"source": str(folder / "pairs.jsonl")}, "queries": queries | settings}
        | {"train": {"objective": "base"}, "quality": {"filters": ["identical"]}, "model": {"name": str(model)}}
    )


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def left_out(stages, entry):
    return [json.loads(line) for line in (stages.store.files(entry)[0].parent / f"{entry.key}-left-out.jsonl").open()]


def test_every_check_looks_at_the_pairs_and_none_at_the_queries(tmp_path, read):
    bench = lines(tmp_path / "bench.jsonl", [{"question": QUESTIONS[3]}])
    near = [
        HELD.replace("few", "hundred"),
        "How do plants make sugar out of light?",
        "How do plants make sugar of light?",
    ]
    prompts = [QUESTIONS[2], QUESTIONS[3].upper(), GERMAN, "Hm?", "so " * 70, *near, HELD]
    settings = {"min_chars": 5, "max_chars": 200, "languages": ["en"], "near_duplicates": 0.7, "decontaminate": [bench]}
    stages, queries, pairs = read(prompts, **settings)
    assert queries.info["train"] == 8 and queries.info["left_out"] == 0, "nothing is trained on them"
    kept = [row.prompt[0]["content"] for row in stages.store.read(pairs, Contrast)]
    assert kept == [QUESTIONS[2], near[1]] and pairs.info["pairs"] == 2
    found = left_out(stages, pairs)
    names = ["contaminated", "language", "too_short", "too_long", "near_duplicate", "near_duplicate", None]
    assert [line.get("check") for line in found] == names
    source = str(tmp_path / "pairs.jsonl")
    assert [line["where"] for line in found] == [f"{source}:{number}" for number in (2, 3, 4, 5, 6, 8, 9)]
    assert found[0]["benchmark"] == bench and found[5]["of"] == "pairs.jsonl-7"
    assert pairs.info["contaminated"] == {bench: 1} and pairs.info["faults"]["near_duplicate"] == 2
    assert pairs.info["left_out"] == 7 and pairs.info["dropped"][0]["reason"].startswith("shares words with")


def test_pairs_of_one_prompt_stay_unless_near_duplicates_are_left_out(read):
    assert read([QUESTIONS[0]] * 3)[2].info["pairs"] == 3
    assert read([QUESTIONS[0]] * 3, near_duplicates=0.9)[2].info["pairs"] == 1


def test_no_pair_left_says_why(tmp_path, read):
    with pytest.raises(DataError, match="no pair is left of 8 rows: shares words with the benchmark"):
        read(QUESTIONS, decontaminate=[lines(tmp_path / "bench.jsonl", QUESTIONS)])


def test_an_unknown_language_is_refused_before_anything_is_read(tmp_path, read, tiny_chat_model):
    with pytest.raises(ConfigError, match="unknown language 'eng'"):
        plan(
            open_stages(recipe(tmp_path, tiny_chat_model, languages=["eng"]), tmp_path / "run", Display(quiet=True)),
            measure=True,
        )


def test_the_pairs_depend_on_the_checks_and_the_benchmarks_and_the_queries_do_not(tmp_path, read, tiny_chat_model):
    settings = {"decontaminate": [lines(tmp_path / "bench.jsonl", QUESTIONS[:1])]}
    _, queries, pairs = read(QUESTIONS, **settings)
    assert read(QUESTIONS, **settings)[2].key == pairs.key
    lines(tmp_path / "bench.jsonl", QUESTIONS[:2])
    _, again, fewer = read(QUESTIONS, **settings)
    assert again.key == queries.key and (pairs.info["pairs"], fewer.info["pairs"]) == (7, 6)
    changed = open_stages(
        recipe(tmp_path, tiny_chat_model, **settings, min_chars=3), tmp_path / "run", Display(quiet=True)
    )
    steps = {step.title: step for step in plan(changed, measure=False)}
    assert steps["read queries"].state is StepState.DONE
    assert steps["read preferences"].why == "queries.min_chars null -> 3"


def mixed(tmp_path, bad: int) -> None:
    """Write eight pairs among so many rows that are none."""
    good = [json.dumps({"prompt": one, "chosen": "Yes, so.", "rejected": "No."}) for one in QUESTIONS]
    (tmp_path / "pairs.jsonl").write_text("\n".join([*good, *['{"prompt": "Hm?"}', "{torn"] * (bad // 2)]))


def test_rows_that_are_no_pairs_are_left_out_named_and_told(tmp_path, read, capsys):
    read(QUESTIONS)
    mixed(tmp_path, 6)
    stages = open_stages(recipe(tmp_path), tmp_path / "run", Display(quiet=False))
    entry = preferences_stage(stages, queries_stage(stages.recipe, stages.store))
    assert (entry.info["pairs"], entry.info["unusable"], entry.info["rows"]) == (8, 6, 14)
    source = tmp_path / "pairs.jsonl"
    assert [line["where"] for line in left_out(stages, entry)] == [f"{source}:{number}" for number in range(9, 15)]
    said = capsys.readouterr().err.replace("\n", " ")
    assert (
        "8 pairs to train on, 6 left out (a row has the keys prompt, which is not a known form of a preference pair"
        in said
    )
    assert f"(3 rows, first at {source}:9); see round-01/preferences/{entry.key}-left-out.jsonl)" in said


def test_the_share_acts_on_a_finished_stage_and_redoes_nothing(tmp_path, read):
    read(QUESTIONS)
    mixed(tmp_path, 10)
    with pytest.raises(
        DataError, match=r"10 of 18 rows can't be used, more than the share of 0\.5 that queries\.max_left"
    ):
        preferences_stage(
            stages := open_stages(recipe(tmp_path), tmp_path / "run", Display(quiet=True)),
            queries_stage(stages.recipe, stages.store),
        )
    loose = open_stages(recipe(tmp_path, max_left_out=0.6), tmp_path / "run", Display(quiet=True))
    assert (
        preferences_stage(loose, queries_stage(loose.recipe, loose.store)).info["pairs"] == 8
        and loose.store.stages[-1]["reused"]
    )
