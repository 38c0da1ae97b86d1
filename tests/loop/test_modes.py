"""The modes, what a round is compared with and trained on, and the baselines: whole runs on the tiny model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from selfsteer.config import load_recipe
from selfsteer.errors import ConfigError, DataError, SelfsteerWarning
from selfsteer.files import read_json_lines
from selfsteer.logprobs.score_keys import ScoreKey
from selfsteer.loop import generate, run
from selfsteer.loop.dry_run import plan
from selfsteer.loop.run import open_stages
from selfsteer.policy.objective import objective_of
from selfsteer.records import Contrast, Query, read_rows
from selfsteer.runs.progress import Display
from selfsteer.stages.model_pool import Policy
from selfsteer.stages.queries import of_round
from selfsteer.stages.reference import References
from tests.conftest import build_model, build_tokenizer
from tests.run_helpers import QUERIES, contrasts, policy_hash, small_recipe, stages

MODES = Path(__file__).parents[2] / "docs/modes.md"
GENERATOR = {
    "mode": "generator",
    "generator__queries": 4,
    "generator__batch_size": 4,
    "generator__learning_rate": 1e-3,
    "train__epochs": 1,
    "queries__heldout": 2,
}


def planned(recipe, run_dir):
    steps = plan(open_stages(recipe, run_dir, Display(quiet=True)), measure=True)
    return [(step.title, str(step.state)) for step in steps]


def rows_of(run_dir, pattern):
    return sorted(read_rows(sorted(run_dir.glob(f"{pattern}/*.parquet")), Contrast), key=lambda row: row.id)


def key_of(folder):
    """The key of a policy's weights, as scores carry it."""
    from selfsteer.logprobs.score_keys import weights_key
    from selfsteer.models import load_model

    return weights_key(load_model(str(folder), dtype="float32"))


# --- the baselines that docs/modes.md names


def documented() -> list[str]:
    """The overrides in the table of baselines, as they are typed; "..." stands for a value of the reader's."""
    section = MODES.read_text(encoding="utf-8").partition("## Baselines and ablations")[2].partition("\n## ")[0]
    cells = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ")]
    found = [span for cell in cells for span in re.findall("`([^`]+)`", cell)]
    return [span for span in found if "=" in span and "..." not in span]


@pytest.mark.parametrize("typed", documented())
def test_a_documented_baseline_is_as_many_keys_as_it_says_in_the_shipped_recipes(typed, tmp_path):
    online, generator = ["quickstart", "rounds", "sso-v1"], ["generator", "sso-v2"]
    fitting = {
        "generator": generator,
        "train.objective=sft": online + generator,
        "principles.strategy": ["sso-v2"],
        "mode=offline": ["quickstart", "sso-v1", "pbaa-v1"],
    }
    names = next((names for start, names in fitting.items() if typed.startswith(start)), online)
    for name in names:
        recipe = load_recipe(name, typed.split())
        assert recipe != load_recipe(name), name
        objective_of(recipe.train)
        open_stages(recipe, tmp_path / name, Display(quiet=True)).check_filters()


def test_the_baselines_of_the_paper_are_documented():
    for start in (
        "train.objective=sft",
        "mode=offline rounds=1 preferences=",
        "principles.strategy=guideline principles.m",
    ):
        assert any(typed.startswith(start) for typed in documented()), start


# --- the data generator of v2


@pytest.fixture(scope="module")
def generated(tmp_path_factory, tiny_chat_model, queries):
    run_dir = tmp_path_factory.mktemp("runs") / "generator"
    return run_dir, run(small_recipe(tiny_chat_model, queries, **GENERATOR), run_dir)


def test_a_generator_is_trained_on_part_of_the_queries_and_answers_all(generated, tiny_chat_model):
    run_dir, summary = generated
    trained, answered = rows_of(run_dir, "round-01/generator/contrasts"), contrasts(run_dir)
    assert len(trained) == 4 and len(answered) == 8
    assert {row.id for row in trained} < {row.id for row in answered}
    assert all(row.original_response and row.original_token_ids for row in trained)
    assert {row.original_finish for row in answered} == {"absent"}, "only x+ and x- are answered"
    assert {row.provenance["model"] for row in answered} == {f"{tiny_chat_model}, generator of round 1"}
    figures = summary["rounds"][0]
    kept = sum(row.kept for row in answered)
    assert figures["generator"]["training"]["examples"] == 4 and figures["training"]["examples"] == kept >= 6
    assert (figures["generator"]["training"]["objective"], figures["training"]["objective"]) == ("generator", "base")
    assert figures["responses"]["responses"] == 16
    assert (tiny_chat_model / "config.json").is_file(), "the weights that go are the generator's"


