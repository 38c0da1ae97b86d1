"""`selfsteer export`: a run directory or a file in, files or a data set out, and a word on what was left out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from selfsteer import cli
from selfsteer.commands.export import ExportArguments, export
from selfsteer.config import Recipe, dump_recipe
from selfsteer.errors import ConfigError, DataError, InputError, WorkFailed
from selfsteer.export import read_contrasts
from selfsteer.records import HARM_UNKNOWN as UNKNOWN
from selfsteer.records import Contrast, write_rows
from selfsteer.runs.ledger import Ledger, StageRecord
from selfsteer.workflows.row_source import open_source
from tests.example_rows import contrast
from tests.export.test_hub import FakeHub
from tests.printed import printed


def do(source, format="trl", output=None, **options):
    """Export, and return what was printed."""
    return printed(export, ExportArguments(source, format, output, **options))[1:]


def ids(path):
    if path.is_dir():
        return [row.id for shard in sorted((path / "data").iterdir()) for row in read_contrasts(shard)]
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]


def add_round(run_dir, number, key, blocks):
    """Write a round's contrasts, one file a block, and their line in the ledger."""
    names = []
    for place, rows in enumerate(blocks):
        names.append(f"round-{number:02d}/contrasts/{key}-{place:05d}.parquet")
        write_rows(run_dir / names[-1], Contrast, rows)
    info = {"counts": {"kept": 1}, "total": 1}
    return Ledger(run_dir).add(StageRecord("contrasts", number, key, names, 1.0, info))


@pytest.fixture
def run_dir(tmp_path):
    """Three rounds wanted; the first has two results, the second two blocks, the third nothing yet."""
    folder = tmp_path / "run"
    settings = {"rounds": 3, "queries": {"source": str(tmp_path / "my queries.jsonl"), "heldout": 2}}
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dump_recipe(Recipe.model_validate(settings)))
    info = {"read": 9, "train": 7, "heldout": 2, "left_out": 0, "dropped": []}
    Ledger(folder).add(StageRecord("queries", 1, "q", ["round-01/queries/q-00000.parquet"], 1.0, info))
    add_round(folder, 1, "old", [[contrast("of an earlier setting")]])
    add_round(folder, 1, "new", [[contrast("a"), contrast("b").drop("leak: x")]])
    second = [[contrast("a", round=2)], [contrast("c", round=2), contrast("d", round=2, negative_finish="length")]]
    add_round(folder, 2, "new", second)
    return folder


# --- a run directory


def test_the_rows_in_force_of_all_rounds_are_exported(run_dir, tmp_path):
    printed, notes = do(run_dir, output=tmp_path / "a.jsonl")
    assert ids(tmp_path / "a.jsonl") == ["a", "a", "c", "d"]
    assert f"4 rows of 5 (trl, view base) are in {tmp_path / 'a.jsonl'}" in printed
    assert "left out: dropped by quality control 1 (leak 1)" in printed
    assert "a response that was cut off: 1;" in printed and "--finished" in printed
    assert "round 3 has no rows yet" in notes


def test_one_round_is_exported(run_dir, tmp_path):
    printed, notes = do(run_dir, output=tmp_path / "a.jsonl", round=1)
    assert ids(tmp_path / "a.jsonl") == ["a"] and notes == "" and "cut off" not in printed
    do(run_dir, output=tmp_path / "b.jsonl", round=2, finished=True)
    assert ids(tmp_path / "b.jsonl") == ["a", "c"]
    do(run_dir, output=tmp_path / "c.jsonl", round=1, dropped=True)
    assert ids(tmp_path / "c.jsonl") == ["a", "b"]


@pytest.mark.parametrize("number", [0, 3, 4])
def test_a_round_without_rows_is_named(run_dir, tmp_path, number):
    with pytest.raises(InputError, match="rounds with rows: 1, 2"):
        do(run_dir, output=tmp_path / "a.jsonl", round=number)


