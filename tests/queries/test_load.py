"""Good sources: every format and row shape, ids, de-duplication, limit, the hub and the shipped sets."""

import csv
import gzip
import hashlib
import io
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsteer.errors import DataError
from selfsteer.queries import Dropped, Loaded, load_queries
from selfsteer.queries.load import BUILTIN, content_hash

TEXTS = ["Why is the sky blue?", 'Say "hi", please', "Olá, como vai?", "tabs\tand ünïcode"]


def write(path: Path, rows: list) -> str:
    """Write rows in the form that the file's suffix names."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return str(path)
    if name.endswith((".csv", ".tsv")):
        text = delimited(rows, "\t" if name.endswith(".tsv") else ",")
    elif name.endswith(".json"):
        text = json.dumps(rows)
    elif name.endswith(".txt"):
        text = "\n".join(row["prompt"] for row in rows)
    else:
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def delimited(rows: list[dict], delimiter: str) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def texts(loaded: Loaded) -> list[str]:
    return [query.prompt[-1]["content"] for query in loaded.queries]


def one(tmp_path: Path, row: object, **options: str) -> list[dict[str, str]]:
    """Return the prompt of a single JSONL row."""
    [query] = load_queries(write(tmp_path / "one.jsonl", [row]), **options).queries
    return query.prompt


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


FORMATS = [
    ".jsonl",
    ".json",
    ".parquet",
    ".csv",
    ".tsv",
    ".txt",
    ".jsonl.gz",
    ".json.gz",
    ".csv.gz",
    ".tsv.gz",
    ".txt.gz",
]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_queries_and_ids(tmp_path: Path, suffix: str) -> None:
    loaded = load_queries(write(tmp_path / f"q{suffix}", [{"prompt": text} for text in TEXTS]))
    assert texts(loaded) == TEXTS and loaded.dropped == []
    # worked by hand: sha256 of the canonical JSON of the messages
    canonical = [f'[{{"content":{json.dumps(text, ensure_ascii=False)},"role":"user"}}]' for text in TEXTS]
    assert [query.id for query in loaded.queries] == [hashlib.sha256(c.encode()).hexdigest()[:16] for c in canonical]
    assert {(query.split, query.source) for query in loaded.queries} == {("train", f"q{suffix}")}


def test_a_suffix_in_capitals_is_known(tmp_path: Path) -> None:
    (tmp_path / "Q.JSONL").write_text('"hello"\n')
    assert texts(load_queries(str(tmp_path / "Q.JSONL"))) == ["hello"]


def test_an_id_does_not_depend_on_file_or_position(tmp_path: Path) -> None:
    first = load_queries(write(tmp_path / "a.jsonl", TEXTS), split="heldout").queries
    second = load_queries(write(tmp_path / "b.jsonl", TEXTS[::-1])).queries
    assert [query.id for query in first] == [query.id for query in second[::-1]]
    assert {query.split for query in first} == {"heldout"}


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    write(tmp_path / "part-2.parquet", [{"prompt": "two"}])
    write(tmp_path / "part-1.jsonl", [{"prompt": "one"}])
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / ".hidden.jsonl").write_text("not data")
    loaded = load_queries(str(tmp_path))
    assert texts(loaded) == ["one", "two"]
    assert [query.source for query in loaded.queries] == ["part-1.jsonl", "part-2.parquet"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("plain", "plain"),
        ({"prompt": "p"}, "p"),
        ({"instruction": "do", "input": "this"}, "do\n\nthis"),
        ({"instruction": "do", "input": "", "output": "x"}, "do"),
        ({"instruction": "do", "input": None}, "do"),
        ({"instruction": " do\n"}, " do\n"),  # nothing is stripped
        ({"query": "q", "text": "rendered"}, "q"),
        ({"question": "w"}, "w"),
        ({"text": "t"}, "t"),
        ({"prompt": None, "question": "w"}, "w"),
        ({"prompt": "p", "messages": [user("m")]}, "p"),
        ({"text": "<|user|>m", "messages": [user("m")]}, "m"),
        ({"messages": json.dumps([user("m")])}, "m"),
    ],
)
def test_row_shapes(tmp_path: Path, row: object, text: str) -> None:
    assert one(tmp_path, row) == [user(text)]


def test_field_names_the_column(tmp_path: Path) -> None:
    row = {"prompt": "p", "frage": "f", "instruction": "i", "input": "j", "chat": [user("c")]}
    assert one(tmp_path, row, field="frage") == [user("f")]
    assert one(tmp_path, row, field="chat") == [user("c")]
    assert one(tmp_path, row, field="instruction") == [user("i")]  # that column only


def test_a_conversation_is_cut_after_its_last_user_turn(tmp_path: Path) -> None:
    kept = [{"role": "system", "content": "Be kind."}, user("a"), {"role": "assistant", "content": "b"}, user("c")]
    answer = {"role": "assistant", "content": "d"}
    assert one(tmp_path, {"messages": [*kept, answer]}) == kept
    assert one(tmp_path, {"prompt": [*kept, answer]}) == kept
    assert one(tmp_path, {"prompt": kept}) == kept


def test_what_follows_the_last_user_turn_may_be_anything(tmp_path: Path) -> None:
    call = [{"role": "assistant", "content": None}, {"role": "tool", "content": "42"}]
    assert one(tmp_path, {"messages": [user("a"), *call]}) == [user("a")]


def test_sharegpt(tmp_path: Path) -> None:
    turns = [("system", "s"), ("human", "a"), ("gpt", "b"), ("user", "c"), ("gpt", "d")]
    rows = [{"conversations": [{"from": who, "value": text} for who, text in turns]}]
    roles = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    for name in ("s.jsonl", "s.parquet", "s.json"):
        [query] = load_queries(write(tmp_path / name, rows)).queries
        assert query.prompt == [{"role": role, "content": text} for role, text in roles]


def test_messages_survive_parquet_where_rows_differ_in_keys(tmp_path: Path) -> None:
    messages = [[user("a")], [{"from": "human", "value": "b"}]]
    assert texts(load_queries(write(tmp_path / "m.parquet", [{"messages": m} for m in messages]))) == ["a", "b"]


def test_a_grown_row_says_who_wrote_it_and_from_what(tmp_path: Path) -> None:
    told = {"model": "m", "template": "evolve v1", "depth": 2, "seeds": ["s1", "s2"], "round": 3, "weights": ""}
    rows = [
        {"prompt": "a", "source": "augment:deepen", "provenance": told},
        {"prompt": "b", "source": "mine", "provenance": told},
        {"prompt": "c", "provenance": told},
        {"prompt": "d", "source": "augment:deepen", "provenance": json.dumps(told)},
        {"prompt": "e", "source": "augment:deepen", "provenance": {"model": "half \ud83d"}},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = load_queries(str(tmp_path / "q.jsonl")).queries
    kept = {"model": "m", "template": "evolve v1", "depth": "2", "seeds": "s1, s2"}
    assert [query.provenance for query in queries] == [kept, {}, {}, {}, {}]


@pytest.mark.parametrize("ids", [(7, 8), ("7", "8")])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_row_keeps_its_own_id_and_source(tmp_path: Path, suffix: str, ids: tuple) -> None:
    rows = [{"id": name, "prompt": f"p{name}", "source": "mine"} for name in ids]
    queries = load_queries(write(tmp_path / f"i{suffix}", rows)).queries
    assert [(query.id, query.source) for query in queries] == [("7", "mine"), ("8", "mine")]


def test_an_empty_id_counts_as_none(tmp_path: Path) -> None:
    queries = load_queries(write(tmp_path / "i.csv", [{"id": " ", "prompt": "p"}, {"id": "", "prompt": "q"}])).queries
    assert [len(query.id) for query in queries] == [16, 16]


def test_other_line_separators_stay_in_the_text(tmp_path: Path) -> None:
    text = "one\u2028two\u2029three\x85four\x0bfive\x1csix"
    path = tmp_path / "u.jsonl"
    path.write_text(json.dumps({"prompt": text}, ensure_ascii=False) + "\n" + '"last"', encoding="utf-8")
    assert texts(load_queries(str(path))) == [text, "last"]
    plain = tmp_path / "u.txt"
    plain.write_bytes(f"{text}\r\n spaced \nlast".encode())
    assert texts(load_queries(str(plain))) == [text, " spaced ", "last"]


@pytest.mark.parametrize(
    ("name", "body"), [("b.jsonl", '"hi"\n'), ("b.csv", "prompt\nhi\n"), ("b.txt", "hi\n"), ("b.json", '["hi"]')]
)
def test_a_byte_order_mark_is_passed_over(tmp_path: Path, name: str, body: str) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + body.encode())
    assert texts(load_queries(str(tmp_path / name))) == ["hi"]


def test_a_json_file_may_hold_its_rows_under_data(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"version": 1, "data": [{"query": "q"}]}')
    assert texts(load_queries(str(tmp_path / "d.json"))) == ["q"]


def test_a_long_cell_and_lines_within_a_cell(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * 200_000}, {"prompt": "a\nb\r\nc"}, {"prompt": " "}]
    loaded = load_queries(path := write(tmp_path / "l.csv", rows))
    assert texts(loaded) == [row["prompt"] for row in rows[:2]]
    assert loaded.dropped == [Dropped("", f"{path}:6", "empty query")]  # records start on lines 2, 3 and 6


def test_an_empty_query_is_dropped_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "e.jsonl", ["a", " \n", {"id": 3, "prompt": None}, {"messages": []}, "b", "c"])
    loaded = load_queries(path)
    assert texts(loaded) == ["a", "b", "c"]
    assert loaded.dropped == [
        Dropped("", f"{path}:2", "empty query"),
        Dropped("3", f"{path}:3", "empty query"),
        Dropped("", f"{path}:4", "empty query"),
    ]
    plain = tmp_path / "e.txt"
    plain.write_text("a\n\nb\n")
    assert texts(load_queries(str(plain))) == ["a", "b"], "a blank line is no row"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no user message"),
        ({"messages": [{"role": "tool", "content": "a"}, user("b")]}, "role 'tool'"),
        ({"messages": [user(None), user("b")]}, "holds no text"),  # type: ignore[arg-type]
        ({"prompt": "half \ud83d"}, "surrogate"),
    ],
)
def test_what_can_not_be_a_prompt_is_dropped(tmp_path: Path, row: dict, reason: str) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps(row) + '\n"fine"\n')
    loaded = load_queries(str(tmp_path / "d.jsonl"))
    assert texts(loaded) == ["fine"]
    assert reason in loaded.dropped[0].reason


def test_a_repetition_is_dropped(tmp_path: Path) -> None:
    composed, apart = unicodedata.normalize("NFC", "Café au  lait"), unicodedata.normalize("NFD", " Café\nau lait")
    path = write(tmp_path / "r.jsonl", [{"id": "a", "prompt": composed}, {"id": "b", "prompt": apart}, "Cafe au lait"])
    loaded = load_queries(path)
    assert texts(loaded) == [composed, "Cafe au lait"]
    assert loaded.dropped == [Dropped("b", f"{path}:2", "duplicate of a")]


def test_the_same_row_twice_is_a_repetition_and_no_clash_of_ids(tmp_path: Path) -> None:
    loaded = load_queries(write(tmp_path / "r.jsonl", [{"id": "a", "prompt": "x"}] * 2))
    assert [drop.reason for drop in loaded.dropped] == ["duplicate of a"]


def test_the_messages_before_and_their_roles_make_another_query(tmp_path: Path) -> None:
    prompts = [[user("x")], *([{"role": role, "content": "a"}, user("x")] for role in ("system", "assistant"))]
    loaded = load_queries(write(tmp_path / "s.jsonl", [{"prompt": prompt} for prompt in prompts]))
    assert len({query.id for query in loaded.queries}) == 3


def test_limit_counts_after_de_duplication_and_stops_there(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text('"a"\n"a"\n""\n"b"\nnot json\n')
    loaded = load_queries(str(tmp_path / "l.jsonl"), limit=2)
    assert texts(loaded) == ["a", "b"] and len(loaded.dropped) == 2


def test_a_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder stands for the hub: the same load_dataset, fed from disk."""
    import datasets

    (tmp_path / "hub").mkdir()
    write(tmp_path / "hub" / "test.jsonl", [{"prompt": text} for text in TEXTS])
    asked = []

    def load_dataset(name: str, config: str | None, split: str) -> datasets.Dataset:
        asked.append((name, config))
        files = {"test": str(tmp_path / "hub" / "test.jsonl")}
        return original("json", data_files=files, split=split, cache_dir=str(tmp_path / "cache"))

    original = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loaded = load_queries("org/name:main", dataset_split="test", limit=3)
    assert texts(loaded) == TEXTS[:3] and asked == [("org/name", "main")]
    assert {query.source for query in loaded.queries} == {"org/name:main"}
    with pytest.raises(DataError, match=r"can't load the data set 'org/name': .*[Uu]nknown split \"train\""):
        load_queries("org/name")