def test_its_rows_are_scored_by_the_policy_that_is_trained_on_them(generated, tiny_chat_model):
    rows = [row for row in contrasts(generated[0]) if row.kept]
    start = key_of(tiny_chat_model)
    assert {ScoreKey.stored(row).weights for row in rows} == {start}
    assert all(row.scores["positive_response"]["negative_prompt"] < 0 for row in rows)
    assert all(not row.scores["original_response"] or not any(row.scores["original_response"].values()) for row in rows)


def test_both_trainings_are_logged_and_told_apart(generated):
    lines = read_json_lines(generated[0] / "metrics.jsonl")
    assert [(line["stage"], line["step"]) for line in lines] == [("generator", 1), ("train", 1), ("train", 2)]
    assert lines[0]["loss/steering"] == pytest.approx(2 * 0.693147, rel=1e-4), "L+ and L-, each ln 2 at the start"
    assert "rewards/base/margin" in lines[1] and "rewards/positive/margin" not in lines[1]
    page = (generated[0] / "report.html").read_text(encoding="utf-8")
    assert "1, the generator" in page and "1, for the generator" in page


def test_its_weights_are_removed_and_a_second_run_does_nothing(generated, tmp_path, tiny_chat_model, queries):
    run_dir = shutil.copytree(generated[0], tmp_path / "run", symlinks=True)
    assert not list(run_dir.glob("round-01/generator/**/*.safetensors"))
    summary = run(small_recipe(tiny_chat_model, queries, **GENERATOR), run_dir)
    assert all(stage["reused"] for stage in summary["stages"])
    assert not list(run_dir.glob("round-01/generator/**/*.safetensors"))


def test_a_plan_of_a_generators_run_has_its_stages(generated, tmp_path, tiny_chat_model, queries):
    run_dir, summary = generated
    recipe, titles = small_recipe(tiny_chat_model, queries, **GENERATOR), [s["stage"] for s in summary["stages"]]
    assert planned(recipe, run_dir) == [(title, "done") for title in titles]
    fresh = planned(recipe, tmp_path / "none")
    assert [title for title, _ in fresh] == titles
    assert [title for title, state in fresh if state == "to do"][-1] == "train the generator, round 1"
    assert {state for _, state in fresh} == {"to do", "after that"}


def test_a_harmful_y_minus_is_left_out_of_formula_3_and_counted(tmp_path, tiny_chat_model, queries):
    aspects = [
        {"name": name, "positive": "short", "negative": "long", "meaning": "is short", "extra": name == "Care",
         "positive_principle": f"{name}: answer shortly.", "negative_principle": f"{name}: answer at length.",
         "harmful_negative": name == "Care"}
        for name in ("Brevity", "Care")
    ]  # fmt: skip
    own = {"name": "own", "version": 1, "direction": "shorter", "aspects_per_query": 1, "aspects": aspects}
    (tmp_path / "own.yaml").write_text(json.dumps(own), encoding="utf-8")
    changes = GENERATOR | {"generator__queries": 10, "queries__heldout": 0, "generator__negative": "negative"}
    steer = {"principles__set": str(tmp_path / "own.yaml"), "principles__extra_rate": 0.5}
    recipe = small_recipe(tiny_chat_model, queries, **changes, **steer)
    with pytest.warns(SelfsteerWarning, match="flagged as harmful"):
        summary = generate(recipe, tmp_path / "run")
    rows = [row for row in rows_of(tmp_path / "run", "round-01/generator/contrasts") if row.kept]
    harmful = sum(bool(row.negative_harmful) for row in rows)
    trained = summary["rounds"][0]["generator"]["training"]
    assert 0 < harmful < len(rows)
    assert (trained["harmful_left_out"], trained["examples"]) == (harmful, len(rows) - harmful)


