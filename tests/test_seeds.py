"""A seed decides every bit of a training: two processes, whatever was drawn before, end with the same weights."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.policy.helpers import contrasts, policy, trainer, weights
from tests.seeded import LORA, digests

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def first(tiny_chat_model, tmp_path_factory, one_thread):
    return digests(tiny_chat_model, tmp_path_factory.mktemp("first"), 3)


def test_two_processes_with_one_seed_end_with_the_same_bits(first, tiny_chat_model, tmp_path):
    """The other one has another hash seed, which decides the order of sets."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.seeded", str(tiny_chat_model), str(tmp_path), "3"],
        cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert json.loads(found.stdout.splitlines()[-1]) == first


def test_what_was_drawn_before_changes_nothing_and_another_seed_everything(first, tiny_chat_model, tmp_path):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    torch.rand(7)
    assert digests(tiny_chat_model, tmp_path / "same", 3) == first
    other = digests(tiny_chat_model, tmp_path / "other", 4)
    assert other.keys() == first.keys()
    assert [name for name in first if other[name] == first[name]] == []


def test_an_order_does_not_change_where_torch_is_seeded_between_making_a_trainer_and_training(tmp_path, one_thread):
    """Another trainer does that."""
    from peft import LoraConfig

    from tests.conftest import build_tokenizer

    tokenizer = build_tokenizer()
    found = []
    for other in (0, 9):
        run = trainer(tmp_path, tokenizer, contrasts(6), policy(tokenizer), seed=3, optim="sgd",
                      peft_config=LoraConfig(**LORA | {"lora_dropout": 0.0}))  # fmt: skip
        torch.manual_seed(other)
        run.train()
        found.append(weights(run.model))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
