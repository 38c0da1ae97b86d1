"""Bad sources: each ends in one message that says what is wrong, where, and what to do, with exit code 2."""

import codecs
import gzip
import json
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfsteer.errors import ConfigError, DataError, InputError
from selfsteer.queries import load_queries


def refused(source: object, **options: object) -> InputError:
    with pytest.raises(InputError) as caught:
        load_queries(str(source), **options)  # type: ignore[arg-type]
    error = caught.value
    assert error.exit_code == 2 and error.what and error.where and error.do
    return error


def file(tmp_path: Path, name: str, body: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(body.encode() if isinstance(body, str) else body)
    return path


GOOD = '"fine"\n'
DEEP = "[" * 100_000
ON_LINES = "one JSON value per line"


@pytest.mark.parametrize(
    ("name", "body", "line", "what", "do"),
    [
        ("a.json", '[\n"a",\n"b"\n"c"]', ":4", "not valid JSON", "correct that line"),
        ("a.json", '["a",\n"b"', ":2", "not valid JSON", ON_LINES),
        ("a.jsonl", b'"a"\n"b"\n"caf\xe9"\n', ":3", r"not valid UTF-8: byte 0xe9 at position 4", "as UTF-8"),
        ("a.csv", b"prompt\nok\n\xff\n", ":3", "not valid UTF-8", "save the file as UTF-8"),
        ("a.json", b'["a",\n"\xff"]', ":2", "not valid UTF-8", "save the file as UTF-8"),
        ("a.jsonl", codecs.BOM_UTF16_LE + b'"\x00\xff\xdb"\x00', "", "not valid UTF-16", "save the file as UTF-8"),
        ("a.csv", "prompt,prompt\na,b\n", ":1", "the header names 'prompt' twice", "rename"),
        ("a.csv", 'prompt,"x"y\na,b\n', ":1", "malformed record", "inside it twice"),
    ],
)
def test_a_file_that_can_not_be_read_is_an_error_at_once(
    tmp_path: Path, name: str, body: str, line: str, what: str, do: str
) -> None:
    path = file(tmp_path, name, body)
    error = refused(path)
    assert isinstance(error, DataError)
    assert error.where == f"{path}{line}"
    assert re.search(what, error.what) and re.search(do, error.do)
    assert len(str(error).splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "row", "what", "do"),
    [
        ("a.jsonl", '{"prompt": "x"', r"not valid JSON: .*delimiter", ON_LINES),
        ("a.jsonl", "hello", "not valid JSON: Expecting value", "correct that line"),
        ("a.jsonl", DEEP, "not valid JSON: .*nested too deep", "correct that line"),
        ("a.jsonl", "9" * 5000, "not valid JSON: .*digits", "correct that line"),
        ("a.jsonl", "3", "a row is a number, expected a string or an object", "correct those rows"),
        ("a.jsonl", "null", "a row is null", "correct those rows"),
        ("a.jsonl", "{}", r"columns here: \(none\)", "queries.field=NAME, or rename it to one of: prompt, instr"),
        ("a.jsonl", '{"rows": [1], "n": 2}', "columns here: rows, n", "queries.field=NAME"),
        ("a.jsonl", '{"prompt": 3}', "'prompt' is a number, expected text", ""),
        ("a.jsonl", '{"prompt": {"a": 1}}', "'prompt' has a message with the keys a", "queries.field=NAME"),
        ("a.jsonl", '{"instruction": "a", "input": 1}', "'input' is a number, expected text", ""),
        ("a.jsonl", '{"messages": ["hi"]}', "'messages' holds text in place of a message", "correct those rows"),
        ("a.jsonl", '{"messages": [{"text": "hi"}]}', "has a message with the keys text", "queries.field=NAME"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', "has a message with the keys role", "correct those rows"),
        ("a.jsonl", '{"messages": "hello"}', "'messages' is text but no list of messages", "write it as JSON"),
        ("a.jsonl", '{"id": true, "prompt": "a"}', "its id is True, expected text or a number", ""),
        ("a.jsonl", r'{"id": "\ud800", "prompt": "a"}', "its id is broken text", ""),
        ("a.csv", '"a"b,1', "malformed record", "inside it twice"),
        ("a.csv", "yes, and,2", r"3 cells in this record, 2 in the header \(prompt, x\)", "a comma in"),
        ("a.tsv", "ok", "1 cells in this record, 2 in the header", "a tab in"),
        ("a.csv", '"never closed,2', "malformed record: unexpected end of data", "last quote closed"),
    ],
)
def test_a_row_that_can_not_be_used_is_left_out_and_one_alone_is_an_error(
    tmp_path: Path, name: str, row: str, what: str, do: str
) -> None:
    head, good = (
        ("prompt\tx\n", "f\t1\n") if "tsv" in name else ("prompt,x\n", "f,1\n") if "csv" in name else ("", GOOD)
    )
    path = file(tmp_path, name, head + good + row + "\n")
    loaded = load_queries(str(path))
    [dropped], line = loaded.dropped, 2 + bool(head)
    assert len(loaded.queries) == 1 and dropped.unusable and dropped.where == f"{path}:{line}"
    assert re.search(what, dropped.reason) and re.search(do, dropped.do)
    file(tmp_path, name, head + row + "\n")
    error = refused(path)
    assert error.what.startswith("no query is left of 1 rows: ") and f"first at {path}:{line - 1}" in error.what
    assert re.search(what, error.what) and re.search(do, error.do)
    assert len(str(error).splitlines()) == 3


def test_a_quote_that_is_never_closed_names_all_lines_that_it_takes(tmp_path: Path) -> None:
    lines = [f"q{number},1" for number in range(10)]
    path = file(tmp_path, "a.csv", "\n".join(["prompt,x", *lines[:7], '"open,1', *lines[7:]]))
    loaded = load_queries(str(path))
    assert [drop.where for drop in loaded.dropped] == [f"{path}:{line}" for line in range(9, 13)]
    assert len(loaded.queries) == 7


def test_too_many_rows_that_can_not_be_used_stop_the_reading(tmp_path: Path) -> None:
    rows = ["a", "b", {"x": 1}, "a", {"prompt": 3}, {"x": 2}]
    path = file(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert len(load_queries(str(path)).queries) == 2, "3 of 6 is no more than half; a repetition is no fault"
    error = refused(path, max_left_out=0.49)
    assert error.what == (
        "3 of 6 rows can't be used, more than the share of 0.49 that queries.max_left_out allows: no column of a "
        f"name that holds queries; columns here: x (2 rows, first at {path}:3); 'prompt' is a number, expected text "
        f"(1 rows, first at {path}:5)"
    )
    assert error.where == str(path) and error.do.endswith("; or raise queries.max_left_out")


def test_what_differs_in_details_counts_as_one_reason(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", '{"prompt": 1}\n{"a"\n{"bc"\n')
    assert f"not valid JSON: Expecting ':' delimiter (column 5) (2 rows, first at {path}:2)" in refused(path).what


def test_field_that_is_not_there(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", '{"question": "a", "answer": "b"}')
    error = refused(path, field="questoin")
    assert error.what == f"no query is left of 1 rows: no column 'questoin' here (1 rows, first at {path}:1)"
    assert error.do == "Did you mean 'question'? Available: answer, question"
    what = refused(file(tmp_path, "a.txt", "hi"), field="q").what
    assert "a row is text, expected an object with the column 'q'" in what


def test_a_table_without_the_column_that_was_named_is_an_error_at_its_first_row(tmp_path: Path) -> None:
    file(tmp_path, "1.csv", "question,n\n" + "what?,1\n" * 9)
    pq.write_table(pa.table({"answer": ["a"]}), tmp_path / "2.parquet")
    error = refused(tmp_path, field="question")
    assert (error.what, error.where) == ("no column 'question' here", f"{tmp_path}/2.parquet: row 1")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"])
@pytest.mark.parametrize("body", [b"", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_an_empty_file(tmp_path: Path, name: str, body: bytes) -> None:
    error = refused(path := file(tmp_path, name + ".gz" * body.startswith(b"\x1f\x8b"), body))
    assert (error.where, error.do) == (str(path), "give rows that hold a query") and "is empty" in error.what


def test_rows_but_no_query(tmp_path: Path) -> None:
    error = refused(path := file(tmp_path, "a.jsonl", '""\n" "\n{"messages": [{"role": "tool", "content": "x"}]}\n'))
    assert error.what == (
        f"no query is left of 3 rows: empty query (2 rows, first at {path}:1); no user message (1 rows, first at "
        f"{path}:3)"
    )
    assert error.where == str(path) and "queries.field=NAME" in error.do


def test_the_second_query_of_one_id_is_left_out(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"}, {"id": "b", "prompt": "y"}]
    loaded = load_queries(str(path := file(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))))
    assert [drop.reason for drop in loaded.dropped] == [
        "duplicate of a",
        f"its id 'b' belongs to another query already ({path}:2)",
    ]
    assert "its own id" in loaded.dropped[1].do


def test_an_id_clashes_across_the_files_of_a_folder(tmp_path: Path) -> None:
    for name, text in (("1.jsonl", "x"), ("2.jsonl", "y")):
        file(tmp_path, name, json.dumps({"id": 1, "prompt": text}))
    [dropped] = load_queries(str(tmp_path)).dropped
    assert dropped.where == f"{tmp_path}/2.jsonl:1" and f"({tmp_path}/1.jsonl:1)" in dropped.reason


def test_no_such_file(tmp_path: Path) -> None:
    file(tmp_path, "queries.jsonl", GOOD)
    file(tmp_path, "zzz.csv", "")
    error = refused(tmp_path / "qeries.jsonl")
    assert (error.what, error.where) == ("no such file", str(tmp_path / "qeries.jsonl"))
    assert error.do == "Did you mean 'queries.jsonl'?"
    assert refused(tmp_path / "nothing-alike").do == f"{str(tmp_path)!r} holds: queries.jsonl, zzz.csv"
    assert refused(tmp_path / "no" / "a.csv").do.startswith(f"no such folder either: {str(tmp_path / 'no')!r}")
    assert refused("").what == "no such file"
    assert refused("a" * 5000).what.startswith("can't read the file: ")  # longer than a name can be


def test_a_format_that_is_not_known(tmp_path: Path) -> None:
    for name in ("a.xlsx", "a", "a.parquet.gz"):
        error = refused(file(tmp_path, name, GOOD))
        assert error.what == f"can't tell the format of {name!r}"
        assert error.do == "use one of .jsonl, .json, .parquet, .arrow, .csv, .tsv, .txt (.gz after a text format)"
    assert refused(tmp_path).what == "no data file in that folder"


def test_damaged_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["some text"] * 100}), tmp_path / "good.parquet")
    whole, packed = (tmp_path / "good.parquet").read_bytes(), gzip.compress(GOOD.encode() * 100)
    broken = {
        "zero.parquet": b"",
        "cut.parquet": whole[: len(whole) // 2],
        "plain.jsonl.gz": GOOD.encode(),
        "cut.jsonl.gz": packed[:-8],
        "flipped.jsonl.gz": packed[:12] + b"\xff\xff" + packed[14:],
    }
    for name, body in broken.items():
        error = refused(path := file(tmp_path, name, body))
        assert error.what.startswith("can't read the file: ") and error.where == str(path)
        assert "complete" in error.do


def test_shipped_set_that_is_not_there() -> None:
    error = refused("builtin:quick-start")
    assert (error.what, error.where) == ("no shipped query set 'quick-start'", "builtin:quick-start")
    assert error.do == "Did you mean 'quickstart'? Available: quickstart, quickstart-heldout, quickstart-questions"


def test_a_hub_data_set_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach 'org/name' on the Hub (LocalEntryNotFoundError)\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    error = refused("org/name")
    assert error.what == (
        "can't load the data set 'org/name': Couldn't reach 'org/name' on the Hub (LocalEntryNotFoundError)"
    )
    assert error.where == "hub data set org/name, split 'train'"
    assert "(queries.dataset_split)" in error.do and "network" in error.do and "builtin:quickstart" in error.do


@pytest.mark.parametrize(
    ("options", "where", "do"),
    [
        ({"split": "held-out"}, "queries.split", "Did you mean 'heldout'? Available: heldout, train"),
        ({"limit": 0}, "queries.limit", "give 1 or more, or leave it out for all"),
        ({"dataset_split": "test"}, "queries.dataset_split", "leave it out, or give a hub data set (org/name)"),
    ],
)
def test_settings_that_are_wrong(options: dict[str, object], where: str, do: str) -> None:
    error = refused("builtin:quickstart", **options)
    assert isinstance(error, ConfigError) and (error.where, error.do) == (where, do)
