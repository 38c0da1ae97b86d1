"""`selfsteer reproduce` on a miniature table: the tiny model, toy benchmarks."""

from __future__ import annotations

import json
import multiprocessing
import shutil

import pytest
import yaml

from selfsteer.backends.transformers import TransformersBackend
from selfsteer.config import dump_recipe
from tests.evaluation.benchmarks import toy
from tests.run_helpers import small_recipe, write_queries

pytestmark = pytest.mark.usefixtures("toy_benchmarks")


@pytest.fixture
def mini(tmp_path, tiny_chat_model):
    """The file of a table with two trained runs, an unchanged model with and without a principle, and a lacking one."""
    (tmp_path / "base.yaml").write_text(dump_recipe(small_recipe(tiny_chat_model, write_queries(tmp_path))))
    toy.write_data(tmp_path / "data")
    values = {
        "title": "Mini",
        "recipe": str(tmp_path / "base.yaml"),
        "settings": {"train.epochs": 1, "guards.action": "warn", "principles.below_chance": "warn"},
        "models": {"tiny": {"name": str(tiny_chat_model)}, "other": {"about": "not published"}},
        "runs": {
            "start": {"label": "as it is", "unchanged": True},
            "prompt-only": {"label": "prompted", "unchanged": True, "principles": ["Focus"]},
            "pbaa": {"label": "PBAA", "settings": {"train": {"objective": "base"}}},
            "sso": {"label": "SSO"},
            "pairs": {
                "label": "pairs",
                "settings": {
                    "mode": "offline", "preferences.source": str(tmp_path / "none.jsonl"),
                    "quality.filters": ["identical"], "train.objective": "base",
                },
            },
        },
        "columns": {"Points": "toy.points", "Len": "toy.length", "Rating": "toy_judged.points"},
        "paper": {"tiny": {"sso": {"Points": 61.5, "Rating": 8}}},
        "notes": ["A note of the table."],
    }  # fmt: skip
    file = tmp_path / "mini.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def options(tmp_path):
    return ["--data-dir", tmp_path / "data", "--run-dir", tmp_path / "out"]


def rows_of(folder):
    record = json.loads((folder / "table.json").read_text())
    return {f"{row['model']}_{row['run']}": row for row in record["rows"]}, record


def test_a_table_is_run_evaluated_and_shown_beside_the_paper(mini, tmp_path, command_line, monkeypatch):
    code, said, errors = command_line("reproduce", mini, *options(tmp_path))
    assert code == 0, errors
    rows, record = rows_of(tmp_path / "out")
    for name in ("tiny_start", "tiny_prompt-only", "tiny_pbaa", "tiny_sso"):
        own = rows[name]["ours"]
        assert own["Points"]["n"] == toy.N and own["Points"]["low"] < own["Points"]["high"] and "Len" in own
    assert rows["tiny_sso"]["paper"] == {"Points": 61.5, "Rating": 8}
    assert "none.jsonl" in rows["tiny_pairs"]["why"] and "--model other=NAME" in rows["other_sso"]["why"]
    assert "needs a judge" in record["not_run"]["toy_judged"] and "Rating" not in rows["tiny_sso"]["ours"]
    assert record["comparison"]["models"] == ["tiny_start", "tiny_prompt-only", "tiny_pbaa", "tiny_sso"]
    assert (tmp_path / "out/comparison.png").stat().st_size > 1000
    assert "61.5" in said and "A note of the table." in said and "not run: toy_judged" in said
    stored = [json.loads(path.read_text())["model"] for path in (tmp_path / "out/evaluation/results").glob("*.json")]
    prints = {one["name"]: one["fingerprint"] for one in stored}
    assert prints["tiny_start"] == prints["tiny_prompt-only"] != prints["tiny_pbaa"] != prints["tiny_sso"]
    assert rows["tiny_pbaa"]["done_by"] == "tiny_pbaa" and (tmp_path / "out/runs/sweep.md").is_file()

    monkeypatch.setattr(TransformersBackend, "generate", None)  # any call would fail
    before = (tmp_path / "out/table.json").read_text()
    assert command_line("reproduce", mini, *options(tmp_path))[0] == 0
    assert (tmp_path / "out/table.json").read_text() == before, "everything is found done"


def test_a_dry_run_writes_nothing_and_says_what_is_shared(mini, tmp_path, command_line):
    code, said, errors = command_line("reproduce", mini, "--dry-run", *options(tmp_path))
    assert code == 0, errors
    assert not (tmp_path / "out").exists()
    words = [line.split() for line in said.splitlines()]
    (sso,) = [line for line in words if line[:2] == ["tiny", "SSO"]]
    stages, done, shared, todo = map(int, sso[2:])
    assert done == 0 < shared and shared + todo == stages, "the data of the first round are PBAA's"
    assert "--model other=NAME" in said and "none.jsonl" in said


