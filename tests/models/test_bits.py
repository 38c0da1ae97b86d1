"""QLoRA: a base held in 4 or 8 bits, as far as a machine without a GPU can tell."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from selfsteer.backends.transformers import TransformersBackend
from selfsteer.config import Recipe
from selfsteer.errors import ConfigError, ModelError
from selfsteer.models import check_bits, load_model
from selfsteer.stages.model_pool import ModelPool, Policy
from tests.conftest import build_model, build_tokenizer

NEEDS = "train.lora.bits=4 needs a CUDA GPU, and torch finds none on this machine"


class Called(BaseException):
    pass


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that seems to have a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that seems to have bitsandbytes."""
    from selfsteer.models import device as hardware

    monkeypatch.setattr(hardware, "find_spec", lambda name: name)


@pytest.fixture
def adapter(tmp_path: Path, tiny_chat_model: Path) -> Path:
    """An adapter's folder over the tiny model."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(load_model(str(tiny_chat_model)), LoraConfig(r=2, task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What from_pretrained is asked for; nothing is loaded."""
    import transformers

    asked: dict[str, Any] = {}

    def from_pretrained(source: str, **options: Any) -> Any:
        asked.update(options, source=source)
        return build_model(build_tokenizer()), {
            "missing_keys": set(),
            "mismatched_keys": set(),
            "unexpected_keys": set(),
        }

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    return asked


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_command_line_says_what_is_missing_before_anything_runs(tmp_path: Path) -> None:
    command = ["-m", "selfsteer.cli", "run", "quickstart", "train.lora.bits=4", "--run-dir", str(tmp_path / "run")]
    found = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 2, found.stderr
    assert NEEDS in found.stderr and "leave train.lora.bits out" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_loading_in_bits_needs_a_gpu(tiny_chat_model: Path) -> None:
    with pytest.raises(ConfigError, match="bits=8 needs a CUDA GPU") as caught:
        load_model(str(tiny_chat_model), bits=8)
    assert caught.value.exit_code == 2


def test_a_gpu_that_is_not_asked_for_does_not_help(gpu: None) -> None:
    with pytest.raises(ConfigError, match="the device is 'cpu'"):
        check_bits(4, "cpu", where="train.lora.bits")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_its_install_command_is_printed(gpu: None) -> None:
    with pytest.raises(ConfigError, match="bitsandbytes, which is not installed") as caught:
        check_bits(4, "cuda", where="train.lora.bits")
    assert "pip install 'selfsteer[qlora]'" in caught.value.do


def test_other_numbers_of_bits_are_refused(gpu: None, bitsandbytes: None) -> None:
    with pytest.raises(ConfigError, match="4 or 8 bits, not in 3"):
        check_bits(3, "cuda", where="bits")


def test_four_bits_are_nf4_twice_quantised_and_multiplied_in_bfloat16(
    gpu: None, bitsandbytes: None, asked: dict[str, Any], tiny_chat_model: Path
) -> None:
    model = load_model(str(tiny_chat_model), device="cuda:0", bits=4)
    settings = asked["quantization_config"]
    assert settings.load_in_4bit and settings.bnb_4bit_quant_type == "nf4" and settings.bnb_4bit_use_double_quant
    assert settings.bnb_4bit_compute_dtype is torch.bfloat16
    # The rest is loaded where it belongs, in the precision that was asked for, and nothing is moved afterwards.
    assert (asked["device_map"], asked["dtype"]) == ("cuda:0", "float32")
    assert next(model.parameters()).device.type == "cpu"


def test_eight_bits_are_int8(gpu: None, bitsandbytes: None, asked: dict[str, Any], tiny_chat_model: Path) -> None:
    load_model(str(tiny_chat_model), device="cuda", bits=8)
    assert asked["quantization_config"].load_in_8bit and not asked["quantization_config"].load_in_4bit


def test_whole_weights_ask_for_none_of_this(asked: dict[str, Any], tiny_chat_model: Path) -> None:
    load_model(str(tiny_chat_model))
    assert not {"quantization_config", "device_map"} & asked.keys()


def test_the_base_under_an_adapter_is_held_in_bits(
    adapter: Path, gpu: None, bitsandbytes: None, monkeypatch: pytest.MonkeyPatch, tiny_chat_model: Path
) -> None:
    import transformers

    def from_pretrained(source: str, **options: Any) -> Any:
        assert source == str(tiny_chat_model) and options["quantization_config"].load_in_4bit
        raise Called

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(Called):
        load_model(str(adapter), device="cuda", bits=4)


def test_a_gguf_file_is_refused(gpu: None, bitsandbytes: None, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="GGUF"):
        load_model(str(tmp_path / "model.gguf"), device="cuda", bits=4)


def test_generating_scoring_and_training_use_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tiny_chat_model: Path, tmp_path: Path
) -> None:
    import selfsteer.models

    seen: list[tuple[str, int | None]] = []

    def record(path: str, *, dtype: str, device: str, bits: int | None = None, **_: Any) -> Any:
        seen.append((dtype, bits))
        return build_model(build_tokenizer())

    monkeypatch.setattr(selfsteer.models, "load_model", record)
    lora = {"train": {"lora": {"bits": 4}, "precision": "float32"}, "generation": {"precision": "bfloat16"}}
    models, policy = ModelPool(Recipe.model_validate(lora), tmp_path), Policy(1, str(tiny_chat_model), "name")
    assert isinstance(models.backend(policy), TransformersBackend)
    models.scorer(policy)
    models.trainable(policy)
    assert seen == [("bfloat16", 4), ("float32", 4)]  # what was scored with is what is trained


def test_a_policy_in_bits_has_another_name(tiny_chat_model: Path, tmp_path: Path) -> None:
    """So that the responses and scores of whole weights are not taken for its own."""
    names = []
    for lora in ({}, {"bits": 4}):
        recipe = Recipe.model_validate({"model": {"name": str(tiny_chat_model)}, "train": {"lora": lora}})
        names.append(ModelPool(recipe, tmp_path).initial_policy(lambda text: None).fingerprint)
    assert names[1] == f"{names[0]} in 4 bits"


def test_errors_of_loading_stay_errors_of_the_model(gpu: None, bitsandbytes: None, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no config"):
        load_model(str(tmp_path), device="cuda", bits=4)
