"""Several nodes, as processes of this machine: one command on each, and every way in which they may not meet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from selfsteer.config import dump_recipe, load_recipe
from selfsteer.errors import ConfigError, InputError, WorkFailed
from selfsteer.jobs import nodes
from selfsteer.jobs.nodes import Leader, Meeting, follow, meeting_of
from selfsteer.jobs.ranks import node_rank
from selfsteer.loop import run
from tests.jobs.test_launch import difference
from tests.run_helpers import small_recipe, without_reports, write_queries


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_chat_model) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(small_recipe(tiny_chat_model, write_queries(folder), queries__heldout=0)))
    return path


def start(recipe: Path, run_dir: Path, node: int, *settings: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "selfsteer.cli", "run", str(recipe), "--run-dir", str(run_dir)]
    command += ["train.nodes=2", "train.processes=1", "train.rendezvous=localhost:0", *settings]
    environment = os.environ | {"SELFSTEER_NODE": str(node), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


@pytest.mark.slow
def test_two_nodes_train_the_policy_of_one_process(recipe, tmp_path):
    port = meeting_of(2, None, 60).port
    both = [start(recipe, tmp_path / "run", node, f"train.rendezvous=localhost:{port}") for node in (0, 1)]
    (code, shown), (other, said) = map(ended, both)
    assert (code, other) == (0, 0), shown + said
    assert "policy" in shown and "policy" not in said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rounds"][0]["training"]["processes"] == 2
    with without_reports():
        run(load_recipe(recipe), tmp_path / "alone")
    assert difference(tmp_path / "run", tmp_path / "alone") < 1e-5


@pytest.mark.slow
def test_a_node_that_never_comes_is_named(recipe, tmp_path):
    code, said = ended(start(recipe, tmp_path / "run", 0, "train.rendezvous_timeout=5"))
    assert code == 1 and "the 2 nodes did not meet within 5 s; node 1 is missing" in said


@pytest.mark.slow
def test_node_0_dies_and_the_same_commands_finish_the_run(recipe, tmp_path):
    """Killed in the first training: node 1 says so after two minutes of silence, and nothing has to be removed."""
    port = meeting_of(2, None, 60).port
    settings = [f"train.rendezvous=localhost:{port}", "train.epochs=30"]
    both = [start(recipe, tmp_path / "run", node, *settings) for node in (0, 1)]
    until = time.monotonic() + 120
    while not list((tmp_path / "run").glob("round-01/*-job.json")) and time.monotonic() < until:
        time.sleep(0.05)
    both[0].kill()
    (killed, _), (code, said) = map(ended, both)
    assert killed == -signal.SIGKILL
    assert code == 1 and "node 0" in said, said
    again = [start(recipe, tmp_path / "run", node, *settings) for node in (0, 1)]
    assert [code for code, _ in map(ended, again)] == [0, 0]
    with without_reports():
        run(load_recipe(recipe, ["train.epochs=30"]), tmp_path / "alone")
    assert difference(tmp_path / "run", tmp_path / "alone") < 1e-5


def test_a_node_that_waits_in_vain_says_what_to_check(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NODEID", "1")
    with pytest.raises(WorkFailed, match=r"node 0 has not come within 0.1 s") as caught:
        follow(tmp_path, {}, 0.1)
    assert "one folder that all nodes see" in caught.value.do


def test_a_node_with_another_recipe_takes_no_part_and_the_first_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_RANK", "1")
    leader = Leader(tmp_path, 2, {"seed": 0})
    assert leader.missing == [1]
    with leader.leading():
        with pytest.raises(InputError, match="another recipe, or other settings, than node 0"):
            follow(tmp_path, {"seed": 1}, 5)
        with pytest.raises(InputError, match="another recipe") as caught:
            leader.check()
        assert caught.value.where.startswith("node 1, ")
    assert leader.missing == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_node_ends_with_the_first(tmp_path, monkeypatch, fails):
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setattr(nodes, "_BEAT", 0.05)
    leader = Leader(tmp_path, 2, {})

    def lead() -> None:
        with suppress(ConfigError), leader.leading():
            while leader.missing:
                time.sleep(0.02)
            if fails:
                raise ConfigError("something")

    thread = threading.Thread(target=lead)
    thread.start()
    with pytest.raises(WorkFailed, match="the run of node 0 failed") if fails else nullcontext():
        follow(tmp_path, {}, 30)
    thread.join(30)
    assert not thread.is_alive()


def test_a_node_knows_its_number(monkeypatch):
    for name in ("SELFSTEER_NODE", "SLURM_NODEID", "JOB_COMPLETION_INDEX", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert node_rank() == 0
    monkeypatch.setenv("NODE_RANK", "3")
    assert node_rank() == 3
    monkeypatch.setenv("SLURM_NODEID", "2")
    assert node_rank() == 2


@pytest.mark.parametrize("wrong", ["gpu-0", "gpu-0:", ":29500", "gpu-0:port"])
def test_a_meeting_point_is_a_name_and_a_port(wrong):
    assert meeting_of(2, "gpu-0:29500", 5) == Meeting(2, "gpu-0", 29500, 5)
    assert meeting_of(1, None, 5) == Meeting()
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        meeting_of(2, wrong, 5)
