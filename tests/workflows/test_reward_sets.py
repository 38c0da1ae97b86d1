"""Where pairs come from: files, folders and run directories, whose rows are the base view's."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from selfsteer.errors import ConfigError, DataError, InputError
from selfsteer.export.selection import CUT, DROPPED
from selfsteer.files import read_json_lines
from selfsteer.queries import Dropped
from selfsteer.records import Contrast, read_rows, write_rows
from selfsteer.reward.data import LabelledPair
from selfsteer.reward.recipe import SetSettings
from selfsteer.runs.ledger import Ledger
from selfsteer.workflows.reward_sets import open_source
from tests.chat_templates import user
from tests.reward_runs import write_pairs


def source_of(path, **settings):
    return open_source("s", SetSettings(source=str(path), **settings))


def test_pairs_of_a_file_are_placed_by_their_label_and_the_rest_is_named(tmp_path):
    rows = [
        {"prompt": "Hi", "chosen": "Hello.", "rejected": "No.", "steering_margin": 0.25},
        {"input": "Hi", "output_1": "No.", "output_2": "Hello.", "label": 2},
        {"instruction": "Hi", "output_1": "No.", "output_2": "Hello.", "preference": 1.5},
        {"prompt": "Hi", "chosen": " ", "rejected": "No."},
        {"prompt": "", "chosen": "Hello.", "rejected": "No."},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = source_of(path)
    first, second, *others = source.pairs()
    assert first == LabelledPair("pairs.jsonl-1", f"{path}:1", user("Hi"), "Hello.", "No.", 0.25)
    assert (second.chosen, second.rejected, second.margin) == ("Hello.", "No.", None)
    assert [other.reason for other in others] == [
        "says of neither answer that it is better", "an empty answer", "empty prompt"
    ]  # fmt: skip
    assert all(isinstance(other, Dropped) for other in others) and not source.self_made


def test_a_folder_gives_the_pairs_of_all_its_files_and_is_named_by_their_content(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    write_pairs(folder / "one.jsonl", 3)
    write_pairs(folder / "two.jsonl", 2, start=10)
    before = source_of(folder)
    assert [pair.id for pair in before.pairs()] == ["one.jsonl-1", "one.jsonl-2", "one.jsonl-3",
                                                    "two.jsonl-1", "two.jsonl-2"]  # fmt: skip
    assert source_of(folder).content == before.content
    write_pairs(folder / "two.jsonl", 2, start=11)
    assert source_of(folder).content != before.content


@pytest.fixture
def two_rounds(scripted_run, tmp_path):
    """A run of two rounds: the second holds other answers, one row dropped and one with an empty answer."""
    run_dir = tmp_path / "run"
    shutil.copytree(scripted_run, run_dir)
    (run_dir / "recipe.yaml").write_text("rounds: 2\n", encoding="utf-8")
    ledger = Ledger(run_dir)
    (entry,) = [one for one in ledger.entries() if one.stage == "contrasts"]
    rows = list(read_rows([run_dir / name for name in entry.files], Contrast))
    kept = [row for row in rows if row.kept]
    made = [
        dataclasses.replace(kept[0], round=2, positive_response="New.", steering_margin=0.75),
        kept[1].drop("leak: it says so"),
        dataclasses.replace(kept[2], negative_response=""),
    ]
    write_rows(run_dir / "round-02/contrasts/new.parquet", Contrast, made)
    ledger.add(dataclasses.replace(entry, round=2, key="new", files=["round-02/contrasts/new.parquet"]))
    return run_dir, rows, made


def test_a_run_gives_the_base_view_of_all_its_rounds(two_rounds):
    run_dir, rows, made = two_rounds
    source = source_of(run_dir)
    found = list(source.pairs())
    pairs = [one for one in found if isinstance(one, LabelledPair)]
    first = [row for row in rows if row.kept]
    assert source.self_made and source.what == "self-made pairs of round 1, 2"
    assert len(found) == len(rows) + 3
    assert [one.id for one in pairs] == [f"round 1: {row.id}" for row in first] + [f"round 2: {made[0].id}"]
    for pair, row in zip(pairs, [*first, made[0]], strict=True):
        assert (pair.prompt, pair.chosen, pair.rejected) == (row.prompt, row.positive_response, row.negative_response)
    assert [pair.margin for pair in pairs] == [None] * len(first) + [0.75]
    assert [one.reason for one in found[-2:]] == [DROPPED, "an empty response"]


def test_rounds_are_chosen_and_named(two_rounds):
    run_dir, _, made = two_rounds
    chosen = source_of(run_dir, rounds=[2])
    assert [one.id for one in chosen.pairs() if isinstance(one, LabelledPair)] == [f"round 2: {made[0].id}"]
    assert chosen.content == [[2, "new", False]] and source_of(run_dir).content != chosen.content
    with pytest.raises(ConfigError, match="has no rows of round 3") as caught:
        source_of(run_dir, rounds=[1, 3])
    assert caught.value.where == "sets.s.rounds" and "round 1, 2" in caught.value.do


def test_pairs_with_a_cut_answer_can_be_left_out(two_rounds):
    run_dir, _, made = two_rounds
    cut = dataclasses.replace(made[0], negative_finish="length", positive_finish="stop")
    both = [cut, dataclasses.replace(cut, negative_finish="stop")]
    write_rows(run_dir / "round-02/contrasts/new.parquet", Contrast, both)
    whole, finished = source_of(run_dir, rounds=[2]), source_of(run_dir, rounds=[2], finished=True)
    assert all(isinstance(one, LabelledPair) for one in whole.pairs()) and whole.content != finished.content
    first, second = finished.pairs()
    assert isinstance(first, Dropped) and first.reason == CUT and isinstance(second, LabelledPair)


def test_a_hub_data_set_gives_the_pairs_of_the_split_that_is_named(hub):
    both = {"train_prefs": ("Good.", "Bad."), "test_prefs": ("Better.", "Worse.")}
    hub("org/name:main", **{
        split: [{"prompt": "Hi", "chosen": chosen, "rejected": rejected}] for split, (chosen, rejected) in both.items()
    })  # fmt: skip
    sources = {split: source_of("org/name:main", dataset_split=split) for split in both}
    for split, (chosen, rejected) in both.items():
        (pair,) = sources[split].pairs()
        assert (pair.id, pair.chosen, pair.rejected) == ("org/name:main-1", chosen, rejected)
    assert sources["train_prefs"].content != sources["test_prefs"].content
    with pytest.raises(DataError, match="Unknown split") as caught:
        list(source_of("org/name:main").pairs())
    assert "the split (dataset_split)" in caught.value.do and "queries" not in caught.value.do


def test_a_split_is_refused_of_what_has_none(tmp_path, scripted_run):
    for path in (write_pairs(tmp_path / "pairs.jsonl", 2), scripted_run):
        with pytest.raises(ConfigError, match="is not a hub data set and has no splits") as caught:
            source_of(path, dataset_split="test")
        assert caught.value.where == "sets.s.dataset_split"


def test_what_is_about_runs_is_refused_of_files(tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl", 2)
    for key, value in (("rounds", [1]), ("finished", True)):
        with pytest.raises(ConfigError, match=f"{key} applies to run directories") as caught:
            source_of(path, **{key: value})
        assert caught.value.where == f"sets.s.{key}"


def test_a_run_without_rows_or_without_its_files_says_how_to_go_on(two_rounds, tmp_path):
    run_dir, _, _ = two_rounds
    (run_dir / "round-02/contrasts/new.parquet").unlink()
    with pytest.raises(InputError, match="a file of the stage 'contrasts' of round 2 is gone"):
        source_of(run_dir)
    lines = read_json_lines(run_dir / "ledger.jsonl")
    (run_dir / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:1]))
    with pytest.raises(InputError, match="no filtered rows yet") as caught:
        source_of(run_dir)
    assert "selfsteer run" in caught.value.do


@pytest.mark.parametrize("margin", [int("9" * 400), -int("9" * 400), float("nan"), float("inf")])
def test_a_margin_that_is_no_number_to_compute_with_is_unknown(tmp_path, margin):
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "Hi", "chosen": "Hello.", "rejected": "No.", "steering_margin": margin}
    path.write_text(json.dumps(row) + "\n")
    (pair,) = open_source("a", SetSettings(source=str(path))).pairs()
    assert pair.margin is None
