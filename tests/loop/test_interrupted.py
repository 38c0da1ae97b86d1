"""Interrupted anywhere, the same command goes on and ends with the same rows and weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from selfsteer.loop import run
from selfsteer.records import Response, read_rows
from selfsteer.stages import responses as work
from tests.run_helpers import contrasts, policy_hash, small_recipe, write_queries


class Killed(BaseException):
    """Stands for a process that is gone: nothing catches it."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, tiny_chat_model):
    queries = write_queries(tmp_path_factory.mktemp("queries"))
    run_dir = tmp_path_factory.mktemp("runs") / "unbroken"
    run(small_recipe(tiny_chat_model, queries), run_dir)
    return queries, run_dir


@pytest.mark.parametrize("batch", [1, 4])
def test_killed_while_sampling_it_repeats_only_the_batch_in_flight(
    unbroken, tmp_path, tiny_chat_model, monkeypatch, batch
):
    queries, whole = unbroken
    asked: list[int] = []  # batches, by their seeds
    work_sample = work.sample

    def watched(recipe, backend, requests, seed):
        asked.append(seed)
        if len(asked) == batch and not again:
            raise Killed
        return work_sample(recipe, backend, requests, seed)

    again = False
    monkeypatch.setattr(work, "sample", watched)
    with pytest.raises(Killed):
        run(small_recipe(tiny_chat_model, queries), tmp_path / "run")
    before, asked = asked, []
    again = True
    run(small_recipe(tiny_chat_model, queries), tmp_path / "run")
    assert asked[0] == before[-1] and not set(before[:-1]) & set(asked), "only the batch in flight is asked for again"
    assert contrasts(tmp_path / "run") == contrasts(whole)
    assert policy_hash(tmp_path / "run") == policy_hash(whole)


@pytest.mark.parametrize("step", [1, 3])
def test_killed_in_training_it_goes_on_from_the_last_checkpoint(unbroken, tmp_path, tiny_chat_model, monkeypatch, step):
    from selfsteer.policy import SSOTrainer

    queries, whole = unbroken
    compute = SSOTrainer.compute_loss

    def dying(self, *args, **kwargs):
        if self.state.global_step == step:
            raise Killed
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(SSOTrainer, "compute_loss", dying)
    with pytest.raises(Killed):
        run(small_recipe(tiny_chat_model, queries), tmp_path / "run")
    monkeypatch.setattr(SSOTrainer, "compute_loss", compute)
    run(small_recipe(tiny_chat_model, queries), tmp_path / "run")
    assert policy_hash(tmp_path / "run") == policy_hash(whole)
    metrics = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert len(metrics) == len((whole / "metrics.jsonl").read_text().splitlines()), "no step is logged twice"


def test_adapters_killed_before_their_first_checkpoint_end_with_the_same_bits(tmp_path, tiny_chat_model, monkeypatch):
    """The generator's and the policy's; and a generator whose weights are made again is the one that answered."""
    from selfsteer.policy import SSOTrainer

    lora = {"r": 2, "dropout": 0.1}
    settings = {"mode": "generator", "queries__heldout": 0, "train__save_steps": 50, "train__lora": lora,
                "train__learning_rate": 1e-2, "generator__learning_rate": 1e-2}  # fmt: skip
    recipe = small_recipe(tiny_chat_model, write_queries(tmp_path), **settings)
    run(recipe, tmp_path / "whole")
    compute, killed = SSOTrainer.compute_loss, []

    def dying(self, *args, **kwargs):
        # In the generator's first step, then in the policy's second one.
        if len(killed) < 2 and self.state.global_step == len(killed):
            killed.append(self)
            raise Killed
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(SSOTrainer, "compute_loss", dying)
    for _ in range(2):
        with pytest.raises(Killed):
            run(recipe, tmp_path / "killed")
    again = recipe.model_copy(update={"generator": recipe.generator.model_copy(update={"keep": True})})
    run(again, tmp_path / "killed")
    run(again, tmp_path / "whole")
    assert len(killed) == 2
    assert contrasts(tmp_path / "killed") == contrasts(tmp_path / "whole")
    for name in ("policy", "round-01/generator/policy"):
        files = [tmp_path / folder / name / "adapter_model.safetensors" for folder in ("whole", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_with_its_code_and_loses_nothing(number, code, tmp_path):
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(f"Question number {i}?" for i in range(20_000)), encoding="utf-8")
    command = [sys.executable, "-m", "selfsteer.cli", "run", "recipes/scripted.yaml", f"queries={queries}",
               "generation.batch_size=500", "--run-dir", str(tmp_path / "run")]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    written = tmp_path / "run/round-01/responses"
    deadline = time.monotonic() + 60
    while not (written.is_dir() and list(written.glob("*.parquet"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    assert "interrupted" in process.communicate(timeout=60)[1]
    assert process.returncode == code
    kept = {path: path.stat().st_mtime_ns for path in written.glob("*.parquet")}
    assert kept and not list(written.glob("*.tmp"))

    again = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert again.returncode == 0, again.stderr
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    assert sum(1 for _ in read_rows(sorted(written.glob("*.parquet")), Response)) == 3 * (20_000 - 16)
