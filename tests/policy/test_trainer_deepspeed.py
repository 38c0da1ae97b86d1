"""DeepSpeed's ZeRO-2 and ZeRO-3 on CPUs: loss and weights are those of one process. Skipped where it is not installed.

DeepSpeed compiles an operator for communication on CPUs at its first start, which takes a minute or more.
"""

from __future__ import annotations

import json

import pytest

from tests.policy.processes import start
from tests.policy.test_trainer_sharded import largest_difference, weights_of

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
pytestmark = pytest.mark.slow

from tests.policy.deepspeed_ranks import CASES, finished, made  # noqa: E402


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("deepspeed")
    start("tests.policy.deepspeed_ranks", 2, folder, timeout=500, DS_ACCELERATOR="cpu")
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("strategy", CASES)
def test_two_processes_train_as_one(two, tmp_path, strategy):
    alone = finished(made(strategy, tmp_path, 1), tmp_path / "final")
    for rank in two:
        assert rank[strategy]["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert rank[strategy]["norms"] == pytest.approx(alone["norms"], rel=1e-4)
    assert largest_difference(weights_of(two[0][strategy]["folder"]), weights_of(alone["folder"])) < 1e-5


@pytest.mark.parametrize("strategy", CASES)
def test_a_resumed_training_ends_with_the_same_bits(two, strategy):
    again, unbroken = two[0][f"resumed {strategy}"], two[0][strategy]
    assert again["losses"] == unbroken["losses"]
    assert largest_difference(weights_of(again["folder"]), weights_of(unbroken["folder"])) == 0
