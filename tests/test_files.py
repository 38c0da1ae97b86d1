"""Files: whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from selfsteer import files
from selfsteer.errors import StorageError
from selfsteer.files import (
    append_json,
    atomic_path,
    fingerprint,
    home_expanded,
    link_atomic,
    parse_json,
    read_json,
    read_json_lines,
    remove,
    sha256_file,
    write_atomic,
    write_json,
)


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "down" / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert not target.exists() and temporary.parent == target.parent
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    target = tmp_path / "a.txt"
    write_atomic(target, "old")
    with pytest.raises(failure), atomic_path(target) as temporary:
        temporary.write_text("ha")
        raise failure
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_a_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(ValueError), atomic_path(tmp_path / "model") as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "deep" / "weights").write_text("ha")
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_moved_into_place_as_a_whole(tmp_path):
    with atomic_path(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("w")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "weights").read_text() == "w"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_replaces_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with pytest.raises(OSError), atomic_path(tmp_path / "model") as temporary:
        temporary.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]


def test_contents_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    """Each file and folder is synced before the rename, the parent folder after it."""
    synced, fsync = [], os.fsync

    def spy(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", spy)
    with atomic_path(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "weights").touch()
    assert synced == [temporary, temporary / "weights", tmp_path]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some quota"),
        (errno.EROFS, "can be written to"),
        (errno.EACCES, "may write to"),
        (errno.ENOTDIR, "there is a file where a folder is needed"),
    ],
)
def test_a_refusing_disk_becomes_one_message_with_advice(tmp_path, code, advice):
    target = tmp_path / "a.txt"
    with pytest.raises(StorageError) as caught, atomic_path(target) as temporary:
        temporary.write_text("ha")
        raise OSError(code, os.strerror(code))
    assert advice in caught.value.do and caught.value.where == str(target)
    assert os.strerror(code) in caught.value.what and caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_not_about_storage_stays_what_it_is(tmp_path):
    with pytest.raises(ConnectionResetError), atomic_path(tmp_path / "a.txt"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_a_file_where_a_folder_is_needed_is_named(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(StorageError) as caught:
        write_atomic(tmp_path / "runs" / "one" / "a.txt", "x")
    assert str(tmp_path / "runs") in caught.value.where


def test_json_comes_back_as_it_was(tmp_path):
    value = {"text": "naïve 😀\u2028", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "naïve 😀" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_file_name_that_is_not_utf8_can_stand_in_json(tmp_path):
    """Python holds the odd byte of such a name as half of a surrogate pair."""
    name = os.fsdecode(b"caf\xe9.jsonl")
    write_json(tmp_path / "a.json", {"source": name})
    append_json(tmp_path / "a.jsonl", {"source": name})
    assert read_json(tmp_path / "a.json") == {"source": name}
    assert read_json_lines(tmp_path / "a.jsonl") == [{"source": name}]
    assert fingerprint(name) != fingerprint("caf\\udce9.jsonl")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_a_damaged_json_file_reads_as_missing(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") is None
    assert read_json(tmp_path / "none.json") is None
    assert read_json(tmp_path / "a.json" / "below") is None


def test_lines_are_appended_in_order(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    for number in range(3):
        append_json(path, {"n": number})
    assert path.read_text() == '{"n": 0}\n{"n": 1}\n{"n": 2}\n'
    assert read_json_lines(path) == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize("torn", [b'{"n": 1, "te', b'{"n": 1, "text": "\xe2\x82', b"\x00\x00\x00"])
def test_a_torn_line_spoils_only_itself(tmp_path, torn):
    path = tmp_path / "log.jsonl"
    append_json(path, {"n": 0})
    with path.open("ab") as stream:
        stream.write(torn)
    assert read_json_lines(path) == [{"n": 0}]
    append_json(path, {"n": 2})
    assert read_json_lines(path) == [{"n": 0}, {"n": 2}]


def test_a_log_that_is_not_there_has_no_lines(tmp_path):
    assert read_json_lines(tmp_path / "none.jsonl") == []


def test_a_link_is_relative_and_replaced_in_one_step(tmp_path):
    run = tmp_path / "run"
    for name in ("one", "two"):
        (run / "round-01" / name).mkdir(parents=True)
        (run / "round-01" / name / "is").write_text(name)
    link_atomic(run / "policy", run / "round-01" / "one")
    link_atomic(run / "policy", run / "round-01" / "two")
    assert str((run / "policy").readlink()) == "round-01/two"
    run.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "policy" / "is").read_text() == "two"
    assert {path.name for path in (tmp_path / "moved").iterdir()} == {"policy", "round-01"}


def test_a_link_that_can_not_be_put_in_place_leaves_nothing(tmp_path):
    (tmp_path / "policy").mkdir()
    with pytest.raises(StorageError, match="a folder where a file is needed"):
        link_atomic(tmp_path / "policy", tmp_path / "elsewhere")
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_remove_takes_a_link_and_leaves_what_it_points_at(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    remove(tmp_path / "link")
    remove(tmp_path / "not there")
    assert [path.name for path in tmp_path.iterdir()] == ["real"]


def test_a_fingerprint_names_the_value_and_not_its_spelling():
    assert fingerprint({"a": 1, "b": [1, "é"]}) == fingerprint({"b": [1, "é"], "a": 1})
    assert fingerprint((1, 2)) == fingerprint([1, 2])
    assert fingerprint(Path("x")) == fingerprint("x")
    different = [{"a": 1}, {"a": 2}, {"a": "1"}, {"a": 1.5}, [{"a": 1}], {"a": None}, {}, [1, 2], [2, 1], [12]]
    assert len({fingerprint(value) for value in different}) == len(different)


def test_a_fingerprint_stays_the_same_from_version_to_version():
    """Stage keys are made of it: another value would redo every run on disk."""
    assert fingerprint({"b": [1, None, "é"], "a": 0.5}) == "25456aab1763dbb9"


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "a") == known


def test_our_json_lines_are_plain_json_lines(tmp_path):
    append_json(tmp_path / "log.jsonl", {"b": "line\nbreak", "a": 1})
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert list(json.loads(line).items()) == [("a", 1), ("b", "line\nbreak")]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_nested_too_deep_is_a_value_error(text):
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json(text)


def test_a_damaged_file_nested_deep_reads_as_missing(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000 + "\n", encoding="utf-8")
    assert read_json(path) is None
    assert read_json_lines(path) == []


@pytest.mark.parametrize("act", [read_json, read_json_lines, lambda path: append_json(path, {})])
def test_a_pipe_in_place_of_a_file_is_an_error_and_blocks_nothing(act, tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(StorageError, match="not a regular file"):
        act(tmp_path / "a.json")


def test_nothing_is_appended_through_a_symbolic_link(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "ledger.jsonl"
    victim.write_text("mine\n", encoding="utf-8")
    link.symlink_to(victim)
    with pytest.raises(StorageError, match="not written through"):
        append_json(link, {"a": 1})
    assert victim.read_text(encoding="utf-8") == "mine\n"


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EFBIG, errno.EISDIR, errno.EBUSY, errno.ELOOP])
def test_each_error_of_the_system_says_what_to_do(number, tmp_path):
    with pytest.raises(StorageError) as caught, files.storage_errors(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path))
    assert caught.value.do


def test_a_home_folder_that_is_not_there_stays_as_it_is(monkeypatch):
    assert home_expanded("~nouser-of-that-name/x") == Path("~nouser-of-that-name/x")
    monkeypatch.setenv("HOME", "/home/me")
    assert home_expanded("~/x") == Path("/home/me/x")


@pytest.mark.parametrize("folder", [False, True])
def test_weights_can_be_read_as_the_umask_says(tmp_path, folder):
    """safetensors writes them for their owner alone."""
    import torch
    from safetensors.torch import save_file

    plain = tmp_path / "plain"
    plain.touch()
    with atomic_path(tmp_path / "out") as temporary:
        if folder:
            temporary.mkdir()
        save_file({"w": torch.zeros(2)}, temporary / "model.safetensors" if folder else temporary)
    written = tmp_path / "out" / "model.safetensors" if folder else tmp_path / "out"
    assert written.stat().st_mode == plain.stat().st_mode
