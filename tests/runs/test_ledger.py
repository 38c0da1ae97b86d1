"""The ledger: what is found done, and what is not."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest

from selfsteer.config import load_recipe
from selfsteer.errors import ConfigError, SelfsteerWarning
from selfsteer.files import append_json, read_json_lines
from selfsteer.loop.run import run
from selfsteer.runs.ledger import Ledger, StageRecord, check_place


def entry(key: str = "k", *, files: tuple[str, ...] = (), **changes) -> StageRecord:
    values = {"stage": "responses", "round": 1, "key": key, "files": list(files), "seconds": 1.5, "info": {"n": 3}}
    return StageRecord(**(values | changes))


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path / "run")


def test_a_finished_stage_is_found_again_by_another_process(ledger):
    added = ledger.add(entry(info={"dropped": [{"where": "naïve:3", "reason": "too long"}]}))
    assert Ledger(ledger.run_dir).find("responses", 1, "k") == added


def test_nothing_is_found_in_a_new_run_directory(ledger):
    assert ledger.find("responses", 1, "k") is None


@pytest.mark.parametrize("asked", [("scores", 1, "k"), ("responses", 2, "k"), ("responses", 1, "other")])
def test_another_stage_round_or_key_is_not_done(ledger, asked):
    ledger.add(entry())
    assert ledger.find(*asked) is None


def test_a_stage_whose_files_are_gone_is_not_done(ledger):
    ledger.run_dir.mkdir()
    for name in ("a.parquet", "b.parquet"):
        (ledger.run_dir / name).touch()
    ledger.add(entry(files=("a.parquet", "b.parquet")))
    assert ledger.find("responses", 1, "k")
    (ledger.run_dir / "b.parquet").unlink()
    assert ledger.find("responses", 1, "k") is None


def test_the_newest_entry_whose_files_are_there_counts(ledger):
    ledger.run_dir.mkdir()
    (ledger.run_dir / "a").touch()
    for number, name in enumerate(["a", "a", "gone"]):
        ledger.add(entry(files=(name,), info={"n": number}))
    assert ledger.find("responses", 1, "k").info == {"n": 1}


def test_a_run_directory_may_be_moved(ledger, tmp_path):
    ledger.run_dir.mkdir()
    (ledger.run_dir / "a").touch()
    ledger.add(entry(files=("a",)))
    ledger.run_dir.rename(tmp_path / "moved")
    assert Ledger(tmp_path / "moved").find("responses", 1, "k")


def test_entries_are_stamped_and_only_ever_appended(ledger):
    for key in ("one", "two", "one"):
        ledger.add(entry(key))
    rows = read_json_lines(ledger.path)
    assert [row["key"] for row in rows] == ["one", "two", "one"]
    assert all(row["finished"].endswith("+00:00") for row in rows)


def test_a_crash_while_writing_loses_only_the_line_in_flight(ledger):
    ledger.add(entry("one"))
    with ledger.path.open("a") as stream:
        stream.write('{"stage": "responses", "round": 1, "key": "tw')
    assert ledger.find("responses", 1, "one") and ledger.find("responses", 1, "two") is None
    ledger.add(entry("three"))
    assert ledger.find("responses", 1, "one") and ledger.find("responses", 1, "three")


def test_an_entry_of_a_newer_version_is_understood(ledger):
    added = ledger.add(entry("one"))
    append_json(ledger.path, read_json_lines(ledger.path)[0] | {"key": "two", "machine": "unheard of"})
    assert ledger.find("responses", 1, "two").info == added.info


def test_the_newest_of_a_stage_is_told_apart_by_round_and_split(ledger):
    first, held = ledger.add(entry("a")), ledger.add(entry("b", files=("round-01/heldout/responses/b",)))
    assert ledger.is_newest(first) and ledger.is_newest(held)
    other = ledger.add(entry("c"))
    assert ledger.is_newest(other) and not ledger.is_newest(first)
    ledger.add(entry("d", round=2))
    assert ledger.is_newest(other)


def test_a_repeated_entry_is_the_newest_again_and_unchanged(ledger):
    first = ledger.add(entry("a"))
    ledger.add(entry("b"))
    ledger.repeat(first)
    assert ledger.is_newest(first)
    rows = read_json_lines(ledger.path)
    assert rows[0] == rows[2] and len(rows) == 3


def test_a_line_of_another_program_is_passed_over(ledger):
    ledger.add(entry("a"))
    append_json(ledger.path, {"stage": "responses", "note": "by hand"})
    assert [found.key for found in ledger.entries()] == ["a"]


@pytest.mark.parametrize(
    ("stage", "owner", "other"), [("rewards", "run", "reward"), ("reward-data:all-seed-0", "reward", "run")]
)
def test_a_run_directory_is_left_to_the_command_that_made_it(ledger, stage, owner, other):
    for command in ("run", "reward"):
        check_place(ledger.run_dir, command)
    ledger.add(entry(stage=stage))
    check_place(ledger.run_dir, owner)
    with pytest.raises(ConfigError, match=f"holds a run of `selfsteer {owner}`"):
        check_place(ledger.run_dir, other)


OUTSIDE = ["", ".", "..", "a/../../other", "/tmp", "round-01/../..", "link/inside", "a\0b"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_line_that_names_a_file_outside_the_run_directory_counts_as_absent_and_that_is_said(ledger, tmp_path, name):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "inside").touch()
    ledger.run_dir.mkdir()
    (ledger.run_dir / "link").symlink_to(tmp_path / "other")
    ledger.add(entry(files=(name,)))
    ledger.add(entry("mine"))
    with pytest.warns(SelfsteerWarning, match="stage 'responses' is ignored, .* not inside the run directory"):
        assert [found.key for found in ledger.entries()] == ["mine"]


@pytest.mark.parametrize(
    "wrong", [{"round": "1"}, {"files": "a"}, {"files": [1]}, {"info": []}, {"key": 3}, {"seconds": None}]
)
def test_a_line_whose_values_have_other_types_counts_as_absent_and_that_is_said(ledger, wrong):
    append_json(ledger.path, dataclasses.asdict(entry()) | wrong)
    with pytest.warns(SelfsteerWarning, match=f"is ignored, so the stage counts as not done: {next(iter(wrong))}"):
        assert ledger.entries() == []


@pytest.mark.parametrize("name", ["../precious", "/precious", "", "round-01", "round-01/responses"])
def test_a_run_removes_nothing_that_a_ledger_line_names_beside_a_missing_file(tmp_path, monkeypatch, name):
    """Once such a line made `run` remove the folder it named, silently."""
    run_dir, precious = tmp_path / "run", tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").touch()
    done = run_scripted(run_dir)
    before = set(run_dir.rglob("*.parquet"))
    line = next(row for row in read_json_lines(run_dir / "ledger.jsonl") if row["stage"] == "responses")
    missing = run_dir / line["files"][0]
    missing.unlink()
    named = str(precious) if name == "/precious" else name
    append_json(run_dir / "ledger.jsonl", line | {"files": [named, *line["files"]]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelfsteerWarning)
        assert run_scripted(run_dir) == done
    assert (precious / "thesis.txt").exists()
    assert set(run_dir.rglob("*.parquet")) == before


def run_scripted(run_dir: Path) -> list:
    recipe = load_recipe("scripted", ["queries.limit=6", "queries.heldout=2"])
    return run(recipe, run_dir)["rounds"]


def test_the_file_is_read_again_only_when_it_has_changed(ledger, monkeypatch):
    reads: list[Path] = []
    monkeypatch.setattr(
        "selfsteer.runs.ledger.read_json_lines", lambda path: reads.append(path) or read_json_lines(path)
    )
    for number in range(3):
        ledger.add(entry(f"k{number}"))
    for number in range(3):
        assert ledger.find("responses", 1, f"k{number}").key == f"k{number}"
    assert [one.key for one in ledger.entries()] == ["k0", "k1", "k2"] and len(reads) == 1

    Ledger(ledger.run_dir).add(entry("by another process"))
    assert ledger.newest(("responses", 1, False)).key == "by another process" and len(reads) == 2
