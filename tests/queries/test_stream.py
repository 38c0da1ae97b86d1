"""Streaming a source: the same as loading it, with memory that does not grow, and closed when it is closed."""

from __future__ import annotations

import json
import re
import sqlite3
import tracemalloc
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsteer.errors import ConfigError, DataError, StorageError
from selfsteer.files import fingerprint
from selfsteer.queries import Dropped, load, load_queries, stream_queries
from selfsteer.queries import file_readers as read
from selfsteer.queries.dedup import Seen
from selfsteer.records import Query
from selfsteer.temp_db import hash_of


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def streamed(source: str, **options: Any) -> list[Query | Dropped]:
    return list(stream_queries(source, **options))


# ------------------------------------------------------------------------------------------------------- what it gives
def test_queries_and_dropped_rows_come_in_the_order_of_the_source(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "q.jsonl", [{"id": "a", "prompt": "x"}, "", {"id": "b", "prompt": " x"}, "y"])
    assert streamed(path, split="heldout") == [
        Query("a", [user("x")], "heldout", "q.jsonl"),
        Dropped("", f"{path}:2", "empty query"),
        Dropped("b", f"{path}:3", "duplicate of a"),
        Query(
            fingerprint([{"role": "user", "content": "y"}]), [{"role": "user", "content": "y"}], "heldout", "q.jsonl"
        ),
    ]


def test_a_row_is_read_only_when_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b'"a"\n"\xff"\n')
    rows = stream_queries(str(tmp_path / "q.jsonl"))
    assert isinstance(next(rows), Query)
    with pytest.raises(DataError, match=r"not valid UTF-8(?s:.*)q\.jsonl:2"):
        next(rows)


def test_wrong_settings_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="limit is 0"):
        stream_queries("builtin:quickstart", limit=0)


def test_an_id_may_clash_with_one_that_was_made_from_a_text(tmp_path: Path) -> None:
    made = fingerprint([user("x")])
    path = jsonl(tmp_path / "q.jsonl", ["x", "y", {"id": made, "prompt": " x "}, {"id": made, "prompt": "z"}])
    rows = stream_queries(path)
    assert [type(found) for found in rows] == [Query, Query, Dropped, Dropped]
    assert f"({path}:1)" in load_queries(path).dropped[1].reason


def test_a_clash_of_ids_names_row_numbers_too(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"id": 1, "prompt": "x"}]), tmp_path / "1.parquet")
    pq.write_table(pa.Table.from_pylist([{"id": 1, "prompt": "y"}]), tmp_path / "2.parquet")
    [dropped] = load_queries(str(tmp_path)).dropped
    assert (dropped.where, f"({tmp_path}/1.parquet: row 1)" in dropped.reason) == (f"{tmp_path}/2.parquet: row 1", True)


def test_an_id_with_any_character_is_named_in_full(tmp_path: Path) -> None:
    name = "a\0b\u2028é" * 50
    path = jsonl(tmp_path / "q.jsonl", [{"id": name, "prompt": "x"}, "x"])
    assert [drop.reason for drop in load_queries(path).dropped] == [f"duplicate of {name}"]


def test_reasons_without_end_are_counted_together(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": f"r{i}", "content": "a"}, {"role": "user", "content": "b"}]} for i in range(1500)]
    with pytest.raises(DataError) as caught:
        load_queries(jsonl(tmp_path / "q.jsonl", ["", "", *rows]))
    # 1,000 reasons are told apart: "empty query" and the first 999 roles
    counted = re.findall(r"(another reason|empty query|role 'r0').*?(\d+ rows)", caught.value.what)
    assert counted == [("another reason", "501 rows"), ("empty query", "2 rows"), ("role 'r0'", "1 rows")]


ROWS = st.lists(
    st.one_of(
        st.sampled_from(["a", " a\n", "b", "é", "e\u0301", "", " "]),
        st.fixed_dictionaries(
            {"prompt": st.sampled_from(["a", "a ", "b", "c", ""])},
            optional={"id": st.sampled_from(["1", "2", 2, "", fingerprint([user("b")])])},
        ),
    ),
    max_size=8,
)


def worked_apart(path: str, rows: list[Any], limit: int | None) -> list[Query | Dropped] | str:
    """What a stream gives, by dicts in memory; the place of the message where it ends in an error."""
    first_id: dict[str, str] = {}
    seen: dict[str, tuple[str, str]] = {}
    out: list[Query | Dropped] = []
    for number, row in enumerate(rows, 1):
        where, text = f"{path}:{number}", row if isinstance(row, str) else row["prompt"]
        own_id = "" if isinstance(row, str) else str(row.get("id", ""))
        if not text.strip():
            out.append(Dropped(own_id, where, "empty query"))
            continue
        prompt = [user(text)]
        name, content = own_id or fingerprint(prompt), " ".join(unicodedata.normalize("NFC", text).split())
        known, first = seen.setdefault(name, (content, where))
        if known != content:
            out.append(Dropped(own_id, where, f"its id {name!r} belongs to another query already ({first})"))
            continue
        if content in first_id:
            out.append(Dropped(name, where, f"duplicate of {first_id[content]}"))
            continue
        first_id[content] = name
        out.append(Query(name, prompt, "train", "q.jsonl"))
        if len(first_id) == limit:
            break
    return out if first_id else path


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, limit=st.sampled_from([None, 1, 2]))
def test_streaming_and_loading_agree_with_dicts_in_memory(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], limit: int | None
) -> None:
    path = jsonl(tmp_path_factory.getbasetemp() / "q.jsonl", rows)
    expected = worked_apart(path, rows, limit)
    if isinstance(expected, str):
        for reading in (streamed, load_queries):
            with pytest.raises(DataError) as caught:
                reading(path, limit=limit)
            assert caught.value.where == expected
        return
    assert streamed(path, limit=limit, max_left_out=1.0) == expected
    loaded = load_queries(path, limit=limit, max_left_out=1.0)
    assert loaded.queries == [found for found in expected if isinstance(found, Query)]
    assert loaded.dropped == [found for found in expected if isinstance(found, Dropped)]


