"""Batches in several processes: the same files as in one, dead workers, errors, warnings, and no process left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from selfsteer.errors import PromptRefused, SelfsteerWarning, WorkFailed
from selfsteer.records import Query, read_rows
from selfsteer.runs.progress import Display
from selfsteer.runs.shards import ShardJob, ShardPlan, run_sharded
from selfsteer.runs.store import Workspace, in_batches
from selfsteer.runs.worker_pool import WorkerPool
from tests.runs.worker_tasks import Models, Obeying


def job(folder: Path, orders: Sequence[str]) -> tuple[int, ShardJob[Query, Query]]:
    """Batches of one query each, three a block."""
    queries = [Query(str(number), [{"role": "user", "content": order}]) for number, order in enumerate(orders)]
    plans = [ShardPlan(in_batches(some, 1)) for some in in_batches(queries, 3)]
    return len(plans), ShardJob(Query, plans.__getitem__, Obeying(folder), per_block=3)


def do(folder: Path, orders: Sequence[str], workers: int = 2) -> dict[str, str]:
    """Do the orders with workers, or in this process; return the number of the batch by query."""
    space = Workspace(folder, "stage", "key", Display(quiet=True))
    if workers == 1:
        return numbers(run_sharded(space, *job(folder, orders))[0])
    with closing(WorkerPool(partial(Models, folder), workers)) as pool:
        paths, _ = run_sharded(space, *job(folder, orders), pool)
    return numbers(paths)


def numbers(paths: Sequence[Path]) -> dict[str, str]:
    return {row.id: row.source for row in read_rows(paths, Query)}


def on_disk(folder: Path) -> set[str]:
    return {row.id for row in read_rows(sorted((folder / "stage").rglob("*.parquet")), Query)}


def pids(folder: Path, of: str) -> set[int]:
    """The workers that left a file: "opened" or "freed"."""
    return {int(path.name.rpartition("-")[2]) for path in folder.glob(f"{of}-*")}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_several_workers_write_the_files_that_one_process_writes(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    orders = ["meet 2"] * 2 + ["say"] * 5  # the first two are done side by side
    (tmp_path / "one/opened-elsewhere").touch()
    assert do(tmp_path / "one", orders, 1) == do(tmp_path / "two", orders) == {str(n): str(n) for n in range(7)}
    one, two = (sorted((tmp_path / name / "stage").iterdir()) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two] and len(one) == 3
    opened, freed = (pids(tmp_path / "two", of) for of in ("opened", "freed"))
    assert len(opened) == 2 and opened == freed and not any(map(alive, opened))


def test_a_killed_worker_is_started_again_and_its_batch_repeated(tmp_path):
    assert do(tmp_path, ["say", "die-once", "say", "say"]) == {str(n): str(n) for n in range(4)}
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("name, hint", [("SIGKILL", "out of memory"), ("SIGBUS", "/dev/shm"), ("SIGSEGV", "crashed")])
def test_a_batch_that_kills_two_workers_ends_the_stage_and_keeps_the_others(tmp_path, name, hint):
    with pytest.raises(WorkFailed) as caught:
        do(tmp_path, ["say", f"die {name}", "wait 0.1"])
    error = caught.value
    assert error.what.startswith("engine ") and f"was ended by {name} in batch 1, twice" in error.what
    assert error.what.endswith("it wrote: last words") and hint in error.do
    assert "0" in on_disk(tmp_path) and "1" not in on_disk(tmp_path)
    assert do(tmp_path, ["say"] * 3, 1) == {"0": "0", "1": "1", "2": "2"}, "the stage resumes"


def test_an_error_of_the_package_comes_through_whole_and_what_is_under_way_is_kept(tmp_path):
    with pytest.raises(PromptRefused) as caught:
        do(tmp_path, ["wait 0.5", "refuse", *["say"] * 20])
    own = PromptRefused("what " * 300, where="here", do="that")
    assert (str(caught.value), vars(caught.value)) == (str(own), vars(own))
    assert "0" in on_disk(tmp_path) and len(on_disk(tmp_path)) < 20


def test_another_error_has_the_workers_traceback(tmp_path):
    with pytest.raises(ValueError, match="odd") as caught:
        do(tmp_path, ["crash odd"])
    assert "worker_tasks.py" in str(caught.value.__cause__)


def test_what_all_workers_warn_of_is_said_once(tmp_path):
    with pytest.warns(SelfsteerWarning) as caught:
        do(tmp_path, ["meet 2", "meet 2", *["warn careful"] * 6])
    assert [str(one.message) for one in caught] == ["careful"]


def test_there_are_no_more_workers_than_batches(tmp_path):
    do(tmp_path, ["say"], 5)
    assert len(list(tmp_path.glob("opened-*"))) == 1


_RUN = """
import sys
from pathlib import Path
from selfsteer.commands.console import handled_signals, interruptible
from tests.runs.test_worker_pool import do
with handled_signals(), interruptible():
    do(Path(sys.argv[1]), ["hang", "wait 600"])
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_no_worker_outlives_its_parent(tmp_path, name):
    parent = subprocess.Popen([sys.executable, "-c", _RUN, str(tmp_path)], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while not ((tmp_path / "child").exists() and (tmp_path / "child").read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    running = {*pids(tmp_path, "opened"), int((tmp_path / "child").read_text())}
    assert all(map(alive, running))
    os.kill(parent.pid, getattr(signal, name))
    parent.wait(30)
    deadline = time.monotonic() + 10
    while any(map(alive, running)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, running))
