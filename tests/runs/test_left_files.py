"""Unfinished files of killed processes go with the next call."""

from __future__ import annotations

from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store, output_folder


def test_unfinished_files_of_stages_go_whatever_key_they_have(tmp_path):
    stage = tmp_path / "run/round-01/responses"
    stage.mkdir(parents=True)
    torn = [tmp_path / "run/.summary.json.01234567.tmp", stage / ".other-key-00000.parquet.01234567.tmp"]
    report = tmp_path / "run/.report.html.part/.report.html.01234567.tmp"
    report.parent.mkdir()
    folder = stage / ".average-key.01234567.tmp"
    folder.mkdir()
    whole = stage / "key-00000.parquet"
    for path in (*torn, report, folder / "model.safetensors", whole):
        path.write_text("x")
    with Store(tmp_path / "run", Display(quiet=True)).locked():
        assert not any(path.exists() for path in (*torn, folder))
        assert whole.exists() and report.exists(), "a report may be at work, and has a lock of its own"


def test_unfinished_outputs_of_earlier_versions_go_and_nothing_else(tmp_path):
    torn, folder = tmp_path / ".o[1].jsonl.01234567.tmp", tmp_path / ".o[1].jsonl.89abcdef.tmp"
    others = [tmp_path / name for name in (".o1.jsonl.01234567.tmp", "o[1].jsonl.01234567.tmp", ".o[1].jsonl.tmp")]
    folder.mkdir()
    for path in (torn, *others):
        path.write_text("x")
    with output_folder(tmp_path / "o[1].jsonl"):
        assert not torn.exists() and not folder.exists() and all(path.exists() for path in others)
