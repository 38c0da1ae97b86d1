"""What a strategy sets, and what is refused before any process starts."""

from __future__ import annotations

import importlib.util

import pytest

from selfsteer.errors import ConfigError
from selfsteer.policy.strategies import deepspeed_config, strategy_arguments


def test_whole_copies_need_no_more_than_the_checkpointing_of_transformers():
    for strategy in ("single", "ddp"):
        assert list(strategy_arguments(strategy, gradient_checkpointing=True).values()) == [True]


def test_fsdp_checkpoints_activations_itself():
    """transformers refuses both its own and FSDP's at once."""
    arguments = strategy_arguments("fsdp", gradient_checkpointing=True)
    assert arguments.keys() == {"fsdp", "fsdp_config"}
    assert arguments["fsdp_config"]["version"] == 2
    assert arguments["fsdp_config"]["activation_checkpointing"] is True


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_shards_by_its_stage(monkeypatch, stage):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    config = strategy_arguments(f"deepspeed-zero{stage}")["deepspeed"]
    assert config == deepspeed_config(stage)
    assert config["zero_optimization"]["stage"] == stage
    assert deepspeed_config(stage, offload=True)["zero_optimization"].keys() - config["zero_optimization"].keys()


def test_what_can_not_run_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs DeepSpeed, which is not installed"):
        strategy_arguments("deepspeed-zero2")
    with pytest.raises(ConfigError, match="Did you mean 'fsdp'"):
        strategy_arguments("fsdp2")
    with pytest.raises(ConfigError, match="shards nothing that could be offloaded"):
        strategy_arguments("ddp", offload=True)
