"""Trainings in processes of their own: the weights of one process, and every way in which they can end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from selfsteer.config import Recipe, TrainSettings, dump_recipe
from selfsteer.errors import ConfigError, DataError, InputError, WorkFailed
from selfsteer.files import read_json_lines
from selfsteer.jobs import launch
from selfsteer.jobs.launch import Launch, launch_of
from selfsteer.jobs.spec import JobSpec
from selfsteer.loop import generate, run
from selfsteer.runs.progress import Display
from selfsteer.version import __version__
from selfsteer.workflows.train import train, unfinished_job
from tests.run_helpers import policy_hash, small_recipe, without_reports, write_queries


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_chat_model) -> tuple[Recipe, Path]:
    """A recipe without held-out queries, and its run in the process of the tests."""
    folder = tmp_path_factory.mktemp("alone")
    recipe = small_recipe(tiny_chat_model, write_queries(folder), queries__heldout=0, train__epochs=3)
    with without_reports():
        run(recipe, folder / "run")
    return recipe, folder / "run"


@pytest.fixture
def data(alone, tmp_path, monkeypatch) -> Path:
    """The data of that run, before its training."""
    recipe, _ = alone
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source = alone[1].parent / "data"
    if not source.exists():
        with without_reports():
            generate(recipe, source)
    return Path(shutil.copytree(source, tmp_path / "run", symlinks=True))


def trained(recipe: Recipe, run_dir: Path, **settings) -> Path:
    """Run the recipe with other settings of its training."""
    changed = recipe.train.model_copy(update=settings)
    with without_reports():
        run(recipe.model_copy(update={"train": changed}), run_dir)
    return run_dir


def difference(one: Path, other: Path) -> float:
    """The largest between the weights of two runs."""
    first, second = (load_file(folder / "policy" / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def when(condition, do) -> threading.Thread:
    """Do something from a thread as soon as a condition returns something true, within a minute."""

    def wait() -> None:
        for _ in range(1200):
            if found := condition():
                do(found)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def process_of(run_dir: Path, rank: int, done: int):
    """Return a condition: the pid of a rank that has done so many micro-batches."""

    def found() -> int | None:
        for path in run_dir.glob(f"**/.*-job.tmp/rank-{rank}.json"):
            said = json.loads(path.read_text())
            return said["pid"] if said["done"] >= done else None
        return None

    return found


def left_over(run_dir: Path) -> list[Path]:
    return [*run_dir.glob("**/.*-job.tmp"), *run_dir.glob("**/checkpoints-*")]


def test_one_process_of_its_own_gives_the_same_weights_bit_by_bit(alone, data):
    recipe, reference = alone
    trained(recipe, data, processes=1)
    assert policy_hash(data) == policy_hash(reference)
    assert not left_over(data)
    losses = [[row["loss"] for row in read_json_lines(folder / "metrics.jsonl")] for folder in (data, reference)]
    assert losses[0] == losses[1]


def test_a_process_that_is_killed_is_named_and_the_same_command_resumes(alone, data):
    """Two processes; the second is killed after some steps, and the run then ends with the weights of one process."""
    recipe, reference = alone
    slow = recipe.train.model_copy(update={"processes": 2})
    recipe = recipe.model_copy(update={"train": slow})
    thread = when(process_of(data, 1, 3), lambda pid: os.kill(pid, signal.SIGKILL))
    with pytest.raises(WorkFailed, match="process 1 of the training was ended by SIGKILL") as caught:
        trained(recipe, data, processes=2)
    thread.join()
    assert "resumes from the last checkpoint" in caught.value.do
    done = read_json_lines(data / "metrics.jsonl")
    assert 0 < len(done) < len(read_json_lines(reference / "metrics.jsonl"))
    trained(recipe, data, processes=2)
    assert difference(data, reference) < 1e-5
    assert not left_over(data)
    summary = json.loads((data / "summary.json").read_text())
    assert summary["rounds"][0]["training"]["processes"] == 2


@pytest.mark.slow
def test_sharded_weights_end_in_the_same_policy(alone, data):
    recipe, reference = alone
    trained(recipe, data, processes=2, strategy="fsdp")
    assert difference(data, reference) < 1e-5


@pytest.mark.slow
def test_a_process_that_hangs_is_named_with_its_stack(alone, data):
    recipe, _ = alone
    when(process_of(data, 1, 2), lambda pid: os.kill(pid, signal.SIGSTOP))
    with pytest.raises(WorkFailed, match=r"no process made progress for 5 s; rank .*1 came least far"):
        trained(recipe, data, processes=2, hang_timeout=5)


@pytest.mark.slow
def test_a_command_that_is_killed_takes_its_job_along(alone, data):
    recipe = alone[0].model_copy(update={"train": alone[0].train.model_copy(update={"processes": 2, "epochs": 400})})
    (data.parent / "recipe.yaml").write_text(dump_recipe(recipe))
    command = [sys.executable, "-m", "selfsteer.cli", "run", str(data.parent / "recipe.yaml"), "--run-dir", str(data)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ranks: list[int] = []
    when(process_of(data, 1, 1), ranks.append).join()
    when(process_of(data, 0, 1), ranks.append).join()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(ranks) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in ranks)


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint_in_all_processes(alone, data):
    recipe, reference = alone
    when(process_of(data, 0, 2), lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, data, processes=2)
    assert list(data.glob("**/checkpoints-*/checkpoint-*/selfsteer_manifest.json"))
    trained(recipe, data, processes=1)  # another number of processes
    assert difference(data, reference) < 1e-5


def test_what_a_job_fails_with_is_raised_where_it_was_started(alone, data):
    recipe, _ = alone
    with pytest.raises(WorkFailed, match="the training changed no weight"):
        trained(recipe, data, processes=1, learning_rate=1e-30)


def test_a_job_is_done_by_hand(alone, data, monkeypatch):
    recipe, reference = alone
    monkeypatch.setattr(launch.subprocess, "Popen", _no_start)
    with pytest.raises(OSError, match="not now"):
        trained(recipe, data, processes=1)
    folder = train(data, Display(quiet=True))
    assert folder == data / "round-01"
    with pytest.raises(InputError, match="no training is left to do here"):
        unfinished_job(data)
    trained(recipe, data, processes=1)  # finds the weights, and starts nothing
    assert policy_hash(data) == policy_hash(reference)


def _no_start(*_, **__):
    raise OSError("not now")


def test_a_specification_from_elsewhere_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such job or run directory"):
        unfinished_job(tmp_path / "none")
    with pytest.raises(InputError, match="no training was begun here"):
        unfinished_job(tmp_path)
    said = {"selfsteer": "0", "kind": "policy", "folder": "round-01", "key": "k", "recipe": {}, "work": {}}
    path = tmp_path / "round-01" / "k-job.json"
    path.parent.mkdir()
    for change, message in (
        ({}, "written by selfsteer 0"),
        ({"selfsteer": __version__, "folder": "../elsewhere"}, "not where it says"),
        ({"selfsteer": __version__, "folder": "round-02"}, "not where it says"),
        ({"selfsteer": __version__, "more": 1}, "not the specification"),
        ({"selfsteer": __version__, "key": "../../k"}, "can't be those of files"),
        ({"selfsteer": __version__, "work": {"name": "../k"}}, "can't be those of files"),
    ):
        path.write_text(json.dumps(said | change))
        with pytest.raises(DataError, match=message):
            JobSpec.read(path, Display(quiet=True))


def test_a_jobs_own_code_runs_only_when_it_is_trusted(tmp_path):
    path = tmp_path / "round-01" / "k-job.json"
    path.parent.mkdir()
    said = {"selfsteer": __version__, "kind": "policy", "folder": "round-01", "key": "k"}
    path.write_text(json.dumps(said | {"recipe": {"model": {"trust_remote_code": True}}, "work": {}}))
    with pytest.raises(InputError, match="would run Python code that comes with a model"):
        train(path, Display(quiet=True))


def settings(**values) -> TrainSettings:
    return TrainSettings(batch_size=12, micro_batch_size=2, **values)


@pytest.mark.parametrize(
    ("values", "gpus", "wanted"),
    [
        ({}, None, Launch(1)),
        ({"processes": 0}, None, Launch(0)),
        ({"processes": 2}, None, Launch(2, "ddp")),
        ({}, 8, Launch(6, "ddp")),
        ({}, 1, Launch(1)),
        ({"strategy": "single"}, 8, Launch(1)),
        ({"processes": 4, "strategy": "fsdp"}, 8, Launch(4, "fsdp")),
    ],
)
def test_how_many_processes_there_are(monkeypatch, values, gpus, wanted):
    monkeypatch.setattr(launch, "_visible_gpus", lambda device: gpus)
    assert launch_of(settings(**values), "cuda" if gpus else "cpu", 12) == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"processes": 4}, "4 processes need as many GPUs, and 2 are visible"),
        ({"processes": 2, "strategy": "single"}, "2 processes need a strategy"),
        ({"processes": 1, "strategy": "fsdp"}, "fsdp needs at least two processes"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(monkeypatch, values, message):
    monkeypatch.setattr(launch, "_visible_gpus", lambda device: 2)
    with pytest.raises(ConfigError, match=message):
        launch_of(settings(**values), "cuda", 12)


def test_a_batch_is_shared_evenly():
    with pytest.raises(ConfigError, match="5 processes can't share the 12 examples") as caught:
        launch_of(settings(processes=5), "cpu", 12)
    assert "take 3 or 4 processes" in caught.value.do