def test_a_local_file_wins_over_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    write(tmp_path / "org" / "name" / "a.jsonl", ["local"])
    monkeypatch.chdir(tmp_path)
    assert texts(load_queries("org/name")) == ["local"]


BUILTIN_COUNTS = {"quickstart": 64, "quickstart-heldout": 24, "quickstart-questions": 24}


@pytest.mark.parametrize("name", BUILTIN)
def test_shipped_sets(name: str) -> None:
    loaded = load_queries(f"builtin:{name}")
    assert len(loaded.queries) == BUILTIN_COUNTS[name] and loaded.dropped == []
    assert all(20 <= len(text) <= 400 for text in texts(loaded))
    hashes = load_queries(f"builtin:{name}", limit=5).queries
    assert [query.id for query in hashes] == [query.id for query in loaded.queries[:5]]


def test_shipped_ids_are_the_hashes_of_their_prompts(tmp_path: Path) -> None:
    for name in BUILTIN:
        loaded = load_queries(f"builtin:{name}").queries
        again = load_queries(write(tmp_path / "again.jsonl", [{"prompt": query.prompt} for query in loaded])).queries
        assert [query.id for query in again] == [query.id for query in loaded]


@pytest.mark.parametrize("heldout", ["quickstart-heldout", "quickstart-questions"])
def test_shipped_sets_to_measure_on_hold_no_query_to_train_on(heldout: str) -> None:
    names = ("quickstart", heldout)
    first, second = ({content_hash(q.prompt) for q in load_queries(f"builtin:{name}").queries} for name in names)
    assert first and second and not first & second


