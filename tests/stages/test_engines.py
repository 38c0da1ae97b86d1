"""``generation.engines``: rows do not depend on it, and what can't be is refused before any work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from selfsteer.config import Recipe, dump_recipe
from selfsteer.errors import ConfigError
from selfsteer.loop import generate
from selfsteer.loop.run import check, open_stages
from selfsteer.records import Contrast, Response, SteeredQuery, read_rows
from selfsteer.runs.progress import Display
from selfsteer.runs.worker_pool import WorkerPool
from selfsteer.stages import engines
from selfsteer.stages.engines import check_engines, engine_count, environments
from tests.run_helpers import scripted_recipe, small_recipe, without_reports

KINDS = {"principles": SteeredQuery, "responses": Response, "scores": Contrast}


def recipe_with(model: Path, queries: Path, count: int | str) -> Recipe:
    """Principles by the policy, responses and scores, in batches of four."""
    return small_recipe(
        model, queries, mode="data-only", generation__engines=count, generation__max_new_tokens=20,
        principles__strategy="per_aspect", principles__writing_max_tokens=8,
    )  # fmt: skip


def rows(run_dir: Path) -> dict[str, list]:
    return {
        stage: list(read_rows(sorted((run_dir / f"round-01/{stage}").glob("*.parquet")), kind))
        for stage, kind in KINDS.items()
    }


@pytest.fixture(scope="module")
def one(tiny_chat_model, queries, tmp_path_factory) -> Path:
    """A run by one process."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    with without_reports():
        generate(recipe_with(tiny_chat_model, queries, 1), run_dir)
    return run_dir


def kill_when(there: Path, pattern: str, pids: list[int], killed: list[int]) -> None:
    """Kill the first of the processes once a file of the pattern is there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if next(there.glob(pattern), None) and pids:
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])
            return
        time.sleep(0.002)


def test_two_engines_give_the_rows_of_one_though_one_of_them_is_killed(
    one, tiny_chat_model, queries, tmp_path, monkeypatch
):
    started: list[int] = []
    opened = WorkerPool.open

    def watched(pool, *arguments):
        found = opened(pool, *arguments)
        started[:] = pool.pids
        return found

    monkeypatch.setattr(WorkerPool, "open", watched)
    killed: list[int] = []
    pattern = "round-01/responses/*.pieces/*.parquet"
    thread = threading.Thread(target=kill_when, args=(tmp_path, f"run/{pattern}", started, killed))
    thread.start()
    with without_reports():
        generate(recipe_with(tiny_chat_model, queries, 2), tmp_path / "run")
    thread.join()
    assert killed, "one engine was killed between two batches of responses, or in one"
    assert rows(tmp_path / "run") == rows(one) and len(rows(one)["scores"]) == 7
    assert {path.name for path in tmp_path.rglob("*.parquet")} == {path.name for path in one.rglob("*.parquet")}


@pytest.mark.slow
def test_killed_itself_a_run_resumes_with_another_number_of_engines(one, tiny_chat_model, queries, tmp_path):
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe_with(tiny_chat_model, queries, 3)), encoding="utf-8")
    values, run_dir = tmp_path / "recipe.yaml", tmp_path / "run"
    command = [sys.executable, "-c", "from selfsteer.cli import main; main()", "generate", str(values)]
    parent = subprocess.Popen([*command, "--run-dir", str(run_dir)], cwd=Path(__file__).parents[2])
    killed: list[int] = []
    kill_when(tmp_path, "run/round-01/responses/*.pieces/*.parquet", [parent.pid], killed)
    assert killed and parent.wait(60) == -signal.SIGKILL
    assert not list((tmp_path / "run/round-01/responses").glob("*.parquet"))
    for count in (2, 1):
        shutil.copytree(tmp_path / "run", tmp_path / str(count))
        with without_reports():
            generate(recipe_with(tiny_chat_model, queries, count), tmp_path / str(count))
        assert rows(tmp_path / str(count)) == rows(one)


@pytest.mark.slow
def test_scripted_rows_do_not_depend_on_it(queries, tmp_path):
    for count in (1, 3):
        generation = {"backend": "scripted", "max_new_tokens": 18, "batch_size": 4, "engines": count}
        with without_reports():
            generate(scripted_recipe(queries, generation=generation), tmp_path / str(count))
    assert rows(tmp_path / "1") == rows(tmp_path / "3")


def recipe(count: int | str, **generation) -> Recipe:
    return Recipe.model_validate({"mode": "offline", "generation": {"engines": count, **generation}})


def test_as_many_engines_as_fit_on_the_gpus(monkeypatch):
    monkeypatch.setattr(engines, "visible_gpus", lambda: ["3", "4", "5", "6", "7"])
    vllm = recipe("auto", backend="vllm", vllm={"tensor_parallel_size": 2})
    assert engine_count(vllm, "vllm", "cuda") == 2
    assert engine_count(vllm, "transformers", "cuda") == 5, "a scoring process takes one GPU"
    assert [engine_count(vllm, "vllm", device) for device in ("cpu", "cuda:1", "")] == [1, 1, 1]
    assert engine_count(recipe(2), "transformers", "cuda") == 2
    assert environments(2, 2, "cuda") == [{"CUDA_VISIBLE_DEVICES": "3,4"}, {"CUDA_VISIBLE_DEVICES": "5,6"}]
    assert [engine_count(recipe("auto"), name, "cuda") for name in ("scripted", "endpoint")] == [1, 1]


@pytest.mark.parametrize(
    "asked, device, what",
    [
        (recipe(6), "cuda", "6 engines need 6 GPUs, and 5 are visible"),
        (recipe(3, backend="vllm", vllm={"tensor_parallel_size": 2}), "cuda", "3 engines of 2 GPUs each need 6 GPUs"),
        (recipe(2), "cuda:1", "model.device names one: cuda:1"),
        (recipe(2, backend="endpoint", endpoint={"model": "m"}), "", "has no engines on this machine"),
    ],
)
def test_more_engines_than_there_can_be_are_refused(monkeypatch, asked, device, what):
    monkeypatch.setattr(engines, "visible_gpus", lambda: list("01234"))
    with pytest.raises(ConfigError) as caught:
        check_engines(asked, device)
    assert what in caught.value.what and caught.value.where == "generation.engines" and caught.value.do


def test_it_is_checked_before_any_work(tmp_path, queries, monkeypatch):
    generation = {"backend": "endpoint", "endpoint": {"model": "m"}, "engines": 2}
    stages = open_stages(scripted_recipe(queries, generation=generation), tmp_path / "run", Display(quiet=True))
    with pytest.raises(ConfigError, match="no engines"):
        check(stages)