@pytest.mark.slow
def test_removed_weights_are_trained_again_where_they_are_needed(generated, tmp_path, tiny_chat_model, queries):
    """keep has no part in any stage's key, and the weights made again are those that answered."""
    run_dir = shutil.copytree(generated[0], tmp_path / "run", symlinks=True)
    summary = run(small_recipe(tiny_chat_model, queries, **GENERATOR, generator__keep=True), run_dir)
    assert all(stage["reused"] for stage in summary["stages"])
    assert (run_dir / "round-01/generator/policy/model.safetensors").is_file()
    new = run(small_recipe(tiny_chat_model, queries, **GENERATOR, generator__keep=True), tmp_path / "new")
    kept = [folder / "round-01/generator/policy/model.safetensors" for folder in (run_dir, tmp_path / "new")]
    assert kept[0].read_bytes() == kept[1].read_bytes()
    assert new["rounds"][0]["training"]["steps"] == 2 and policy_hash(tmp_path / "new") == policy_hash(run_dir)


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ({"train__beta": 0.2}, {"policy", "responses", "scores", "implicit"}),
        ({"generator__beta": 0.2}, {"generator", "responses", "scores", "contrasts", "policy", "implicit"}),
    ],
)
def test_a_changed_setting_redoes_its_dependants(generated, tmp_path, tiny_chat_model, queries, change, redone):
    run_dir = shutil.copytree(generated[0], tmp_path / "run", symlinks=True)
    before = len(stages(run_dir))
    run(small_recipe(tiny_chat_model, queries, **GENERATOR, **change), run_dir)
    assert {stage for stage, _ in stages(run_dir)[before:]} == redone


@pytest.mark.slow
def test_generate_makes_a_generators_data_and_trains_no_policy(tmp_path, tiny_chat_model, queries):
    recipe = small_recipe(tiny_chat_model, queries, **{**GENERATOR, "generator__terms": ["positive"]})
    summary = generate(recipe, tmp_path / "run")
    assert len(contrasts(tmp_path / "run")) == 8 and summary["mode"] == "data-only"
    assert {stage for stage, _ in stages(tmp_path / "run")} >= {"generator"}
    assert not (tmp_path / "run/policy").exists()


# --- rounds: queries, reference, older rounds


def test_the_queries_of_a_round():
    settings = small_recipe("m", "q").queries
    assert of_round(settings, 7, 2, 3) == range(7)
    split = settings.model_copy(update={"per_round": "split"})
    parts = [set(of_round(split, 7, number, 3)) for number in (1, 2, 3)]
    assert set.union(*parts) == set(range(7)) and sum(map(len, parts)) == 7
    stream = settings.model_copy(update={"per_round": "stream", "round_size": 2})
    assert [of_round(stream, 7, number, 3) for number in (1, 2, 3)] == [range(2), range(2, 4), range(4, 6)]
    with pytest.raises(DataError, match="7 training queries are too few for 4 rounds of 2"):
        of_round(stream, 7, 1, 4)


ROUNDS = {
    "rounds": 3,
    "queries__heldout": 0,
    "queries__per_round": "split",
    "train__epochs": 1,
    "train__older_rounds": 1,
}


@pytest.fixture(scope="module")
def averaged(tmp_path_factory, tiny_chat_model, queries):
    """Three rounds against a moving average, with the data of the round before in the mix."""
    run_dir = tmp_path_factory.mktemp("runs") / "ema"
    recipe = small_recipe(tiny_chat_model, queries, **ROUNDS, train__reference="ema", train__ema_decay=0.75)
    return run_dir, run(recipe, run_dir)


def test_rounds_have_disjoint_queries(averaged):
    ids = [{row.id for row in contrasts(averaged[0], number)} for number in (1, 2, 3)]
    assert len(set.union(*ids)) == sum(map(len, ids)) == len(QUERIES)


def test_a_plan_of_rounds_has_their_references(averaged, tiny_chat_model, queries):
    run_dir, summary = averaged
    recipe = small_recipe(tiny_chat_model, queries, **ROUNDS, train__reference="ema", train__ema_decay=0.75)
    assert planned(recipe, run_dir) == [(stage["stage"], "done") for stage in summary["stages"]]
    fresh = [title for title, _ in planned(recipe, run_dir / "none")]
    assert fresh == [stage["stage"] for stage in summary["stages"]]


