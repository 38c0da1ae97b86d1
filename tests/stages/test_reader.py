"""Which of a run directory's results are in force, and what is said of those that are not there."""

from __future__ import annotations

import json
import shutil

import pytest

from selfsteer.config import dump_recipe
from selfsteer.errors import InputError
from selfsteer.files import read_json_lines
from selfsteer.loop import run
from selfsteer.runs.active import active_records
from selfsteer.runs.ledger import StageRecord
from selfsteer.stages.reader import RunReader
from tests.run_helpers import scripted_recipe, without_reports


@pytest.fixture(scope="module", autouse=True)
def no_reports():
    with without_reports():
        yield


def rows(run_dir):
    (part,) = RunReader(run_dir).train().parts
    return list(part.rows)


# --- the order of the ledger


def lines(*names: str) -> list[StageRecord]:
    """Entries from "stage round key", with a leading "h" for held-out."""
    found = []
    for name in names:
        held, stage, number, key = name.startswith("h "), *name.removeprefix("h ").split()
        files = [f"round-{number}/{'heldout/' if held else ''}{stage}/{key}"]
        found.append(StageRecord(stage, int(number), key, files, 0.0, {}))
    return found


def keys(*names: str) -> dict[str, str]:
    return {f"{'h ' * heldout}{stage} {number}": entry.key
            for (stage, number, heldout), entry in active_records(lines(*names)).items()}  # fmt: skip


def test_the_newest_line_of_a_stage_is_in_force():
    assert keys("queries 1 q", "scores 1 a", "contrasts 1 a", "scores 1 b", "contrasts 1 b") == {
        "queries 1": "q",
        "scores 1": "b",
        "contrasts 1": "b",
    }


def test_a_result_older_than_one_before_it_in_the_story_is_of_an_earlier_setting():
    assert keys("scores 1 a", "contrasts 1 a", "policy 1 a", "scores 2 a", "scores 1 b") == {"scores 1": "b"}
    assert keys("queries 1 a", "h scores 0 a", "scores 1 a", "queries 1 b") == {"queries 1": "b"}
    assert keys("contrasts 1 a", "policy 1 a", "h scores 1 a", "contrasts 1 b", "policy 1 b") == {
        "contrasts 1": "b",
        "policy 1": "b",
    }


def test_the_start_is_measured_before_the_rounds_and_each_policy_after_its_training():
    names = ["queries 1 a", "h scores 0 a", "h judgements 0 a", "scores 1 a", "contrasts 1 a", "policy 1 a"]
    names += ["h scores 1 a", "h implicit 1 a", "h judgements 1 a", "scores 2 a", "contrasts 2 a"]
    assert len(keys(*names)) == len(names)
    assert keys("scores 1 a", "unheard-of 1 a") == {"scores 1": "a"}


# --- runs


def test_going_back_to_a_setting_brings_its_rows_back_into_force(tmp_path, scripted_run, queries):
    run_dir = shutil.copytree(scripted_run, tmp_path / "run")
    first, other = scripted_recipe(queries), scripted_recipe(queries, seed=1)
    a = rows(run_dir)
    run(other, run_dir)
    b = rows(run_dir)
    assert {row.positive_response for row in a} != {row.positive_response for row in b}
    run(first, run_dir)
    assert rows(run_dir) == a
    run(other, run_dir)
    assert rows(run_dir) == b


def test_a_line_is_repeated_unchanged_and_only_where_another_setting_came_between(tmp_path, scripted_run, queries):
    run_dir = shutil.copytree(scripted_run, tmp_path / "run")
    before = read_json_lines(run_dir / "ledger.jsonl")
    run(scripted_recipe(queries), run_dir)
    assert read_json_lines(run_dir / "ledger.jsonl") == before
    run(scripted_recipe(queries, quality={"filters": ["identical"]}), run_dir)
    run(scripted_recipe(queries), run_dir)
    (other, again) = read_json_lines(run_dir / "ledger.jsonl")[len(before) :]
    assert other["stage"] == "contrasts" and again == before[-1]


def test_what_stands_after_a_repeated_line_is_repeated_too(tmp_path, scripted_run, queries):
    """Killed under other settings right after the first stage, then run with the old ones."""
    run_dir = shutil.copytree(scripted_run, tmp_path / "run")
    before = read_json_lines(run_dir / "ledger.jsonl")
    with (run_dir / "ledger.jsonl").open("a") as stream:
        stream.write(json.dumps(before[0] | {"key": "of another setting"}) + "\n")
    with pytest.raises(InputError, match="for an earlier setting only"):
        rows(run_dir)
    run(scripted_recipe(queries), run_dir)
    assert read_json_lines(run_dir / "ledger.jsonl")[len(before) + 1 :] == before
    assert len(rows(run_dir)) == 7


def test_a_round_in_progress_is_read_as_far_as_it_is(tmp_path, scripted_run):
    run_dir = shutil.copytree(scripted_run, tmp_path / "run")
    entries = (run_dir / "ledger.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "ledger.jsonl").write_text("".join(entries[:-1]))
    reading = RunReader(run_dir).train()
    assert not reading.parts[0].filtered and len(reading.parts[0].rows) == 7
    assert reading.pending == ["the stage 'contrasts' of round 1 is not finished yet"]


def test_a_later_round_that_is_not_there_is_named(tmp_path, scripted_run, queries):
    run_dir = shutil.copytree(scripted_run, tmp_path / "run")
    text = dump_recipe(scripted_recipe(queries)).replace("rounds: 1", "rounds: 2")
    text = text.replace("mode: data-only", "mode: online").replace("backend: scripted", "backend: transformers")
    (run_dir / "recipe.yaml").write_text(text)
    reading = RunReader(run_dir).train()
    assert [part.label for part in reading.parts] == ["round 1"]
    assert reading.pending == ["the stage 'scores' of round 2 is not finished yet"]
    held = RunReader(run_dir).heldout()
    assert [part.label for part in held.parts] == ["before"]
    assert held.pending == [
        f"the stage 'scores' of the held-out queries, round {n} is not finished yet" for n in (1, 2)
    ]


def test_nothing_there_yet(tmp_path, scripted_run):
    run_dir = shutil.copytree(scripted_run, tmp_path / "run")
    (run_dir / "ledger.jsonl").unlink()
    for read in (RunReader(run_dir).train, RunReader(run_dir).heldout):
        with pytest.raises(InputError, match=r"the stage 'scores' of .*round [01] is not finished yet") as caught:
            read()
        assert f"--run-dir {run_dir}" in caught.value.do


def test_a_missing_shard_is_named(tmp_path, scripted_run):
    run_dir = shutil.copytree(scripted_run, tmp_path / "run")
    (shard,) = (run_dir / "round-01/contrasts").glob("*.parquet")
    shard.unlink()
    with pytest.raises(InputError, match="'contrasts' of round 1 is gone") as caught:
        RunReader(run_dir).train()
    assert caught.value.where == str(shard)


@pytest.mark.parametrize(("name", "words"), [("nowhere", "no such folder"), ("", "no recipe.yaml")])
def test_a_folder_that_is_no_run_directory(tmp_path, name, words):
    with pytest.raises(InputError, match=words):
        RunReader(tmp_path / name)


def test_a_run_that_holds_nothing_out(tmp_path, queries):
    run(scripted_recipe(queries, heldout=0), tmp_path / "run")
    assert RunReader(tmp_path / "run").train().parts
    with pytest.raises(InputError, match="no held-out queries"):
        RunReader(tmp_path / "run").heldout()
