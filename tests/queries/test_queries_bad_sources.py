"""Bad sources: each ends in one message that says what is wrong, where, and what to do, with exit code 2."""

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


@pytest.mark.parametrize(
    ("name", "body", "line", "what", "do"),
    [
        ("a.jsonl", GOOD + '{"prompt": "x"\n', ":2", r"not valid JSON: .*delimiter", "one JSON value per line"),
        ("a.jsonl", GOOD * 2 + "hello\n", ":3", "not valid JSON: Expecting value", "correct that line"),
        ("a.jsonl", "[\n" + GOOD + "]", ":1", "not valid JSON", "one JSON value per line"),
        ("a.jsonl", DEEP, ":1", "not valid JSON: .*recursion", "correct that line"),
        ("a.jsonl", "9" * 5000, ":1", "not valid JSON: .*digits", "correct that line"),
        ("a.json", '[\n"a",\n"b"\n"c"]', ":4", "not valid JSON", "correct that line"),
        ("a.json", GOOD * 2, ":2", "not valid JSON: Extra data", r"one value per line is \.jsonl"),
        ("a.json", '{"rows": [1], "n": 2}', "", "an object with the keys rows, n", r'\{"data": \[row'),
        ("a.json", "3", "", "no list, expected a list of rows", "data"),
        ("a.json", '["a", 3]', ": row 2", "a row is a number, expected a string or an object", "correct that row"),
        ("a.jsonl", GOOD + "null\n", ":2", "a row is null", "correct that row"),
        (
            "a.jsonl",
            b'"a"\n"b"\n"caf\xe9"\n',
            ":3",
            r"not valid UTF-8: byte 0xe9 at position 4",
            "save the file as UTF-8",
        ),
        ("a.txt", "hi".encode("utf-16"), ":1", "not valid UTF-8: byte 0xff", "save the file as UTF-8"),
        ("a.csv", b"prompt\nok\n\xff\n", ":3", "not valid UTF-8", "save the file as UTF-8"),
        ("a.json", b'["a",\n"\xff"]', ":2", "not valid UTF-8", "save the file as UTF-8"),
        (
            "a.csv",
            'prompt,x\nok,1\n"never closed,2\n',
            ":3",
            "malformed record: unexpected end of data",
            "last quote closed",
        ),
        ("a.csv", 'prompt,x\n"a"b,1\n', ":2", "malformed record", "inside it twice"),
        (
            "a.csv",
            "prompt,x\nok,1\nyes, and,2\n",
            ":3",
            r"3 cells in this record, 2 in the header \(prompt, x\)",
            "a comma in",
        ),
        ("a.tsv", "prompt\tx\nok\n", ":2", "1 cells in this record, 2 in the header", "a tab in"),
        ("a.csv", "prompt,prompt\na,b\n", ":1", "the header names 'prompt' twice", "rename"),
        (
            "a.csv",
            "frage,id\nwas,1\n",
            ":2",
            "columns here: frage, id",
            "queries.field=NAME, or rename it to one of: prompt, instr",
        ),
        ("a.jsonl", "{}", ":1", r"columns here: \(none\)", "queries.field=NAME"),
        ("a.jsonl", '{"prompt": 3}', ":1", "column 'prompt' holds a number", "queries.field=NAME"),
        ("a.jsonl", '{"prompt": {"a": 1}}', ":1", "column 'prompt' holds an object", "correct that row"),
        ("a.jsonl", '{"instruction": "a", "input": [1]}', ":1", "instruction or input is a list", "correct that row"),
        (
            "a.jsonl",
            '{"messages": ["hi"]}',
            ":1",
            "a message is text, expected an object with role",
            "correct that row",
        ),
        (
            "a.jsonl",
            '{"messages": [{"text": "hi"}]}',
            ":1",
            "a message has the keys text, expected",
            "queries.field=NAME",
        ),
        (
            "a.jsonl",
            '{"messages": [{"role": "user"}]}',
            ":1",
            "a message has the keys role, expected",
            "correct that row",
        ),
        ("a.csv", "messages\nhello\n", ":2", "column 'messages' is text but not JSON", "list of messages"),
        ("a.jsonl", '{"id": true, "prompt": "a"}', ":1", "an id is True", "correct that row"),
        ("a.jsonl", r'{"id": "\ud800", "prompt": "a"}', ":1", "an id is broken text", "correct that row"),
    ],
)
def test_malformed_content_names_the_line(tmp_path: Path, name: str, body: str, line: str, what: str, do: str) -> None:
    path = file(tmp_path, name, body)
    error = refused(path)
    assert isinstance(error, DataError)
    assert error.where == f"{path}{line}"
    assert re.search(what, error.what) and re.search(do, error.do)
    assert len(str(error).splitlines()) == 3


