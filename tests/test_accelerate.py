"""recipes/accelerate/: accelerate reads each file, and they set what the strategies of the same names set."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfsteer.loop import run
from selfsteer.policy.strategies import deepspeed_config, strategy_arguments
from tests.jobs.test_launch import difference
from tests.run_helpers import small_recipe, without_reports, write_queries

CONFIGS = Path(__file__).parents[1] / "recipes" / "accelerate"
STAGES = pytest.mark.parametrize("stage", [2, 3])


def loaded(name: str):
    from accelerate.commands.config.config_args import load_config_from_file

    return load_config_from_file(str(CONFIGS / f"{name}.yaml"))


def environment_of(name: str) -> dict[str, str]:
    """Return what accelerate's launcher sets for the processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    script = ["--config_file", str(CONFIGS / f"{name}.yaml"), "--num_processes", "2", "--main_process_port", "0"]
    arguments, config, _ = _validate_launch_command(
        launch_command_parser().parse_args([*script, "-m", "selfsteer.cli"])
    )
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)
        return prepare_deepspeed_cmd_env(arguments)[1]
    return prepare_multi_gpu_env(arguments)


def test_fsdp2_is_the_strategy_fsdp():
    from accelerate.utils import DistributedType

    config = loaded("fsdp2")
    assert config.distributed_type == DistributedType.FSDP
    own = {name.removeprefix("fsdp_"): value for name, value in config.fsdp_config.items()}
    wanted = strategy_arguments("fsdp")["fsdp_config"]
    own["cpu_offload"] = own.pop("offload_params")
    assert {name: own[name] for name in wanted} == wanted
    said = environment_of("fsdp2")
    assert said["ACCELERATE_USE_FSDP"] == "true" and said["FSDP_VERSION"] == "2"
    assert said["FSDP_STATE_DICT_TYPE"] == "SHARDED_STATE_DICT"


@STAGES
def test_the_deepspeed_configurations_are_those_of_the_strategies(stage):
    from accelerate.utils import DistributedType

    config, wanted = loaded(f"zero{stage}"), deepspeed_config(stage)
    assert config.distributed_type == DistributedType.DEEPSPEED
    own, zero = config.deepspeed_config, wanted["zero_optimization"]
    assert own["zero_stage"] == zero["stage"] == stage
    for name in ("gradient_accumulation_steps", "gradient_clipping"):
        assert own[name] == wanted[name] == "auto"
    gathers = zero.get("stage3_gather_16bit_weights_on_model_save", False)
    assert own.get("zero3_save_16bit_model", False) == gathers
    assert "offload_optimizer" not in zero and own["offload_optimizer_device"] == "none"


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@STAGES
def test_accelerate_makes_the_plugin_of_a_configuration(stage, monkeypatch):
    from accelerate.utils import DeepSpeedPlugin

    for name, value in environment_of(f"zero{stage}").items():
        monkeypatch.setenv(name, value)
    found, wanted = DeepSpeedPlugin().deepspeed_config, deepspeed_config(stage)
    # bf16 and the optimisers that DeepSpeed takes are set when the trainer prepares the model.
    set_later = {"bf16", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer"}
    for name in wanted.keys() - {"zero_optimization"} - set_later:
        assert found[name] == wanted[name], name
    assert wanted["zero_optimization"].items() <= found["zero_optimization"].items()


@pytest.mark.slow
def test_accelerate_launch_trains_a_job_with_fsdp2(tiny_chat_model, tmp_path, monkeypatch):
    from selfsteer.jobs import launch

    settings = {"queries__heldout": 0, "train__processes": 1}
    recipe = small_recipe(tiny_chat_model, write_queries(tmp_path), **settings)
    monkeypatch.setattr(launch.subprocess, "Popen", _no_start)
    with without_reports(), pytest.raises(OSError, match="not now"):
        run(recipe, tmp_path / "run")
    monkeypatch.undo()
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / "fsdp2.yaml"]
    command += ["--num_processes", "2", "--main_process_port", "0", "-m", "selfsteer.cli", "train", tmp_path / "run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    with without_reports():
        run(recipe, tmp_path / "run")  # finds the weights
        alone = recipe.train.model_copy(update={"processes": 0})
        run(recipe.model_copy(update={"train": alone}), tmp_path / "alone")
    assert difference(tmp_path / "run", tmp_path / "alone") < 1e-5


def _no_start(*_, **__):
    raise OSError("not now")