def test_a_round_that_is_given_up_does_not_weigh_twice(monkeypatch, tiny_chat_model, queries, tmp_path):
    """Rounds 2 and 3 both start from round 1's policy, which enters the average once."""
    recipe = small_recipe(tiny_chat_model, queries, rounds=3, train__reference="ema")
    start = Policy(0, "start", "start")
    averages = []

    def average(stages, mean, policy):
        averages.append((mean.path, policy.path))
        return policy.trained(policy.round, f"average {policy.round}", "", "")

    monkeypatch.setattr("selfsteer.stages.reference.average_stage", average)
    references = References(open_stages(recipe, tmp_path, Display(quiet=True)), start)
    first = start.trained(1, "first", "first", "")
    assert [references.of(policy).path for policy in (start, first, first)] == ["start", "average 1", "average 1"]
    assert averages == [("start", "first")]


def test_the_average_moves_between_rounds_only(averaged, tiny_chat_model):
    from selfsteer.models import load_model

    run_dir = averaged[0]
    assert [slot for slot in stages(run_dir) if slot[0] == "average"] == [("average", 1), ("average", 2)]
    folders = [tiny_chat_model, run_dir / "round-01/policy", run_dir / "round-02/policy"]
    start, first, second = (dict(load_model(str(folder)).named_parameters()) for folder in folders)
    (after_first,), (after_second,) = (run_dir.glob(f"round-0{number}/average-*") for number in (1, 2))
    means = [dict(load_model(str(folder)).named_parameters()) for folder in (after_first, after_second)]
    for name, value in start.items():
        mean = 0.75 * value + 0.25 * first[name]
        torch.testing.assert_close(means[0][name], mean)
        torch.testing.assert_close(means[1][name], 0.75 * mean + 0.25 * second[name])


def test_later_rounds_train_on_older_rows_too_all_scored_by_the_reference(averaged):
    run_dir, summary = averaged
    assert ("reference", 1) not in stages(run_dir), "the first round's reference has scored its rows already"
    for number in (2, 3):
        rows = rows_of(run_dir, f"round-0{number}/reference")
        assert {row.round for row in rows} == {number - 1, number}
        (average,) = run_dir.glob(f"round-0{number - 1}/average-*")
        assert {ScoreKey.stored(row).weights for row in rows} == {key_of(average)}
    kept = [made["quality"]["kept"] for made in summary["rounds"]]
    assert [made["training"]["examples"] for made in summary["rounds"]] == [
        kept[0],
        kept[0] + kept[1],
        kept[1] + kept[2],
    ]