def test_shipped_queries_are_all_attributed_under_apache() -> None:
    """The table of selfsteer/data/README.md: every source, its licence, its counts and the hashes of the files."""
    import selfsteer

    folder = Path(selfsteer.__file__).parent / "data"
    readme = (folder / "README.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in readme.splitlines() if "Apache-2.0 |" in line
    ]
    table = {row[0]: (row[1], *map(int, row[-len(BUILTIN) :])) for row in rows}
    sources = [[query.source for query in load_queries(f"builtin:{name}").queries] for name in BUILTIN]
    names = {name for one in sources for name in one}
    assert table == {name: ("Apache-2.0", *(one.count(name) for one in sources)) for name in names}
    for file in BUILTIN.values():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() in readme


def test_loading_needs_neither_torch_nor_datasets() -> None:
    code = (
        "import sys; from selfsteer.queries import load_queries; load_queries('builtin:quickstart');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'datasets', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def unique(values: list[str]) -> list[str]:
    """Leave out what loading drops on purpose."""
    first: dict[bytes, str] = {}
    for value in values:
        if value.strip():
            first.setdefault(content_hash([user(value)]), value)
    return list(first.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=6).map(unique).filter(bool))
def test_any_texts_survive_every_format(tmp_path_factory: pytest.TempPathFactory, values: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    for suffix in (".jsonl", ".csv", ".tsv", ".parquet", ".json.gz"):
        loaded = load_queries(write(folder / f"q{suffix}", [{"prompt": value} for value in values]))
        assert texts(loaded) == values and loaded.dropped == []
