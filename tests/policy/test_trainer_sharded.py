"""FSDP2 and DDP on CPUs: loss, gradients and weights are those of one process, resumed from any number of processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.policy.processes import start
from tests.policy.sharded_ranks import CASES, STEPS, finished, made

SAVING = [name for name, case in CASES.items() if case.get("save")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds for a case, once."""
    known = {}

    def find(name: str) -> dict:
        if name not in known:
            folder = tmp_path_factory.mktemp("alone")
            known[name] = finished(made(name, folder / "checkpoints", 1), folder / "final")
        return known[name]

    return find


def read(folder: Path, processes: int) -> list[dict]:
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def two_folder(tmp_path_factory) -> Path:
    """All cases by two processes in one start, because that is what takes long."""
    folder = tmp_path_factory.mktemp("two")
    start("tests.policy.sharded_ranks", 2, folder, folder)
    return folder


@pytest.fixture(scope="module")
def two(two_folder) -> list[dict]:
    return read(two_folder, 2)


@pytest.fixture(scope="module")
def four(two_folder, tmp_path_factory) -> list[dict]:
    """By four processes, which go on from the checkpoints of two as well."""
    folder = tmp_path_factory.mktemp("four")
    start("tests.policy.sharded_ranks", 4, folder, two_folder, timeout=300)
    return read(folder, 4)


def weights_of(folder: str) -> dict:
    """The tensors of a saved folder: those of a model, or of an adapter alone."""
    (file,) = Path(folder).glob("*.safetensors")
    return load_file(file)


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys() and one
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)


def check_equal(ranks: list[dict], name: str, wanted: dict) -> None:
    """Compare with one process: in bfloat16 loss and norms to its rounding, else all to 1e-5."""
    rough = CASES[name].get("bf16", False)
    for rank in ranks:
        found = rank[name]
        assert len(found["losses"]) == STEPS
        assert found["losses"] == pytest.approx(wanted["losses"], rel=2e-2 if rough else 1e-5)
        assert found["norms"] == pytest.approx(wanted["norms"], rel=5e-2 if rough else 1e-5)
        assert found["evaluations"] == pytest.approx(wanted["evaluations"], rel=2e-2 if rough else 1e-5)
    if not rough:
        gradients = [load_file(Path(each["folder"]) / "gradients") for each in (ranks[0][name], wanted)]
        assert largest_difference(*gradients) < 1e-5
        assert largest_difference(weights_of(ranks[0][name]["folder"]), weights_of(wanted["folder"])) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(two, alone, name):
    check_equal(two, name, alone(name))


@pytest.mark.parametrize("name", SAVING)
def test_a_resumed_training_ends_with_the_same_bits(two, name):
    """Checkpoints are sharded under FSDP2; the manifest holds for them too."""
    again, unbroken = two[0][f"resumed {name}"], two[0][name]
    assert again["intact"]
    assert again["losses"] == unbroken["losses"]
    assert largest_difference(weights_of(again["folder"]), weights_of(unbroken["folder"])) == 0


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.get("lora")])
def test_the_final_folder_is_an_ordinary_one(two, name):
    folder = Path(two[0][name]["folder"])
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_the_weight_of_the_head_is_gathered_once_however_many_chunks_it_works_in(two):
    """Two layers and an embedding, forward and backward; head and last norm once; the trainer's check of the loss once.

    A tied embedding is the head's. Recomputed activations need no gather of their own, though transformers warns so.
    """
    assert two[0]["gathers"] == {"one chunk": 8, "many chunks": 8, "checkpointed, tied": 6}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_four_processes_train_as_one(four, alone, name):
    check_equal(four, name, alone(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", SAVING)
def test_four_processes_go_on_from_a_checkpoint_of_two(four, alone, name):
    again, wanted = four[0][f"resumed {name}"], alone(name)
    assert again["losses"] == pytest.approx(wanted["losses"], rel=1e-5)
    assert largest_difference(weights_of(again["folder"]), weights_of(wanted["folder"])) < 1e-5
