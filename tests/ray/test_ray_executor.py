"""Batches by the actors of a Ray cluster: the files of one process, killed actors, lost nodes, errors, warnings."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from selfsteer.errors import PromptRefused, SelfsteerWarning, WorkFailed
from selfsteer.records import Query, read_rows
from selfsteer.runs import ray_executor
from selfsteer.runs.progress import Display
from selfsteer.runs.ray_executor import RayExecutor, Share, connect
from selfsteer.runs.shards import run_sharded
from selfsteer.runs.store import Workspace
from tests.runs.test_worker_pool import do as in_process
from tests.runs.test_worker_pool import job, numbers, on_disk
from tests.runs.worker_tasks import Models

pytestmark = pytest.mark.ray


def do(folder: Path, orders: Sequence[str], actors: int = 2) -> list[Path]:
    """Do the orders with so many actors; 0: one on each node."""
    folder.mkdir(exist_ok=True)
    space = Workspace(folder, "stage", "key", Display(quiet=True))

    def share(nodes) -> Share:
        return Share(actors or len(nodes), 1, 0)

    with closing(RayExecutor(partial(Models, folder), share)) as executor:
        return run_sharded(space, *job(folder, orders), executor)[0]


def ids(paths: Sequence[Path]) -> Counter[str]:
    return Counter(row.id for row in read_rows(paths, Query))


def expected(count: int) -> dict[str, int]:
    return {str(number): 1 for number in range(count)}


def test_actors_write_the_files_that_one_process_writes(two_cpus, tmp_path):
    orders = ["meet 2"] * 2 + ["say"] * 19
    (tmp_path / "one").mkdir()
    (tmp_path / "one/opened-elsewhere").touch()
    in_process(tmp_path / "one", orders, 1)
    do(tmp_path / "two", orders)
    one, two = (sorted((tmp_path / name / "stage").iterdir()) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two] and len(one) == 7


@pytest.mark.parametrize("place", [0, 3, 20])
def test_a_batch_whose_actor_is_killed_is_repeated(two_cpus, tmp_path, place):
    do(tmp_path, ["say"] * 2)  # the second pipeline in a session
    orders = ["wait 0.05"] * 21
    orders[place] = "die-once"
    assert ids(do(tmp_path / "killed", orders)) == expected(21) and (tmp_path / "killed/died").exists()


def test_a_batch_that_kills_all_who_do_it_ends_the_stage_and_keeps_the_others(two_cpus, tmp_path):
    with pytest.raises(WorkFailed, match="Ray pipeline ended") as caught:
        do(tmp_path, ["say", "die SIGKILL", "say"])
    assert "batch_size" in caught.value.do and "1" not in on_disk(tmp_path)
    assert ids(do(tmp_path, ["say"] * 3)) == expected(3), "the stage resumes"


def test_an_error_of_the_package_comes_through_whole_and_what_is_under_way_is_kept(two_cpus, tmp_path):
    with pytest.raises(PromptRefused) as caught:
        do(tmp_path, ["say", "refuse", *["say"] * 40])
    own = PromptRefused("what " * 300, where="here", do="that")
    assert (str(caught.value), vars(caught.value)) == (str(own), vars(own))
    assert "0" in on_disk(tmp_path) and len(on_disk(tmp_path)) < 30


def test_another_error_has_the_actors_traceback(two_cpus, tmp_path):
    with pytest.raises(ValueError, match="odd") as caught:
        do(tmp_path, ["crash odd"])
    assert "worker_tasks.py" in str(caught.value.__cause__)


def test_what_all_actors_warn_of_is_said_once(two_cpus, tmp_path):
    with pytest.warns(SelfsteerWarning) as caught:
        do(tmp_path, ["meet 2", "meet 2", *["warn careful"] * 6])
    assert [str(one.message) for one in caught] == ["careful"]


def test_memory_does_not_hold_the_plan(two_cpus, tmp_path):
    """Planning is no further ahead than the batches under way."""
    space = Workspace(tmp_path, "stage", "key", Display(quiet=True))
    count, work = job(tmp_path, ["wait 0.01"] * 120)
    planned: list[tuple[int, int]] = []

    def plan(number: int):
        planned.append((number, len(on_disk(tmp_path))))
        return work.plan(number)

    with closing(RayExecutor(partial(Models, tmp_path), lambda nodes: Share(2, 1, 0))) as executor:
        run_sharded(space, count, replace(work, plan=plan), executor)
    assert len(planned) == 40 and max(3 * number - there for number, there in planned) <= 2 * 2 + 4 + 3


@pytest.mark.parametrize("ends", [1, 2])
def test_a_pipeline_that_ends_with_batches_missing_is_started_once_more(two_cpus, tmp_path, monkeypatch, ends):
    """With one executor for two stages, whose batches have the same numbers."""
    from selfsteer.runs.ray_pipeline import Pipeline

    put, left = Pipeline.put, []

    def end_or_put(self: Pipeline, ticket: int, batch: bytes) -> None:
        if ticket == 0 and left:
            self.feed.close.remote()
            left.pop()
        else:
            put(self, ticket, batch)

    monkeypatch.setattr(Pipeline, "put", end_or_put)
    with closing(RayExecutor(partial(Models, tmp_path), lambda nodes: Share(1, 1, 0))) as executor:
        for stage in ("first", "second"):
            left[:] = [None] * ends
            space = Workspace(tmp_path, stage, "key", Display(quiet=True))
            if ends == 1:
                assert ids(run_sharded(space, *job(tmp_path, ["say"] * 3), executor)[0]) == expected(3)
            else:
                with pytest.raises(WorkFailed, match="no more results"):
                    run_sharded(space, *job(tmp_path, ["say"] * 3), executor)
            assert not left


def test_a_cluster_without_room_is_said_once_then_ends_the_stage(two_cpus, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor, "_SAID_SECONDS", 1.0)
    monkeypatch.setattr(ray_executor, "_ROOM_SECONDS", 8.0)
    group = two_cpus.util.placement_group([{"CPU": 2}])  # another job's
    two_cpus.get(group.ready())
    try:
        with pytest.warns(SelfsteerWarning) as said, pytest.raises(WorkFailed, match="no actor has started") as caught:
            do(tmp_path, ["say"] * 3)
    finally:
        two_cpus.util.remove_placement_group(group)
        monkeypatch.undo()
    own = [str(one.message) for one in said if one.category is SelfsteerWarning]
    assert len(own) == 1 and "waiting up to 8 s" in own[0]
    assert "takes 1 CPUs and 0 GPUs of a node (0 CPUs" in str(caught.value) and "ray status" in caught.value.do
    assert ids(do(tmp_path, ["say"] * 3)) == expected(3), "the stage resumes once there is room"


def test_a_node_is_removed_from_a_cluster_of_three(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "")  # Cluster sets it; both lines have it restored
    monkeypatch.delenv("RAY_ADDRESS")
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        lost = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)][0]
        assert len(connect(cluster.address)) == 3
        removed: list[tuple[float, int]] = []

        def remove() -> None:
            while len(list(tmp_path.glob("opened-*"))) < 3:
                time.sleep(0.05)
            time.sleep(0.3)
            cluster.remove_node(lost, allow_graceful=False)
            removed.append((time.monotonic(), len(on_disk(tmp_path))))

        thread = threading.Thread(target=remove)
        thread.start()
        paths = do(tmp_path, ["meet 3"] * 3 + ["wait 0.4"] * 30, 0)
        ended = time.monotonic()
        thread.join()
        (at, done) = removed[0]
        assert at < ended and done < 33, "the node went during the work"
        assert ids(paths) == expected(33)
        assert numbers(paths) == {str(number): str(number) for number in range(33)}
        assert not list(tmp_path.rglob("*.pieces"))
    finally:
        ray.shutdown()
        cluster.shutdown()
