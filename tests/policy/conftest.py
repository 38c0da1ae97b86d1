"""One tokenizer for all tests of training, and a fixed number of threads."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import build_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Bitwise equal weights are promised for a fixed number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