@pytest.mark.slow
def test_all_older_rows_and_the_first_policy_as_reference(averaged, tmp_path, tiny_chat_model, queries):
    run_dir = shutil.copytree(averaged[0], tmp_path / "run", symlinks=True)
    before = len(stages(run_dir))
    changes = ROUNDS | {"train__reference": "first", "train__older_rounds": "all"}
    summary = run(small_recipe(tiny_chat_model, queries, **changes), run_dir)
    assert ("policy", 1) not in stages(run_dir)[before:], "a first round has no other reference"
    kept = [made["quality"]["kept"] for made in summary["rounds"]]
    assert summary["rounds"][2]["training"]["examples"] == sum(kept)
    newest = max(run_dir.glob("round-03/reference/*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    assert {ScoreKey.stored(row).weights for row in read_rows([newest], Contrast)} == {key_of(tiny_chat_model)}


@pytest.mark.slow
def test_a_loss_without_reference_scores_no_row_again(tmp_path, tiny_chat_model, queries):
    changes = ROUNDS | {"rounds": 2, "train__base_loss": "simpo", "train__beta": 2.0, "queries__limit": 6}
    summary = run(small_recipe(tiny_chat_model, queries, **changes), tmp_path / "run")
    assert not [stage for stage, _ in stages(tmp_path / "run") if stage == "reference"]
    assert summary["rounds"][1]["training"]["examples"] == 6
    recipe = small_recipe(tiny_chat_model, queries, **changes, train__reference="first")
    with pytest.raises(ConfigError, match="simpo compares with no reference"):
        run(recipe, tmp_path / "run")


def test_an_older_setting_of_a_later_round_is_not_in_force(averaged):
    """The average belongs to the round that made it, and comes before the next round's data."""
    from selfsteer.runs.active import active_records
    from selfsteer.runs.ledger import Ledger

    entries = [entry for entry in Ledger(averaged[0]).entries() if entry.files]  # all but verdicts
    assert len(active_records(entries)) == len({entry.slot for entry in entries})


# --- offline, and the baselines


def test_offline_another_model_writes_and_the_policy_scores(tmp_path, tiny_chat_model, queries):
    tokenizer = build_tokenizer()
    build_model(tokenizer, seed=3).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    changes = {"mode": "offline", "generation__model": str(tmp_path / "other"), "queries__heldout": 2}
    run(small_recipe(tiny_chat_model, queries, **changes, train__epochs=1), tmp_path / "run")
    rows = contrasts(tmp_path / "run")
    assert {row.provenance["model"] for row in rows} == {str(tmp_path / "other")}
    assert {ScoreKey.stored(row).weights for row in rows} == {key_of(tiny_chat_model)}
    assert not any("tokenised" in row.provenance for row in rows), "both have one tokenizer, so ids travel"
    held = rows_of(tmp_path / "run", "round-01/heldout/scores")
    assert {row.provenance["model"] for row in held} == {f"{tiny_chat_model}, round 1"}, (
        "what is measured is the policy"
    )


def test_offline_without_ids_rows_are_tokenised_once_and_that_is_recorded(tmp_path, tiny_chat_model, queries):
    longer = tmp_path / "longer.txt"
    longer.write_text(queries.read_text() + "river " * 250 + "\n", encoding="utf-8")
    changes = {"mode": "offline", "generation__backend": "scripted", "queries__heldout": 0, "train__max_length": 300}
    summary = run(small_recipe(tiny_chat_model, longer, **changes, train__epochs=1), tmp_path / "run")
    rows = contrasts(tmp_path / "run")
    assert len(rows) == 10, "the writer knows nothing of the policy's tokens: what doesn't fit is left out by scoring"
    assert all("positive_token_ids" in row.provenance["tokenised"] for row in rows)
    assert summary["writer"] == "scripted"
    (left_out,) = (tmp_path / "run").glob("round-01/scores/*.left-out.json")
    assert "leaves no room for a response within train.max_length" in left_out.read_text(encoding="utf-8")
    assert summary["rounds"][0]["queries"]["left_out"] == 1 and summary["rounds"][0]["queries"]["used"] == 10


@pytest.mark.parametrize(
    ("objective", "form"), [("base", "text"), pytest.param("sft", "messages", marks=pytest.mark.slow)]
)
def test_annotated_preferences_are_trained_on_and_nothing_is_generated(
    tmp_path, tiny_chat_model, queries, objective, form
):
    held = next(read_rows(_heldout_file(tmp_path, tiny_chat_model, queries), Query)).prompt[-1]["content"]
    pairs = [(f"Question {i}?", f"Good answer {i}.", f"Bad {i}.") for i in range(5)] + [(held, "Yes.", "No.")]
    lines = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in pairs]
    if form == "messages":
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        lines = [{k: [{"role": roles[k], "content": v}] for k, v in line.items()} for line in lines]
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    changes = {"mode": "offline", "preferences__source": str(source), "train__objective": objective}
    summary = run(small_recipe(tiny_chat_model, queries, **changes, train__epochs=1), tmp_path / "run")
    rows = contrasts(tmp_path / "run")
    assert (
        sorted((row.prompt[-1]["content"], row.positive_response, row.negative_response) for row in rows) == pairs[:5]
    )
    assert not (tmp_path / "run/round-01/responses").exists()
    (drop,) = summary["rounds"][0]["queries"]["dropped"]
    assert drop["reason"] == "is a held-out query too"
    assert summary["rounds"][0]["training"]["examples"] == 5 and len(summary["policies"]) == 2
    card = (tmp_path / "run/policy/README.md").read_text(encoding="utf-8")
    assert "trained on annotated preferences" in card and "no human labels" not in card


def _heldout_file(tmp_path, model, queries):
    """The file with the queries that a run of the small recipe holds out."""
    from selfsteer.runs.progress import Display
    from selfsteer.runs.store import Store
    from selfsteer.stages.context import RunContext
    from selfsteer.stages.queries import queries_stage

    data = RunContext.from_recipe(small_recipe(model, queries), Store(tmp_path / "held", Display(quiet=True)))
    return [data.store.files(queries_stage(data.recipe, data.store))[-1]]


def test_annotated_preferences_have_no_principles_to_filter_by(tmp_path, tiny_chat_model, queries):
    changes = {"mode": "offline", "preferences__source": "a.jsonl", "train__objective": "base"}
    recipe = small_recipe(tiny_chat_model, queries, **changes, quality__filters=["preference_order"])
    with pytest.raises(ConfigError, match="annotated preferences have no principles"):
        run(recipe, tmp_path / "run")


def test_a_file_of_annotated_preferences_has_no_splits(tmp_path, tiny_chat_model, queries):
    changes = {"mode": "offline", "train__objective": "base", "queries__heldout": 0}
    recipe = small_recipe(
        tiny_chat_model, queries, **changes, preferences={"source": str(queries), "dataset_split": "test"}
    )
    with pytest.raises(ConfigError, match="is not a hub data set"):
        run(recipe, tmp_path / "run")


def test_adjectives_alone_steer(tmp_path, tiny_chat_model, queries):
    recipe = small_recipe(
        tiny_chat_model, queries, mode="data-only", queries__heldout=0, queries__limit=2,
        principles__steering="adjectives", principles__set="quality", principles__aspects_per_query=1,
        principles__extra_rate=0.0,
    )  # fmt: skip
    run(recipe, tmp_path / "run")
    for row in contrasts(tmp_path / "run"):
        system = row.positive_prompt[0]["content"]
        assert system.startswith("Write an answer that is ") and "\n" not in system
        assert row.positive_principle not in system


def test_the_likeliest_plain_answers_beside_sampled_steered_ones(tmp_path, tiny_chat_model, queries):
    def rows(seed, **changes):
        folder = tmp_path / f"{seed}-{len(changes)}"
        changes = {"seed": seed, "mode": "data-only", "queries__heldout": 0, **changes}
        run(small_recipe(tiny_chat_model, queries, **changes), folder)
        return contrasts(folder)

    greedy = {"generation__roles": {"original": {"temperature": 0}}}
    one, other, sampled = rows(1, **greedy), rows(2, **greedy), rows(1)
    assert [row.original_token_ids for row in one] == [row.original_token_ids for row in other]
    assert [row.original_token_ids for row in one] != [row.original_token_ids for row in sampled]
    assert all(row.positive_token_ids != again.positive_token_ids for row, again in zip(one, other, strict=True))
    words = "temperature 0.7, top_p 0.8, 6 tokens"
    assert {row.provenance["sampling"] for row in one} == {f"{words}; original: temperature 0.0"}
    assert {row.provenance["sampling"] for row in sampled} == {words}


def test_what_is_drawn_for_a_query_is_drawn_again_in_each_round_where_the_recipe_says_so(
    tmp_path, tiny_chat_model, queries
):
    draws = {"choice": "shuffled", "choice_temperature": 0.7, "set": "quality", "extra_rate": 0.5}

    def aspects(per_round):
        changes = {
            "queries__heldout": 0,
            "queries__limit": 6,
            "train__epochs": 1,
            "rounds": 2,
            "train__max_length": 2000,
        }
        recipe = small_recipe(tiny_chat_model, queries, principles={**draws, "per_round": per_round}, **changes)
        run(recipe, tmp_path / per_round)
        return [{row.id: row.aspects for row in contrasts(tmp_path / per_round, number)} for number in (1, 2)]

    fixed, redrawn = aspects("fixed"), aspects("redrawn")
    assert redrawn[0] == fixed[0]
    extra = [[name for name, own in found.items() if "Concision" in own] for found in (*fixed, redrawn[1])]
    assert extra[0] == extra[1] != extra[2]
