"""Files and folders as other tools leave them: encodings, line ends, Parquet and Arrow cells, `datasets`' folders."""

from __future__ import annotations

import codecs
import gzip
import json
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfsteer.errors import ConfigError, DataError
from selfsteer.queries import load_queries, source_rows, stream_queries

TEXTS = ["Where is the Ölberg?", "What is a\u2028line?"]


def texts(source: Path, **options) -> list[str]:
    return [query.prompt[-1]["content"] for query in load_queries(str(source), **options).queries]


BODIES = {
    "a.jsonl": "".join(json.dumps({"prompt": text}, ensure_ascii=False) + "\n" for text in TEXTS),
    "a.json": json.dumps(TEXTS, ensure_ascii=False),
    "a.csv": "prompt,n\n" + "".join(f"{text},1\n" for text in TEXTS),
    "a.tsv": "prompt\tn\n" + "".join(f"{text}\t1\n" for text in TEXTS),
    "a.txt": "".join(f"{text}\n" for text in TEXTS),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_encoding_and_line_end(tmp_path, name, end, encoding):
    for path in (tmp_path / name, tmp_path / f"{name}.gz"):
        body = BODIES[name].replace("\n", end).encode(encoding)
        path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
        assert texts(path) == TEXTS


def test_a_big_endian_file_with_its_mark(tmp_path):
    (tmp_path / "a.csv").write_bytes(codecs.BOM_UTF16_BE + BODIES["a.csv"].encode("utf-16-be"))
    assert texts(tmp_path / "a.csv") == TEXTS


def test_a_return_within_a_line_ends_none(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\rline\ntwo\n")
    (tmp_path / "b.csv").write_bytes(b'prompt\r"a\rb"\r"c\nd"\r')
    assert texts(tmp_path / "a.txt") == ["one\rline", "two"]
    assert texts(tmp_path / "b.csv") == ["a\rb", "c\nd"]


def test_files_that_were_joined_and_one_that_was_torn_within_a_character(tmp_path):
    one = b'\xef\xbb\xbf"a"\n'
    (tmp_path / "a.jsonl").write_bytes(one + b'\xef\xbb\xbf"b"\n"c"\n"d\xc3')
    loaded = load_queries(str(tmp_path / "a.jsonl"))
    assert [query.prompt[0]["content"] for query in loaded.queries] == ["a", "b", "c"]
    assert [drop.where for drop in loaded.dropped] == [f"{tmp_path}/a.jsonl:4"]


def test_json_with_one_value_per_line_is_read_line_by_line(tmp_path):
    path = tmp_path / "a.json"
    datasets.Dataset.from_list([{"prompt": text} for text in TEXTS]).to_json(path)
    assert texts(path) == TEXTS
    path.write_text('{"prompt": "a"}\n\n{"prompt": "b"\n{"prompt": "c"}\n')
    assert [drop.where for drop in load_queries(str(path)).dropped] == [f"{path}:3"]
    path.write_text('{"prompt": "a"\n{"prompt": "b"}\n{"prompt": "c"}\n')
    assert texts(path) == ["b", "c"]
    path.write_text('{"prompt": "a"}\n')
    assert texts(path) == ["a"]
    path.write_text(json.dumps({"data": [{"prompt": "a"}]}, indent=1))
    assert texts(path) == ["a"]


def test_a_row_of_another_type_in_a_list_is_left_out(tmp_path):
    (tmp_path / "a.json").write_text('["a", 3, "b"]')
    assert [drop.where for drop in load_queries(str(tmp_path / "a.json")).dropped] == [f"{tmp_path}/a.json: row 2"]


FAR = pa.array([253402300800 * 10**6, 0], pa.timestamp("us"))
ODD = {
    "far": FAR,
    "nested": pa.StructArray.from_arrays([FAR], ["at"]),
    "duration": pa.array([10**18, 0], pa.duration("s")),
    "nanoseconds": pa.array([1, 2], pa.timestamp("ns")),
    "zone": pa.array([0, 1], pa.timestamp("us", tz="Mars/Phobos")),
    "torn": pa.array([b"\xff", b"fine"], pa.binary()).view(pa.string()),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_column_that_python_can_not_hold_is_passed_over(tmp_path, name, suffix):
    table = pa.table({"prompt": TEXTS, name: ODD[name]})
    path = tmp_path / f"a{suffix}"
    if suffix == ".arrow":
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, path)
    assert texts(path) == TEXTS


def test_cells_of_many_types_are_read_and_one_torn_text_is_its_row(tmp_path):
    table = pa.table({
        "prompt": pa.array(["a", "b"]).dictionary_encode(),
        "id": pa.array([Decimal("1"), Decimal("2")]),
        "when": FAR,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    assert [query.id for query in load_queries(str(tmp_path / "a.parquet")).queries] == ["1", "2"]
    rows = [row for _, row, _ in source_rows(str(tmp_path / "a.parquet"), "train")]
    assert str(rows[0]["when"]).startswith("10000-01-01") and rows[1]["when"].year == 1970
    torn = [b"fine", b"\xff", b"good"]
    text = pa.array(torn, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": text}), tmp_path / "b.parquet")
    loaded = load_queries(str(tmp_path / "b.parquet"))
    assert [query.prompt[0]["content"] for query in loaded.queries] == ["fine", "good"]
    assert loaded.dropped[0].where == f"{tmp_path}/b.parquet: row 2"


def test_bytes_are_text(tmp_path):
    pq.write_table(pa.table({"prompt": pa.array([text.encode() for text in TEXTS])}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == TEXTS


def test_an_arrow_file_is_read_in_small_pieces(tmp_path):
    table = pa.table({"prompt": [f"{number:>1000}" for number in range(2000)]})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    before = pa.total_allocated_bytes()
    rows = stream_queries(str(tmp_path / "a.arrow"))
    next(rows)
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert sum(1 for _ in rows) == 1999


# --- folders


def saved(folder: Path, *rows: str) -> datasets.Dataset:
    found = datasets.Dataset.from_list([{"prompt": row} for row in rows])
    found.save_to_disk(folder)
    return found


def test_a_saved_data_set(tmp_path):
    saved(tmp_path / "saved", "a", "b").select([1]).save_to_disk(tmp_path / "one")
    assert texts(tmp_path / "saved") == ["a", "b"] and texts(tmp_path / "one") == ["b"]
    with pytest.raises(ConfigError, match="has no splits"):
        load_queries(str(tmp_path / "saved"), dataset_split="test")
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(DataError, match="can't read which files belong"):
        load_queries(str(tmp_path / "saved"))


def test_the_splits_of_a_saved_dict(tmp_path):
    both = {name: datasets.Dataset.from_list([{"prompt": name}]) for name in ("train", "test")}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "both")
    assert texts(tmp_path / "both") == ["train"] and texts(tmp_path / "both", dataset_split="test") == ["test"]
    with pytest.raises(DataError, match="no split 'tset'") as caught:
        load_queries(str(tmp_path / "both"), dataset_split="tset")
    assert caught.value.do == "queries.dataset_split: Did you mean 'test'? Available: test, train"


def repository(folder: Path, card: str, *names: str) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(card)
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"prompt": name}) + "\n")
    return folder


def test_a_repository_as_the_hub_has_it(tmp_path):
    plain = repository(tmp_path / "a", "# A page", "data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl")
    assert texts(plain) == ["data/train-00000-of-00001.jsonl"]
    assert texts(plain, dataset_split="test") == ["data/test-00000-of-00001.jsonl"]
    configs = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: mine/*\n---\n"
    told = repository(tmp_path / "b", configs, "mine/x.jsonl", "data/train.jsonl", "other.jsonl")
    assert texts(told) == ["mine/x.jsonl"]
    several = "---\nconfigs:\n- config_name: en\n  data_files: en/*\n- config_name: de\n  data_files: de/*\n---\n"
    with pytest.raises(DataError, match=r"available configs: \['en', 'de'\]") as caught:
        load_queries(str(repository(tmp_path / "c", several, "en/x.jsonl", "de/x.jsonl")))
    assert "name one of its files" in caught.value.do


def test_metadata_is_no_data(tmp_path):
    (tmp_path / "a.jsonl").write_text('"a"\n')
    (tmp_path / "README.md").write_text("# A folder of files\n")
    for name in ("dataset_info.json", "dataset_infos.json", "state.json.bak"):
        (tmp_path / name).write_text("{}")
    assert texts(tmp_path) == ["a"]
