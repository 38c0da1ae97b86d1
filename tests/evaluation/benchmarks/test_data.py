"""Data files of benchmarks: known by their content, counted, downloaded at a pinned commit."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from selfsteer.backends import Sampling
from selfsteer.commands.evaluate_data import evaluate_data
from selfsteer.errors import ConfigError, DataError, FetchError
from selfsteer.evaluation.benchmarks import data
from selfsteer.evaluation.benchmarks.data import data_problems, find_data, read_rows
from selfsteer.evaluation.benchmarks.table import (
    BenchmarkFacts,
    FileVersion,
    benchmarks_of_suite,
    model_benchmarks,
    suites,
)
from tests.printed import printed

SHARED = Path(__file__).parents[4] / "shared" / "data"
ROWS = b'{"q": "a"}\n{"q": "b"}\n'
COMMIT = "0" * 40


def facts_with(**files: tuple[FileVersion, ...]) -> BenchmarkFacts:
    return BenchmarkFacts("toy", "Toy", "none:NONE", "p", 2, "acc", "MIT", Sampling(8, 0.0, 1.0), files)


def version(**given) -> FileVersion:
    return FileVersion(
        **({"path": "toy/q.jsonl", "source": "the shop", "sha256": hashlib.sha256(ROWS).hexdigest(), "n": 2} | given)
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz"])
def test_a_file_is_known_by_its_content(tmp_path, name):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / name).write_bytes(gzip.compress(ROWS) if name.endswith("gz") else ROWS)
    facts = facts_with(questions=(version(),))
    [found] = find_data(facts, tmp_path)
    assert (found.state, found.n, found.sha256) == ("verified", 2, hashlib.sha256(ROWS).hexdigest())
    assert not list(data_problems(facts, [found], unverified=False))
    assert read_rows(found.path) == [{"q": "a"}, {"q": "b"}]


def test_a_row_less_is_an_unknown_content(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/q.jsonl").write_bytes(ROWS.splitlines(keepends=True)[0])
    facts = facts_with(questions=(version(),))
    found = find_data(facts, tmp_path)
    [problem] = data_problems(facts, found, unverified=False)
    assert "1 rows in place of 2" in problem
    assert not list(data_problems(facts, found, unverified=True))


def test_a_missing_file_names_its_source_and_an_optional_one_is_left_out(tmp_path):
    facts = facts_with(questions=(version(),), more=(version(path="toy/m.jsonl", optional=True),))
    found = find_data(facts, tmp_path)
    assert [one.name for one in found] == ["questions"]
    [problem] = data_problems(facts, found, unverified=True)
    assert "toy/q.jsonl is missing; it comes from the shop" in problem


def test_the_preferred_version_is_taken_before_a_derived_one(tmp_path):
    for name in ("derived.jsonl", "official.jsonl"):
        facts = facts_with(f=(version(path="official.jsonl"), version(path="derived.jsonl", note="derived")))
        (tmp_path / name).write_bytes(ROWS)
        [found] = find_data(facts, tmp_path)
        assert found.path == tmp_path / name


def test_a_broken_row_and_a_broken_archive_are_named(tmp_path):
    (tmp_path / "q.jsonl").write_bytes(b'{"q": 1}\n{"q"\n')
    with pytest.raises(DataError, match=r"q\.jsonl:2"):
        read_rows(tmp_path / "q.jsonl")
    (tmp_path / "q.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="archive"):
        find_data(facts_with(questions=(version(path="q.zip"),)), tmp_path)
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(ROWS)[:-6])
    (tmp_path / "q.jsonl").unlink()
    with pytest.raises(DataError, match="get the file again"):
        find_data(facts_with(questions=(version(path="q.jsonl"),)), tmp_path)


def test_rows_of_an_archive_are_those_of_its_test_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "q.zip", "w") as archive:
        archive.writestr("data/test/a_test.csv", '"two\nlines",A\nb,B\n')
        archive.writestr("data/dev/a_dev.csv", "c,C\n")
    [found] = find_data(facts_with(questions=(version(path="q.zip"),)), tmp_path)
    assert found.n == 2


@pytest.fixture
def server(monkeypatch):
    """A server with one file; yields the list of asked paths."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            there = self.path == f"/o/r/{COMMIT}/q.jsonl"
            self.send_response(200 if there else 404)
            self.end_headers()
            self.wfile.write(ROWS if there else b"")

        def log_message(self, *_):
            pass

    served = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setattr(data, "_GITHUB", f"http://127.0.0.1:{served.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield asked
    served.shutdown()
    served.server_close()


def test_a_missing_file_is_downloaded_once_and_checked(tmp_path, server):
    source = f"github:o/r@{COMMIT}:q.jsonl"
    facts = facts_with(questions=(version(source=source),))
    for _ in range(2):
        [found] = find_data(facts, tmp_path, download=True)
        assert (found.state, found.path) == ("verified", tmp_path / "cache/benchmarks/toy/q.jsonl")
    assert len(server) == 1
    other = facts_with(questions=(version(path="toy/other.jsonl", source=source, sha256="f" * 64),))
    with pytest.raises(FetchError, match="expected ffffffffffff"):
        find_data(other, tmp_path, download=True)
    gone = facts_with(questions=(version(path="toy/gone.jsonl", source=f"github:o/r@{COMMIT}:gone"),))
    assert [one.state for one in find_data(gone, tmp_path, download=True)] == ["missing"]


def test_nothing_is_downloaded_offline(tmp_path, server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    facts = facts_with(questions=(version(source=f"github:o/r@{COMMIT}:q.jsonl"),))
    assert [one.state for one in find_data(facts, tmp_path, download=True)] == ["missing"]
    assert not server


def test_the_table_is_sound():
    table = model_benchmarks()
    for facts in table.values():
        questions = next(iter(facts.files.values()))
        # Arena-Hard v2.0 has its two categories in one file.
        n = 750 if facts.name.startswith("arena_hard_v2") else facts.n
        assert {one.n for one in questions} == {n}
        assert all(len(one.sha256) in (0, 64) for versions in facts.files.values() for one in versions)
    assert {name for names in suites().values() for name in names} <= set(table)


def test_suites_and_names_are_read_each_once():
    assert benchmarks_of_suite("math500, modern")[0].name == "math500"
    assert len(benchmarks_of_suite("math500,modern")) == len(suites()["modern"])
    with pytest.raises(ConfigError, match="Did you mean 'gsm8k'"):
        benchmarks_of_suite("gsm8")
    with pytest.raises(ConfigError, match="no benchmark is named"):
        benchmarks_of_suite(",")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")
def test_the_shared_data_are_those_of_the_table(tmp_path, monkeypatch):
    _, shown, _ = printed(lambda out: evaluate_data(SHARED, out), tmp_path / "d.json")
    files = json.loads((tmp_path / "d.json").read_text())["files"]
    assert {(one["benchmark"], one["file"]) for one in files if one["state"] == "missing"} == {
        ("gpqa_diamond", "questions"),
        ("gpqa_main", "questions"),
        ("arena_hard_v2_creative", "baseline"),
    }
    assert {one["state"] for one in files} == {"verified", "missing"}
    assert all(one["n"] == one["expected"] or not one["expected"] for one in files if one["state"] == "verified")
    assert "gpqa/gpqa_main.csv (GPQA main): get it from" in shown


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        evaluate_data(tmp_path / "none")