# ---------------------------------------------------------------------------------------------------- memory, closing
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".txt"])
def test_memory_does_not_grow_with_the_queries(tmp_path: Path, suffix: str) -> None:
    count, lines = 4000, (f"what is {i}" for i in range(4000))
    body = "".join(f'"{line}"\n' if "json" in suffix else f"{line}\n" for line in ["prompt", *lines])
    path = tmp_path / f"q{suffix}"
    with read.gzip.open(path, "wb") if suffix.endswith(".gz") else path.open("wb") as file:
        file.write(body.encode())
    list(stream_queries(str(path), limit=1))  # what is made once, like compiled patterns, is no growth
    tracemalloc.start()
    found = sum(isinstance(item, Query) for item in stream_queries(str(path)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found >= count
    assert peak < 500_000  # a list of these queries takes over 2,000,000 bytes


def test_a_parquet_file_of_one_row_group_is_read_piece_by_piece(tmp_path: Path) -> None:
    table = pa.table({"prompt": [f"{i:>1000}" for i in range(20_000)]})
    pq.write_table(table, tmp_path / "q.parquet", compression="none", use_dictionary=False)
    del table
    before = pa.total_allocated_bytes()
    rows = stream_queries(str(tmp_path / "q.parquet"))
    next(rows)
    assert pa.total_allocated_bytes() - before < 6_000_000  # the row group has 20,000,000
    rows.close()


@pytest.mark.parametrize("how", ["close", "limit", "error"])
def test_the_file_and_the_database_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'"a"\n"b"\n' + b"\xff\n" * (how == "error"))
    streams: list[Any] = []
    kept: list[Seen] = []
    opened = read._open
    monkeypatch.setattr(read, "_open", lambda path: streams.append(opened(path)) or streams[-1])
    monkeypatch.setattr(load, "Seen", lambda: kept.append(Seen()) or kept[-1])
    rows = stream_queries(str(path), limit=1 if how == "limit" else None)
    next(rows)
    assert not streams[0].closed
    if how == "close":
        rows.close()
    else:
        with pytest.raises(DataError if how == "error" else StopIteration):
            list(rows)
            next(rows)
    assert streams[0].closed
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        kept[0].first_id(b"", "a")


def test_a_full_temporary_folder_is_one_message() -> None:
    with (
        pytest.raises(StorageError, match=r"can't keep track of the queries(?s:.*)SQLITE_TMPDIR") as caught,
        Seen() as seen,
    ):
        seen._db.execute("PRAGMA max_page_count = 8")
        for i in range(10_000):
            seen.claim(str(i), hash_of(str(i)), f"file:{i}")
    assert caught.value.exit_code == 1


def test_what_was_seen_is_still_known_after_it_went_to_disk() -> None:
    with Seen() as seen:
        seen._db.execute("PRAGMA cache_size = 10")  # pages
        for i in range(5000):
            assert seen.claim(f"id{i}", hash_of(f"text {i}"), f"file-{i // 1000}: row {i}") == ""
            assert seen.first_id(hash_of(f"text {i}"), f"id{i}") == ""
        assert seen.claim("id7", hash_of("text 7"), "file-9: row 1") == ""
        assert seen.claim("id4007", hash_of("text 7"), "file-9: row 2") == "file-4: row 4007"
        assert seen.first_id(hash_of("text 1234"), "other") == "id1234"