def test_what_is_wrong_on_the_command_line_is_said(mini, tmp_path, command_line):
    for extra, text in (
        (["--scale", "tyni"], "did you mean"),
        (["--model", "tinny=x"], "did you mean"),
        (["--model", "tiny"], "NAME=MODEL"),
        (["--gpu", "h100"], "--dry-run"),
        (["--dry-run", "--count", "8"], "--gpu"),
        (["--labelled", "pairs.jsonl"], "this table trains no reward models"),
        (["train.bta=1"], "train.bta"),
    ):
        code, _, errors = command_line("reproduce", mini, *extra, *options(tmp_path))
        assert code == 2 and text.lower() in errors.lower(), (extra, errors)
    code, _, errors = command_line("reproduce", "v1-table5", "--preferences", "pairs.jsonl")
    assert code == 2 and "no run of this table is trained on annotated pairs" in errors
    code, said, _ = command_line("reproduce", "list")
    assert code == 0 and "v1-table1" in said


def test_a_table_without_a_row_that_can_be_run_is_an_error(mini, tmp_path, command_line):
    values = yaml.safe_load(mini.read_text())
    del values["models"]["tiny"], values["paper"]
    mini.write_text(yaml.safe_dump(values))
    code, _, errors = command_line("reproduce", mini, *options(tmp_path))
    assert code == 2 and "no row of the table can be run" in errors and "not published" in errors


@pytest.mark.slow
def test_killed_while_it_trains_or_evaluates_it_ends_with_the_same_table(mini, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killable_command"])

    def go(place: str, times: int) -> int:
        arguments = ["reproduce", str(mini), *map(str, options(tmp_path))]
        started = context.Event()
        process = context.Process(target=toy.command_until, args=(arguments, tmp_path, started, place, times))
        process.start()
        process.join(300)
        return process.exitcode

    assert go("", 0) == 0
    wanted, _ = rows_of(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    for times in (2, 9):
        assert go("generation", times) == -9
    assert go("scoring", 2) == -9
    assert go("", 0) == 0
    assert rows_of(tmp_path / "out")[0] == wanted


def test_reward_models_are_trained_on_the_runs_and_scored_on_labelled_pairs(mini, tmp_path, command_line):
    values = yaml.safe_load(mini.read_text())
    pairs = [
        {"prompt": f"Say {n}", "chosen": f"It is {n}, yes.", "rejected": "no " * (n + 1), "subset": "alpacaeval-easy"}
        for n in range(12)
    ]
    train, labelled = tmp_path / "train.jsonl", tmp_path / "labelled.jsonl"
    train.write_text("".join(json.dumps(pair) + "\n" for pair in pairs[:8]))
    labelled.write_text("".join(json.dumps(pair) + "\n" for pair in pairs[8:]))
    reward = {
        "model": "tiny",
        "evaluate": ["nowhere/no-data-set"],
        "recipe": {
            "sets": {
                "pairs": {"source": "nowhere/none"},
                "sso": {"source": "run:sso"},
                "passed": {"source": "run:pairs"},
            },
            "variants": {"pairs": ["pairs"], "pairs-sso": ["pairs", "sso"], "both": ["sso", "passed"]},
            "options": {"batch_size": 4, "micro_batch_size": 2, "max_length": 400, "processes": 0},
        },
    }
    runs = {name: values["runs"][name] for name in ("sso", "pairs")}
    columns = {"All": "reward.accuracy", "Chat": "reward.Chat"}
    own = {"runs": runs, "columns": columns, "reward": reward, "paper": {"tiny": {"pairs-sso": {"All": 91.7}}}}
    del values["models"]["other"]
    mini.write_text(yaml.safe_dump(values | own))
    given = ["--labelled", labelled, "--preferences", train]
    code, said, errors = command_line("reproduce", mini, *given, *options(tmp_path))
    assert code == 0, errors
    rows, _ = rows_of(tmp_path / "out")
    assert rows["tiny_pairs-sso"]["paper"] == {"All": 91.7} and "91.7" in said
    for name in ("tiny_pairs", "tiny_pairs-sso", "tiny_both"):
        assert rows[name]["ours"]["All"]["n"] == 4 and not rows[name]["why"], rows[name]
        assert 0 <= rows[name]["ours"]["Chat"]["value"] <= 100
    assert (tmp_path / "out/reward/pairs-sso/models/pairs-sso-seed-0").exists()
