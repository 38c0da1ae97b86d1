"""An export or a filtered file whose process is killed: the next call clears up, and restores what it replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from selfsteer.errors import WorkFailed
from selfsteer.export import ExportOptions, export_file, export_folder
from selfsteer.records import Contrast, write_rows
from selfsteer.runs.store import output_folder, restore_output
from selfsteer.workflows.filter import refilter_file
from tests.example_rows import contrast
from tests.export.helpers import LICENCE

FORK = multiprocessing.get_context("fork")


def rows(count=7):
    return [contrast(f"q{number}") for number in range(count)]


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_after(count):
    yield from rows(count)
    die()


def die_at_rename(target: Path, *, after: bool = False) -> None:
    """Die where the next thing is renamed to ``target``, before it or after it."""
    replace = Path.replace

    def dying(self, to):
        if Path(to) == target:
            if after:
                replace(self, to)
            die()
        return replace(self, to)

    Path.replace = dying


def killed(work) -> None:
    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def to_file(output, found, format="trl", **options):
    export_file(found, ExportOptions(format), output, where="a test", **options)


def to_folder(output, found, **options):
    export_folder(found, ExportOptions("trl"), output, where="a test", licence=LICENCE, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("format", ["trl", "llama-factory"])
def test_a_file_whose_export_was_killed_leaves_nothing_behind_the_next_one(tmp_path, format):
    output = tmp_path / "o.jsonl"
    to_file(tmp_path / "whole" / "o.jsonl", rows(), format)

    def at_the_end():
        die_at_rename(output)
        to_file(output, rows(), format)

    for work in (lambda: to_file(output, dies_after(3), format), at_the_end):
        killed(work)
        assert not output.exists() and list(tmp_path.rglob("*.tmp"))
    to_file(output, rows(), format)
    whole = contents(tmp_path / "whole")
    assert {name: data for name, data in contents(tmp_path).items() if not name.startswith("whole/")} == whole


def test_killed_after_the_file_was_there_the_next_call_clears_up_before_it_refuses(tmp_path):
    output = tmp_path / "o.jsonl"

    def at_the_end():
        die_at_rename(output, after=True)
        to_file(output, rows())

    killed(at_the_end)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".o.jsonl.part", "o.jsonl"]
    with pytest.raises(Exception, match="already exists"):
        to_file(output, rows())
    assert [path.name for path in tmp_path.iterdir()] == ["o.jsonl"]


@pytest.mark.parametrize("moment", ["while writing", "between the renames", "after the renames"])
def test_a_folder_whose_replacement_was_killed_is_the_earlier_or_the_new_one(tmp_path, moment):
    output = tmp_path / "set"
    to_folder(output, rows(3))
    earlier = contents(output)

    def work():
        if moment == "while writing":
            to_folder(output, dies_after(2), overwrite=True)
        die_at_rename(output, after=moment == "after the renames")
        to_folder(output, rows(), overwrite=True)

    killed(work)
    assert output.exists() == (moment != "between the renames")
    with pytest.raises(Exception, match="already holds an export"):  # also where it was gone from its name
        to_folder(output, rows())
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert (contents(output) == earlier) == (moment != "after the renames")
    to_folder(output, rows(), overwrite=True)
    to_folder(tmp_path / "new" / "set", rows())
    assert contents(output) == contents(tmp_path / "new" / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "set"]


@pytest.mark.parametrize("name", ["o.parquet", "folder"])
def test_a_filter_that_was_killed_leaves_nothing_behind_the_next_one(tmp_path, name):
    write_rows(tmp_path / "in.parquet", Contrast, rows())
    output = tmp_path / name

    def work():
        die_at_rename(output)
        refilter_file(tmp_path / "in.parquet", ["quality.filters=[identical]"], output)

    killed(work)
    assert (tmp_path / f".{name}.part").is_dir()
    refilter_file(tmp_path / "in.parquet", ["quality.filters=[identical]"], output)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.parquet", name])


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    output = tmp_path / "o.jsonl"
    ready, end = FORK.Event(), FORK.Event()

    def slow():
        yield rows(1)[0]
        ready.set()
        end.wait(60)

    other = FORK.Process(target=lambda: to_file(output, slow()))
    other.start()
    assert ready.wait(60)
    for call in (lambda: to_file(output, rows()), lambda: restore_output(output)):
        with pytest.raises(WorkFailed, match="another process works in this output"):
            call()
    end.set()
    other.join(60)
    assert [path.name for path in tmp_path.iterdir()] == ["o.jsonl"]
    assert len(output.read_text().splitlines()) == 1


def test_an_error_that_nobody_foresaw_is_logged_and_the_next_call_clears_up(tmp_path):
    with pytest.raises(ZeroDivisionError), output_folder(tmp_path / "o.jsonl") as part:
        (part / "half").write_text("x")
        raise ZeroDivisionError
    assert "ZeroDivisionError" in (tmp_path / ".o.jsonl.part" / "errors.log").read_text()
    restore_output(tmp_path / "o.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_in_the_place_of_that_folder_is_not_followed(tmp_path):
    mine = tmp_path / "mine"
    (mine / "earlier").mkdir(parents=True)
    (mine / ".a.tmp").write_text("mine")
    (tmp_path / ".o.jsonl.part").symlink_to(mine)
    to_file(tmp_path / "o.jsonl", rows())
    assert sorted(path.name for path in mine.iterdir()) == [".a.tmp", "earlier"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "o.jsonl"]
