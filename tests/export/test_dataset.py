"""Files and folders: whole or not there at all, replaced only on request, and of any size in the same memory."""

from __future__ import annotations

import errno
import json
import os
import textwrap
import tracemalloc
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from selfsteer import files
from selfsteer.errors import ConfigError, DataError, InputError, StorageError
from selfsteer.export import FORMATS, ExportOptions, export_file, export_folder, read_contrasts, read_source
from selfsteer.export import writers as writing
from selfsteer.export.dataset import check_output, is_file
from tests.example_rows import contrast
from tests.export.helpers import LICENCE, loaded, refused, to_file, to_folder

ENTRY = {
    "file_name": "pairs.jsonl",
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "conversations", "system": "system", "chosen": "chosen", "rejected": "rejected"},
}
COUNT = 7
DOCS = Path(__file__).parents[2] / "docs/exports.md"


def rows(count=COUNT):
    return [contrast(f"q{number}") for number in range(count)]


def fails_after(count):
    yield from rows(count)
    raise StorageError("a shard is damaged")


def full_disk(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- files


def test_a_file_that_could_not_be_finished_is_not_there(tmp_path):
    with pytest.raises(StorageError):
        export_file(fails_after(3), ExportOptions("trl"), tmp_path / "a.jsonl", where="a test")
    with pytest.raises(DataError):
        export_file([], ExportOptions("trl"), tmp_path / "b.parquet", where="a test")
    with pytest.raises(StorageError):
        export_folder(fails_after(3), ExportOptions("trl"), tmp_path / "c", where="a test", licence=LICENCE)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_file_is_replaced_on_request_only(tmp_path):
    path = to_file(rows(), tmp_path / "a.jsonl", format="trl")
    before = path.read_bytes()
    message = refused(InputError, lambda: to_file(rows(2), path, format="trl"))
    assert "already exists" in message and "--overwrite" in message
    with pytest.raises(StorageError):
        export_file(fails_after(3), ExportOptions("trl"), path, where="a test", overwrite=True)
    assert path.read_bytes() == before
    export_file(rows(2), ExportOptions("trl"), path, where="a test", overwrite=True)
    assert len(path.read_text().splitlines()) == 2


def test_a_format_has_its_kinds_of_file(tmp_path):
    assert "use .parquet" in refused(ConfigError, lambda: to_file(rows(), tmp_path / "a.json", format="contrast"))
    assert ".json or .jsonl" in refused(ConfigError, lambda: to_file(rows(), tmp_path / "a.parquet", format="authors"))
    assert "can't write .csv" in refused(ConfigError, lambda: check_output(ExportOptions("trl"), tmp_path / "a.csv"))


def test_a_name_with_a_dot_may_be_a_folder(tmp_path):
    assert not is_file(tmp_path / "qwen2.5-pairs")
    assert is_file(tmp_path / "a.jsonl")
    (tmp_path / "odd.json").mkdir()
    assert not is_file(tmp_path / "odd.json")


def test_what_was_done_is_told(tmp_path):
    exported = export_file(
        [*rows(2), contrast("d").drop("leak: x")], ExportOptions("trl-unpaired"), tmp_path / "a.json", where="a test"
    )
    assert (exported.rows, exported.selection.taken, exported.selection.read) == (4, 2, 3)
    assert exported.paths == [tmp_path / "a.json"]
    assert exported.figures.rows == 2


# --- folders


def test_a_folder_has_shards_of_a_size_a_card_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_ROWS", 3)
    folder = to_folder(rows(), tmp_path / "set", format="trl")
    assert names(folder) == ["README.md", *(f"data/train-0000{number}.parquet" for number in range(3))]
    counts = [pq.read_metadata(path).num_rows for path in sorted((folder / "data").iterdir())]
    assert counts == [3, 3, 1]
    assert [row["id"] for row in loaded(folder, tmp_path / "cache")] == [f"q{number}" for number in range(COUNT)]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_unpaired_shard_may_end_within_a_pair_and_no_row_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_ROWS", 3)
    folder = to_folder(rows(), tmp_path / "set", format="trl-unpaired")
    found = [(row["id"], row["label"]) for row in loaded(folder, tmp_path / "cache")]
    assert found == [(f"q{number}", label) for number in range(COUNT) for label in (True, False)]


def test_an_earlier_export_is_replaced_whole_on_request_only(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_ROWS", 3)
    folder = to_folder(rows(), tmp_path / "set", format="trl")
    assert "--overwrite" in refused(InputError, lambda: to_folder(rows(), folder, format="trl"))
    again = {"where": "a test", "licence": LICENCE, "overwrite": True}
    with pytest.raises(StorageError):
        export_folder(fails_after(2), ExportOptions("trl"), folder, **again)
    assert len(names(folder)) == 4
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        patch.setattr(files, "_fsync", full_disk)  # after the earlier export made way
        export_folder(rows(2), ExportOptions("trl"), folder, **again)
    assert len(names(folder)) == 4 and [path.name for path in tmp_path.iterdir()] == ["set"]
    export_folder(rows(2), ExportOptions("llama-factory"), folder, **again)
    assert names(folder) == ["README.md", "data/train-00000.jsonl", "dataset_info.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path, overwrite):
    (tmp_path / "README.md").write_text("# My thesis")
    options = {"where": "a test", "licence": LICENCE, "overwrite": overwrite}
    assert "not an earlier export" in refused(
        InputError, lambda: export_folder(rows(), ExportOptions("trl"), tmp_path, **options)
    )
    assert names(tmp_path) == ["README.md"]


def test_an_empty_folder_is_filled(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "set")
    to_folder(rows(), Path(), format="trl")
    assert "pretty_name: set" in (tmp_path / "set/README.md").read_text()


def test_a_file_stands_where_the_folder_should_go(tmp_path):
    (tmp_path / "set").write_text("")
    assert "a file of that name exists" in refused(
        InputError, lambda: to_folder(rows(), tmp_path / "set", format="trl")
    )


# --- LLaMA-Factory


def test_a_file_for_llama_factory_gets_its_entry_beside_the_others(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"alpaca": {"file_name": "ü.json"}}', encoding="utf-8")
    to_file(rows(), tmp_path / "pairs.jsonl", format="llama-factory")
    info = json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))
    assert info["alpaca"] == {"file_name": "ü.json"}
    tags = info["pairs"].pop("tags")
    assert info["pairs"] == ENTRY
    assert (tags["role_tag"], tags["content_tag"], tags["user_tag"], tags["assistant_tag"], tags["system_tag"]) == (
        "from", "value", "human", "gpt", "system"
    )  # fmt: skip


def test_an_entry_of_that_name_is_replaced_on_request_only(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"pairs": {"file_name": "mine.json"}}')
    path = tmp_path / "pairs.jsonl"
    assert "an entry 'pairs'" in refused(InputError, lambda: to_file(rows(), path, format="llama-factory"))
    assert not path.exists()
    export_file(rows(), ExportOptions("llama-factory"), path, where="a test", overwrite=True)
    assert json.loads((tmp_path / "dataset_info.json").read_text())["pairs"]["file_name"] == "pairs.jsonl"


@pytest.mark.parametrize("content", ["[1]", "{oops"])
def test_an_info_file_that_can_not_take_an_entry_is_named_before_any_work(tmp_path, content):
    (tmp_path / "dataset_info.json").write_text(content)
    path = tmp_path / "pairs.jsonl"
    assert "does not hold a JSON object" in refused(DataError, lambda: to_file(rows(), path, format="llama-factory"))
    assert not path.exists() and (tmp_path / "dataset_info.json").read_text() == content


@pytest.mark.parametrize(("shard_rows", "file_name"), [(100, "data/train-00000.jsonl"), (3, "data")])
def test_a_folder_for_llama_factory_is_a_dataset_dir(tmp_path, monkeypatch, shard_rows, file_name):
    """Read as LLaMA-Factory does: an entry names a file, or a folder whose files are all data of one kind."""
    monkeypatch.setattr(writing, "SHARD_ROWS", shard_rows)
    folder = to_folder(rows(), tmp_path / "set", format="llama-factory")
    (entry,) = json.loads((folder / "dataset_info.json").read_text()).values()
    assert entry["file_name"] == file_name
    data = folder / entry["file_name"]
    files = sorted(data.iterdir()) if data.is_dir() else [data]
    assert {path.suffix for path in files} == {".jsonl"}
    columns, tags = entry["columns"], entry["tags"]
    found = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert len(found) == COUNT and entry["ranking"] is True and entry["formatting"] == "sharegpt"
    for row in found:
        turns = row[columns["messages"]]
        assert [turn[tags["role_tag"]] for turn in turns] == [tags["user_tag"]]  # odd places are the user's
        assert len(turns) % 2 == 1  # of a ranking set: ends with the user
        for side in ("chosen", "rejected"):
            assert row[columns[side]][tags["role_tag"]] == tags["assistant_tag"]
            assert isinstance(row[columns[side]][tags["content_tag"]], str)
        assert row[columns["system"]] == ""


# --- size


def peak(call):
    tracemalloc.start()
    call()
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return used


@pytest.mark.parametrize(
    ("name", "format"), [("a.jsonl", "trl"), ("a.json", "llama-factory"), ("a.parquet", "contrast"), ("set", "trl")]
)
def test_memory_does_not_grow_with_the_rows(tmp_path, name, format):
    def many(count):
        return (contrast(f"q{number}", positive_response=f"{number} " * 200) for number in range(count))

    def export(count):
        path = tmp_path / f"{count}{name}"
        if "." in name:
            export_file(many(count), ExportOptions(format), path, where="a test")
        else:
            export_folder(many(count), ExportOptions(format), path, where="a test", licence=LICENCE)

    export(1)  # what is imported and cached once
    small, large = (peak(lambda count=count: export(count)) for count in (400, 1600))
    assert large < 1.3 * small


def test_a_large_file_of_contrasts_is_read_some_rows_at_a_time(tmp_path):
    def many(count):
        return (contrast(f"q{number}", positive_response=f"{number} " * 200) for number in range(count))

    for count in (400, 1600):
        export_file(many(count), ExportOptions("contrast"), tmp_path / f"{count}.parquet", where="a test")
    small, large = (
        peak(lambda count=count: sum(1 for _ in read_contrasts(tmp_path / f"{count}.parquet"))) for count in (400, 1600)
    )
    assert large < 1.3 * small


# --- reading


def test_a_parquet_file_of_something_else_is_refused(tmp_path):
    path = to_file(rows(), tmp_path / "a.parquet", format="trl")
    message = refused(DataError, lambda: list(read_source(path)))
    assert "not contrasts" in message and "positive_prompt" in message and "--format contrast" in message


def test_a_damaged_parquet_file_is_named(tmp_path):
    path = to_file(rows(), tmp_path / "a.parquet", format="contrast")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "a.parquet" in refused(DataError, lambda: list(read_source(path)))
    path.write_bytes(data[:200] + bytes(50) + data[250:])
    assert "a.parquet" in refused(DataError, lambda: list(read_source(path)))
    assert "missing.parquet" in refused(DataError, lambda: list(read_source(tmp_path / "missing.parquet")))
    assert "missing.json" in refused(DataError, lambda: list(read_source(tmp_path / "missing.json")))


def test_rows_of_another_schema_version_are_refused(tmp_path):
    path = to_file([contrast(schema_version=99)], tmp_path / "a.parquet", format="contrast")
    assert "schema version 99" in refused(DataError, lambda: list(read_source(path)))


# --- the documentation


def test_the_documented_program_runs(tmp_path, monkeypatch):
    to_file(rows(), tmp_path / "authors.json", format="authors")
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(DOCS.read_text(encoding="utf-8").split("## From Python\n")[1]))
    assert len(loaded(tmp_path / "pairs", tmp_path / "cache")) == COUNT


def test_the_documented_formats_are_those_there_are():
    table = {}
    for line in DOCS.read_text(encoding="utf-8").split("## Formats\n")[1].splitlines():
        if line.startswith("| `") and not line.startswith("| `--format"):
            name, _, files, views = (cell.strip() for cell in line.strip("|").split("|"))
            table[name.strip("`")] = (tuple(files.split()), views == "one")
    assert table == {name: (form.suffixes, form.one_view) for name, form in FORMATS.items()}
