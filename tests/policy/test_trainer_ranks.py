"""Several processes: the weights and figures of one process over the same global batches, and no one left waiting."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from accelerate.data_loader import BatchSamplerShard
from safetensors.torch import load_file
from torch.utils.data import BatchSampler

from selfsteer.errors import ConfigError
from selfsteer.policy import SSOConfig
from selfsteer.policy.distributed import check_even, first_time
from tests.policy.helpers import largest_change, weights
from tests.policy.processes import start
from tests.policy.ranks import CASES, PROCESSES, finished, made


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What each process found; all cases in one start, because that is what takes long."""
    folder = tmp_path_factory.mktemp("ranks")
    start("tests.policy.ranks", PROCESSES, folder)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", CASES)
def test_the_weights_and_the_figures_are_those_of_one_process(ranks, tmp_path, name):
    """Each example weighs the same, although the sampler repeats some so that all processes get equally many."""
    run = made(name, tmp_path, 1)
    start = weights(run.model)
    alone = finished(run)
    assert largest_change(start, weights(run.model)) > 1e-3
    for rank in ranks:
        found = rank[name]
        assert largest_change(load_file(found["saved"]), weights(run.model)) < 1e-6
        assert found["steps"] == alone["steps"]
        for logs, wanted in zip(found["logs"], alone["logs"], strict=True):
            own = logs.keys() - {"epoch"}  # counted in micro-batches, so it depends on the number of processes
            assert own == wanted.keys() - {"epoch"}
            for key in own:
                assert logs[key] == pytest.approx(wanted[key], rel=1e-4, abs=1e-5), key
        timeless = {key for key in alone["evaluation"] if key.startswith(("eval_loss", "eval_rewards", "eval_mean"))}
        assert len(timeless) > 15
        for key in timeless:
            assert found["evaluation"][key] == pytest.approx(alone["evaluation"][key], rel=1e-4, abs=1e-5), key


def test_one_process_says_what_one_process_alone_says(ranks, tmp_path):
    name = "a ragged last step"
    assert [len(rank[name]["said"]) for rank in ranks] == [1, 0]
    assert ranks[0][name]["said"] == finished(made(name, tmp_path, 1))["said"]


def test_a_ctrl_c_that_one_process_sees_stops_all_and_the_training_goes_on_from_there(ranks):
    for rank in ranks:
        found = rank["resumed"]
        assert found["stopped"] == [True, 3]
        assert {f"rng_state_{number}.pth" for number in range(PROCESSES)} <= set(found["checkpoint"])
        assert found["steps"] == 4
        unbroken = load_file(rank["a ragged last step"]["saved"])
        assert largest_change(load_file(found["saved"]), unbroken) == 0


def test_what_goes_wrong_in_one_process_stops_all_of_them(ranks):
    errors = [rank["not finite"] for rank in ranks]
    assert all(error.startswith("TrainingDiverged: the loss is not finite") for error in errors)
    assert sorted("rows q2" in error for error in errors) == [False, True]
    assert sum("rows of another process" in error for error in errors) == 1
    first, second = (rank["another start"] for rank in ranks)
    assert first == second
    assert first.startswith("WorkFailed: before the first step the policy differs from its reference")


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_each_example_counts_once_in_a_pass_however_it_is_dealt_out(processes, size, drop_last):
    for examples in range(1, 3 * processes * size + 1):
        counted = []
        for rank in range(processes):
            batches = list(
                BatchSamplerShard(BatchSampler(range(examples), size, drop_last), processes, process_index=rank)
            )
            for number, batch in enumerate(batches, 1):
                state = SimpleNamespace(
                    end_of_dataloader=number == len(batches),
                    active_dataloader=SimpleNamespace(dataset=range(examples)),
                )
                accelerator = SimpleNamespace(num_processes=processes, process_index=rank, gradient_state=state)
                counted += batch[: first_time(accelerator, len(batch), drop_last=drop_last)]
        whole = examples // (processes * size) * processes * size if drop_last else examples
        assert sorted(counted) == list(range(whole))


def test_processes_that_would_wait_for_each_other_are_refused():
    check_even(SimpleNamespace(num_processes=1, even_batches=False))
    check_even(SimpleNamespace(num_processes=2, even_batches=True))
    with pytest.raises(ConfigError, match="equally many"):
        check_even(SimpleNamespace(num_processes=2, even_batches=False))


def test_one_process_uses_one_gpu_however_many_there_are(tmp_path):
    """DataParallel would cut packed rows up; per_device_train_batch_size would be multiplied too."""
    config = SSOConfig(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=2)
    assert config.n_gpu == 0
    config._n_gpu = 4
    assert config.n_gpu == 1 and config.train_batch_size == 2