def test_a_round_that_the_recipe_has_no_more_is_left_out(run_dir, tmp_path):
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text()) | {"rounds": 1}
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    _, notes = do(run_dir, output=tmp_path / "a.jsonl")
    assert ids(tmp_path / "a.jsonl") == ["a"] and notes == ""


def test_results_older_than_the_stage_before_them_are_not_exported(run_dir, tmp_path):
    Ledger(run_dir).add(StageRecord("scores", 1, "newer", [], 1.0, {}))
    with pytest.raises(InputError, match="no filtered rows yet") as found:
        do(run_dir, output=tmp_path / "a.jsonl")
    assert "selfsteer run" in str(found.value)


def test_a_file_that_is_gone_is_named(run_dir, tmp_path):
    (run_dir / "round-02/contrasts/new-00001.parquet").unlink()
    with pytest.raises(InputError, match=r"new-00001.parquet") as found:
        do(run_dir, output=tmp_path / "a.jsonl")
    assert "to make it again" in str(found.value) and not (tmp_path / "a.jsonl").exists()


def test_a_run_while_it_goes_on_is_not_written_to(run_dir, tmp_path):
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    do(run_dir, output=tmp_path / "set")
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_a_folder_has_a_card_with_the_runs_settings(run_dir, tmp_path):
    do(run_dir, "contrast", tmp_path / "set", licence="cc-by-4.0")
    card = (tmp_path / "set/README.md").read_text()
    assert ids(tmp_path / "set") == ["a", "a", "c", "d"]
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-4.0"
    assert "| queries read | 9 |" in card and "| queries aligned on | 7 |" in card
    assert "source: my queries.jsonl" in card and str(tmp_path) not in card


def test_the_licence_of_built_in_queries_is_known_and_others_are_not(run_dir, tmp_path):
    do(run_dir, "trl", tmp_path / "a")
    assert "unknown: the licence of the queries was not stated" in (tmp_path / "a/README.md").read_text()
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    recipe["queries"] = {"source": "builtin:quickstart"}
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    do(run_dir, "trl", tmp_path / "b")
    assert "license: apache-2.0" in (tmp_path / "b/README.md").read_text()


def test_a_real_run_is_exported(scripted_run, tmp_path):
    kept = [row for row in open_source(scripted_run).rows if row.kept]
    do(scripted_run, "contrast", tmp_path / "set")
    found = [row for shard in sorted((tmp_path / "set/data").iterdir()) for row in read_contrasts(shard)]
    assert found == kept != []
    assert open_source(scripted_run).queries["queries aligned on"] == 7


# --- files


def test_an_exported_folder_and_its_files_are_sources(run_dir, tmp_path):
    do(run_dir, "contrast", tmp_path / "set")
    do(tmp_path / "set", output=tmp_path / "a.jsonl")
    do(tmp_path / "set/data/train-00000.parquet", output=tmp_path / "b.jsonl")
    assert ids(tmp_path / "a.jsonl") == ids(tmp_path / "b.jsonl") == ["a", "a", "c", "d"]


def test_the_authors_json_is_imported_by_exporting_it(run_dir, tmp_path):
    do(run_dir, "authors", tmp_path / "authors.json")
    printed, _ = do(tmp_path / "authors.json", "contrast", tmp_path / "own.parquet")
    assert "4 rows of 4 (contrast)" in printed
    assert [row.id for row in read_contrasts(tmp_path / "own.parquet")] == ["a", "a", "c", "d"]


def test_only_runs_have_rounds(run_dir, tmp_path):
    do(run_dir, "authors", tmp_path / "authors.json")
    with pytest.raises(ConfigError, match="only a run directory has rounds"):
        do(tmp_path / "authors.json", output=tmp_path / "a.jsonl", round=1)


@pytest.mark.parametrize(("name", "what"), [("missing", "no such file"), (".", "not a run directory")])
def test_a_source_that_is_none_is_named(tmp_path, name, what):
    with pytest.raises(InputError, match=what):
        do(tmp_path / name, output=tmp_path / "a.jsonl")


