"""Rows: what goes to disk comes back, and a damaged file is named."""

from __future__ import annotations

import dataclasses
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfsteer.errors import DataError, StorageError
from selfsteer.records import PROMPTS, ROLES, Contrast, Query, Response, SteeredQuery, read_rows, schema, write_rows
from tests.chat_templates import user
from tests.example_rows import contrast, principled, scores

ODD = "naïve 😀 漢字 \u2028\x00\ttab\r\n"
ROWS = [
    Query("q1", user(ODD, "System."), "heldout", "file.jsonl:3", {"model": ODD}),
    principled(aspects=["Concision", "Überblick"], choice="fallback", provenance={"source": ODD}),
    Response("q1", "positive", ODD, "length", token_ids=[0, 5, 2**31 - 1], prompt_token_ids=[]),
    contrast(
        prompt_token_ids=[1, 2],
        positive_token_ids=[3],
        round=7,
        scores=scores((-1.5, -0.1, -2.0), (-0.25, -3.0, -1e-30)),
        kept=False,
        drop_reason="leak: 'as asked'",
        provenance={"model": ODD, "seed": "0"},
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_comes_back_as_it_was(tmp_path, row):
    write_rows(tmp_path / "a.parquet", type(row), [row, row])
    assert list(read_rows([tmp_path / "a.parquet"], type(row))) == [row, row]


@pytest.mark.parametrize("row", [Response("q1", "original", "", "stop"), contrast()], ids=["Response", "Contrast"])
def test_what_is_not_there_comes_back_as_none(tmp_path, row):
    write_rows(tmp_path / "a.parquet", type(row), [row])
    assert list(read_rows([tmp_path / "a.parquet"], type(row))) == [row]


def test_no_ids_and_no_tokens_are_not_the_same(tmp_path):
    rows = [Response("q1", "original", "", "length", token_ids=ids) for ids in ([], None)]
    write_rows(tmp_path / "a.parquet", Response, rows)
    assert [row.token_ids for row in read_rows([tmp_path / "a.parquet"], Response)] == [[], None]


def test_cells_that_were_not_scored_come_back_as_none(tmp_path):
    row = contrast(scores={"positive_response": {"prompt": -1.0}})
    write_rows(tmp_path / "a.parquet", Contrast, [row])
    (back,) = read_rows([tmp_path / "a.parquet"], Contrast)
    assert back.scores["positive_response"] == {"prompt": -1.0, "positive_prompt": None, "negative_prompt": None}
    assert back.scores["original_response"] is None


def test_shards_are_read_in_the_order_given(tmp_path):
    for name, ids in (("b", ["1", "2"]), ("a", ["3"]), ("none", [])):
        write_rows(tmp_path / name, Query, [Query(id, user(id)) for id in ids])
    found = read_rows([tmp_path / "b", tmp_path / "none", tmp_path / "a"], Query)
    assert [row.id for row in found] == ["1", "2", "3"]


def test_a_run_directory_named_like_a_partition_adds_nothing(tmp_path):
    """``runs/split=x/...`` is a natural name for one run of a sweep; Arrow's data sets would read a column into it."""
    path = tmp_path / "split=x" / "id=9" / "a.parquet"
    write_rows(path, Query, [Query("q1", user("Hi"))])
    assert list(read_rows([path], Query)) == [Query("q1", user("Hi"))]


def test_contrasts_hold_the_columns_that_the_design_promises():
    columns = set(schema(Contrast).names)
    promised = (
        "schema_version id prompt aspects positive_principle negative_principle positive_prompt negative_prompt "
        "round scores kept drop_reason provenance"
    ).split()
    promised += [f"{role}_{part}" for role in ROLES for part in ("response", "finish", "token_ids")]
    promised += [f"{prompt}_token_ids" for prompt in PROMPTS]
    assert columns >= set(promised)
    assert columns == {field.name for field in dataclasses.fields(Contrast)}


def test_any_parquet_reader_finds_messages_and_numbers(tmp_path):
    write_rows(tmp_path / "a.parquet", Contrast, [ROWS[3]])
    (plain,) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert plain["positive_prompt"] == ROWS[3].positive_prompt
    assert plain["scores"]["negative_response"]["positive_prompt"] == -3.0
    assert plain["schema_version"] == 1


def test_half_of_a_surrogate_pair_is_refused_with_the_row_named(tmp_path):
    """No tokenizer and no query file gives such text, but a caller may; UTF-8 can't hold it."""
    rows = [Query("good", user("Hi")), Query("bad", user("Hi \ud83d"))]
    with pytest.raises(DataError, match="surrogate") as caught:
        write_rows(tmp_path / "a.parquet", Query, rows)
    assert "'bad'" in caught.value.where
    assert list(tmp_path.iterdir()) == []


def test_a_row_of_the_wrong_type_leaves_no_file(tmp_path):
    with pytest.raises(pa.ArrowException):
        write_rows(tmp_path / "a.parquet", Response, [Response("q1", "positive", "x", "stop", token_ids=["x"])])
    assert list(tmp_path.iterdir()) == []


def test_a_newer_column_is_passed_over_and_a_lacking_one_is_named(tmp_path):
    table = pa.table({"id": ["q1"], "prompt": [user("Hi")], "novelty": [3]})
    pq.write_table(table, tmp_path / "new.parquet")
    assert list(read_rows([tmp_path / "new.parquet"], Query)) == [Query("q1", user("Hi"))]
    pq.write_table(table.drop(["prompt"]), tmp_path / "lacks.parquet")
    with pytest.raises(StorageError, match="prompt"):
        list(read_rows([tmp_path / "lacks.parquet"], Query))


@pytest.mark.parametrize("damage", ["cut", "empty", "not parquet", "missing"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.parquet"
    write_rows(good, Query, [Query("q1", user("Hi"))])
    content = {"cut": good.read_bytes()[:-20], "empty": b"", "not parquet": b"x" * 100}
    if damage in content:
        bad.write_bytes(content[damage])
    rows = read_rows([good, bad], Query)
    assert next(rows).id == "q1"
    with pytest.raises(StorageError) as caught:
        next(rows)
    gone = damage == "missing"
    assert caught.value.what.startswith("a stored shard is gone" if gone else "can't read a stored shard")
    assert caught.value.where == str(bad) and ("delete that file" in caught.value.do) is not gone


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [("positive_token_ids", 5, "of type int64"), ("kept", None, "lacks a value"), ("id", 7, "of type int64")],
)
def test_a_shard_with_other_types_is_named(column, value, words, tmp_path):
    row = contrast()
    path = tmp_path / "a.parquet"
    write_rows(path, Contrast, [row])
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, pa.array([value])), path)
    with pytest.raises(StorageError, match=f"column {column} .*{words}"):
        list(read_rows([path], Contrast))


def test_a_flipped_byte_in_the_data_never_passes_as_other_text(tmp_path):
    path, bad = tmp_path / "a.parquet", tmp_path / "bad.parquet"
    rows = [Query(f"query number {i}", user(f"Tell me about {i} {'abc' * i}")) for i in range(8)]
    write_rows(path, Query, rows)
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # it has texts too, and no checksum
    data = content.index(b"abc"), content.rindex(b"abc", 0, footer)  # the pages with the texts
    refused = 0
    for place in random.Random(0).sample(range(*data), 30):
        bad.write_bytes(content[:place] + bytes([content[place] ^ 0x01]) + content[place + 1 :])
        try:
            assert list(read_rows([bad], Query)) == rows
        except StorageError:
            refused += 1
    assert refused > 10


def test_ids_that_are_not_there_are_asked_for_in_words():
    row = contrast(prompt_token_ids=[1], positive_token_ids=[2])
    assert row.prompt_ids("prompt") == [1] and row.response_ids("positive") == [2]
    with pytest.raises(DataError, match="no original_token_ids") as caught:
        row.response_ids("original")
    assert "with_token_ids" in caught.value.do
    with pytest.raises(DataError, match="no negative_prompt_token_ids"):
        row.prompt_ids("negative_prompt")


def test_a_dropped_row_is_a_copy_with_its_reason():
    row = contrast()
    dropped = row.drop("leak: it says so")
    assert (row.kept, dropped.kept, dropped.drop_reason) == (True, False, "leak: it says so")
    assert dataclasses.replace(dropped, kept=True, drop_reason="") == row


def test_rows_of_every_kind_have_a_schema_in_the_order_of_their_fields():
    for kind in (Query, SteeredQuery, Response, Contrast):
        assert schema(kind).names == [field.name for field in dataclasses.fields(kind)]


def test_rows_that_were_written_before_principles_were_still_read(tmp_path):
    """Such files have no column `writing`."""
    path = tmp_path / "old.parquet"
    write_rows(path, SteeredQuery, [principled()])
    pq.write_table(pq.read_table(path).drop_columns(["writing"]), path)
    assert list(read_rows([path], SteeredQuery)) == [principled(writing="fixed")]
