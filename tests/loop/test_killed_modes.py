"""`run` killed with SIGKILL in stages and trainings ends with the same rows and bitwise the same weights."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path

import pytest

from selfsteer.records import Contrast, Response, SteeredQuery, read_rows
from tests.killable_run import Moment, run_until
from tests.run_helpers import policy_hash, small_recipe

IN_TRAINING = [
    Moment("step", "generator", 1),
    Moment("checkpoint", "generator", 2),
    Moment("record", "generator", 1),
    Moment("step", "base", 1),
    Moment("checkpoint", "base", 2),
]
STAGES = [
    Moment("record", stage, 1)
    for stage in (
        "queries principles generator-responses generator-scores generator-contrasts generator responses scores "
        "contrasts policy"
    ).split()
]
SECOND_ROUND = [Moment("record", "average", 1), Moment("record", "reference", 2), Moment("step", "sso", 1)]
GENERATOR = {
    "mode": "generator",
    "generator__queries": 5,
    "generator__batch_size": 2,
    "generator__learning_rate": 1e-3,
    "generator__keep": True,
    "principles__below_chance": "warn",
    "queries__heldout": 0,
    "queries__limit": 6,
}
ROUNDS = {"rounds": 2, "train__reference": "ema", "train__older_rounds": 1, "queries__heldout": 0, "queries__limit": 5}
KINDS = {"principles": SteeredQuery, "responses": Response, "scores": Contrast, "contrasts": Contrast}


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killable_run"])
    return context


def go(processes, recipe, run_dir: Path, moment: Moment | None = None) -> int:
    process = processes.Process(target=run_until, args=(recipe.model_dump(), run_dir, moment))
    process.start()
    process.join(300)
    assert process.exitcode is not None
    return process.exitcode


def left_by(run_dir: Path) -> dict[str, object]:
    """What a run left: its files (names hold the stages' keys), rows, weights; the ledger's times left out."""
    found: dict[str, object] = {"policy": policy_hash(run_dir)}
    for path in sorted(path for path in run_dir.rglob("*") if path.is_file()):
        name = str(path.relative_to(run_dir))
        kind = KINDS.get(path.parent.name)
        weights = path.suffix == ".safetensors"
        found[name] = list(read_rows([path], kind)) if kind and path.suffix == ".parquet" else None
        if weights:
            found[name] = path.read_bytes()
    return found


@pytest.mark.parametrize(
    ("changes", "moments"),
    [
        pytest.param(GENERATOR, IN_TRAINING, id="trainings"),
        pytest.param(GENERATOR, STAGES, id="stages", marks=pytest.mark.slow),
        pytest.param(ROUNDS, SECOND_ROUND, id="rounds", marks=pytest.mark.slow),
    ],
)
def test_killed_again_and_again_it_ends_with_the_same_rows_and_weights(
    processes, tmp_path, tiny_chat_model, queries, changes, moments
):
    recipe = small_recipe(tiny_chat_model, queries, **changes)
    assert go(processes, recipe, tmp_path / "whole") == 0
    for moment in moments:
        assert go(processes, recipe, tmp_path / "killed", moment) == -signal.SIGKILL, moment
    assert go(processes, recipe, tmp_path / "killed") == 0
    whole, killed = left_by(tmp_path / "whole"), left_by(tmp_path / "killed")
    assert whole.keys() == killed.keys(), "nothing of a killed process stays behind, and nothing is missing"
    assert [name for name in whole if whole[name] != killed[name]] == []
    assert sum(name.endswith(".safetensors") for name in whole) >= 2