def test_field_that_is_not_there(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", '{"question": "a", "answer": "b"}')
    error = refused(path, field="questoin")
    assert (error.what, error.where) == ("no column 'questoin' here", f"{path}:1")
    assert error.do == "Did you mean 'question'? Available: answer, question"
    assert (
        refused(file(tmp_path, "a.txt", "hi"), field="q").what
        == "a row is plain text, expected an object with the column 'q'"
    )


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"])
@pytest.mark.parametrize("body", [b"", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_an_empty_file(tmp_path: Path, name: str, body: bytes) -> None:
    error = refused(path := file(tmp_path, name + ".gz" * body.startswith(b"\x1f\x8b"), body))
    assert (error.where, error.do) == (str(path), "give a file that holds queries") and "is empty" in error.what


def test_rows_but_no_query(tmp_path: Path) -> None:
    error = refused(path := file(tmp_path, "a.jsonl", '""\n" "\n{"messages": [{"role": "tool", "content": "x"}]}\n'))
    assert error.what == "no query is left of 3 rows: empty query (2 rows), no user message (1 rows)"
    assert error.where == f"{path}, first at {path}:1" and "queries.field=NAME" in error.do


def test_one_id_for_two_queries(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"}, {"id": "b", "prompt": "y"}]
    error = refused(path := file(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert error.what == "the id 'b' stands for two different queries"
    assert error.where == f"{path}:2 and {path}:3" and "its own id" in error.do


def test_an_id_clashes_across_the_files_of_a_folder(tmp_path: Path) -> None:
    for name, text in (("1.jsonl", "x"), ("2.jsonl", "y")):
        file(tmp_path, name, json.dumps({"id": 1, "prompt": text}))
    assert refused(tmp_path).where == f"{tmp_path}/1.jsonl:1 and {tmp_path}/2.jsonl:1"


def test_no_such_file(tmp_path: Path) -> None:
    file(tmp_path, "queries.jsonl", GOOD)
    file(tmp_path, "zzz.csv", "")
    error = refused(tmp_path / "qeries.jsonl")
    assert (error.what, error.where) == ("no such file", str(tmp_path / "qeries.jsonl"))
    assert error.do == "Did you mean 'queries.jsonl'?"
    assert refused(tmp_path / "nothing-alike").do == f"{str(tmp_path)!r} holds: queries.jsonl, zzz.csv"
    assert refused(tmp_path / "no" / "a.csv").do.startswith(f"there is no folder {str(tmp_path / 'no')!r}")
    assert refused("").what == "no such file"
    assert refused("a" * 5000).what.startswith("can't read the file: ")  # longer than a name can be


def test_a_format_that_is_not_known(tmp_path: Path) -> None:
    for name in ("a.xlsx", "a", "a.parquet.gz"):
        error = refused(file(tmp_path, name, GOOD))
        assert error.what == f"can't tell the format of {name!r}"
        assert error.do == "use one of .jsonl, .json, .parquet, .csv, .tsv, .txt (.gz after a text format)"
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
        ({"limit": 0}, "queries.limit", "ask for 1 or more, or leave it out for all"),
        ({"dataset_split": "test"}, "queries.dataset_split", "leave it out, or give a hub data set (org/name)"),
    ],
)
def test_settings_that_are_wrong(options: dict[str, object], where: str, do: str) -> None:
    error = refused("builtin:quickstart", **options)
    assert isinstance(error, ConfigError) and (error.where, error.do) == (where, do)