# --- options


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"format": "trll", "output": "a.jsonl"}, "Did you mean 'trl'"),
        ({"output": None}, "--output"),
        ({"output": "a.jsonl", "view": "posi"}, "Did you mean 'positive'"),
        ({"output": "a.jsonl", "columns": "mini"}, "Did you mean 'minimal'"),
        ({"output": "a.jsonl", "public": True}, "--push-to-hub"),
        ({"output": "a.jsonl", "repository": "org/name"}, "name a folder"),
        ({"output": "a.jsonl", "licence": "mit"}, "--license"),
        ({"output": "a", "repository": "name"}, "ORG/name"),
        ({"output": "a.parquet", "format": "authors"}, "authors can't be a .parquet"),
        ({"format": "authors", "output": "a.json", "view": "negative"}, "has no view"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_any_work(run_dir, tmp_path, options, what):
    if options["output"]:
        options = options | {"output": tmp_path / options["output"]}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError) as found:
        do(run_dir, **options)
    assert what in str(found.value) and found.value.exit_code == 2
    assert sorted(tmp_path.iterdir()) == before


def test_a_harmful_y_minus_is_no_target_unless_allowed(tmp_path):
    rows = [contrast("a"), contrast("b", negative_harmful="principle: Safety")]
    write_rows(tmp_path / "rows.parquet", Contrast, rows)
    printed, _ = do(tmp_path / "rows.parquet", output=tmp_path / "a.jsonl", view="negative_strict")
    assert ids(tmp_path / "a.jsonl") == ["a"] and "flagged as harmful 1 (the first is 'b')" in printed
    do(tmp_path / "rows.parquet", output=tmp_path / "b.jsonl", view="negative_strict", harmful=True)
    assert ids(tmp_path / "b.jsonl") == ["a", "b"]
    marks = [json.loads(line)["negative_harmful"] for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert marks == ["", "principle: Safety"]


@pytest.mark.parametrize(("format", "columns"), [("trl", "minimal"), ("trl-unpaired", None), ("llama-factory", None)])
def test_a_file_of_harmful_targets_has_a_page_beside_it_that_says_so(tmp_path, format, columns):
    rows = [contrast("a"), contrast("b", negative_harmful="principle: Safety"), contrast("c", negative_harmful=UNKNOWN)]
    write_rows(tmp_path / "rows.parquet", Contrast, rows)
    output, notice = tmp_path / "pairs.jsonl", tmp_path / "pairs.jsonl.README.md"
    asked = {"output": output, "columns": columns, "view": "negative_strict"}
    printed, _ = do(tmp_path / "rows.parquet", format, **asked, harmful=True)
    assert f"{notice} says so" in printed
    page = notice.read_text(encoding="utf-8")
    assert "**In this export these y- are chosen responses.**" in page and "| principle: Safety | 1 |" in page
    assert "| unknown | 1 |" in page and ("no column that marks them" in page) == (columns == "minimal")
    printed, _ = do(tmp_path / "rows.parquet", format, **asked, overwrite=True)
    assert not notice.exists() and "says so" not in printed, "there is no such target any more"


def test_another_file_in_the_place_of_that_page_is_left_alone(tmp_path):
    write_rows(tmp_path / "rows.parquet", Contrast, [contrast("b", negative_harmful=UNKNOWN)])
    notice = tmp_path / "pairs.jsonl.README.md"
    notice.write_text("mine")
    asked = {"output": tmp_path / "pairs.jsonl", "view": "negative_strict", "harmful": True}
    with pytest.raises(InputError, match="another file is in its place"):
        do(tmp_path / "rows.parquet", **asked, overwrite=True)
    assert notice.read_text() == "mine" and not (tmp_path / "pairs.jsonl").exists()


def test_views_and_columns_are_taken(run_dir, tmp_path):
    do(run_dir, output=tmp_path / "a.jsonl", view="negative-strict", columns="minimal")
    row = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    assert set(row) == {"prompt", "chosen", "rejected"}
    assert row["chosen"][0]["content"] == contrast().negative_response


def test_where_no_row_is_left_nothing_is_written(tmp_path):
    write_rows(tmp_path / "rows.parquet", Contrast, [contrast("a").drop("leak: x")])
    with pytest.raises(DataError, match="leak 1") as found:
        do(tmp_path / "rows.parquet", output=tmp_path / "a.jsonl")
    assert found.value.exit_code == 2 and not (tmp_path / "a.jsonl").exists()


# --- the Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return fake


def test_a_data_set_is_built_uploaded_and_removed(run_dir, hub, tmp_path):
    printed, _ = do(run_dir, "contrast", repository="org/pairs")
    assert ids(tmp_path / "hub/org/pairs") == ["a", "a", "c", "d"]
    assert "pretty_name: pairs" in (tmp_path / "hub/org/pairs/README.md").read_text()
    assert "are in https://hub.example/datasets/org/pairs" in printed and hub.private == {"org/pairs": True}
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_folder_that_was_named_is_kept(run_dir, hub, tmp_path):
    printed, _ = do(run_dir, "contrast", tmp_path / "set", repository="org/pairs", public=True)
    assert f"are in {tmp_path / 'set'} and https://hub.example" in printed and hub.private == {"org/pairs": False}
    assert ids(tmp_path / "set") == ids(tmp_path / "hub/org/pairs")


def test_what_was_built_is_kept_where_the_upload_fails(run_dir, hub, tmp_path):
    hub.fails["upload_folder"] = OSError("connection lost")
    with pytest.raises(WorkFailed, match="connection lost") as found:
        do(run_dir, "contrast", repository="org/pairs")
    (parent,) = (tmp_path / "temporary").iterdir()
    assert found.value.exit_code == 1 and str(parent / "pairs") in str(found.value)
    assert ids(parent / "pairs") == ["a", "a", "c", "d"]


def test_nothing_is_left_behind_where_there_is_nothing_to_upload(hub, tmp_path):
    write_rows(tmp_path / "rows.parquet", Contrast, [contrast("a").drop("leak: x")])
    with pytest.raises(DataError):
        do(tmp_path / "rows.parquet", repository="org/pairs")
    assert list((tmp_path / "temporary").iterdir()) == [] and hub.private == {}


# --- the command line


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["selfsteer", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as found:
        cli.main()
    return found.value.code


def test_the_command_exports(run_dir, tmp_path, monkeypatch, capsys):
    path: Path = tmp_path / "a.jsonl"
    options = ("--round", "1", "--view", "negative", "--all", "--columns", "full", "--finished")
    assert command(monkeypatch, run_dir, "--format", "trl", "--output", path, *options) == 0
    assert "view negative" in capsys.readouterr().out
    assert ids(path) == ["a", "b"]
    assert command(monkeypatch, run_dir, "--format", "trl", "--output", path) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert command(monkeypatch, run_dir, "--format", "trl", "--output", path, "--overwrite") == 0
    assert ids(path) == ["a", "a", "c", "d"]
    assert command(monkeypatch, run_dir, "--format", "lama-factory", "--output", path) == 2
    assert "Did you mean 'llama-factory'?" in capsys.readouterr().err


def test_an_export_needs_no_torch(run_dir, tmp_path):
    code = (
        "import sys; sys.argv = ['selfsteer', 'export', *sys.argv[1:]]\n"
        "import selfsteer.cli\n"
        "selfsteer.cli.app(standalone_mode=False)\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    arguments = [str(run_dir), "--format", "trl", "--output", str(tmp_path / "set")]
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "set/README.md").is_file()


def test_the_command_uploads(run_dir, hub, tmp_path, monkeypatch, capsys):
    wanted = ("--format", "contrast", "--push-to-hub", "org/pairs", "--public", "--license", "mit")
    assert command(monkeypatch, run_dir, *wanted) == 0
    assert "license: mit" in (tmp_path / "hub/org/pairs/README.md").read_text()
    shutil.rmtree(tmp_path / "hub")
    hub.fails["create_repo"] = OSError("no route")
    assert command(monkeypatch, run_dir, *wanted) == 1
    assert "no route" in capsys.readouterr().err
