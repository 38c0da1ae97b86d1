"""A Ray cluster of one node with two CPUs, for all tests here but those that make their own."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(scope="module")
def two_cpus():
    ray = pytest.importorskip("ray", reason="Ray is not installed: make ray")
    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    yield ray
    ray.shutdown()
