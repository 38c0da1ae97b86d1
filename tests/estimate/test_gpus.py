"""`selfsteer estimate --gpu`: a recipe on GPUs that this machine has not."""

from __future__ import annotations

import re

import pytest
import yaml

from selfsteer.commands.estimate import EstimateArguments, estimate
from selfsteer.config import ModelSettings, Recipe
from selfsteer.errors import ConfigError
from selfsteer.estimate.fit import launch_of_recipe
from selfsteer.estimate.model_shape import read_shape
from selfsteer.models.device import pick_device, pick_dtype, visible_gpus
from selfsteer.models.gpus import GPUS, gpu_of, planning_for
from selfsteer.stages.engines import engine_count
from tests.printed import printed

PARAMETERS = {
    "Qwen/Qwen2-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
}
"""As their model cards and safetensors headers say."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_known_model_needs_no_hub(name, monkeypatch):
    monkeypatch.setattr("selfsteer.models.configs.model_config", lambda *_, **__: pytest.fail("the hub is asked"))
    assert read_shape(ModelSettings(name=name)).parameters == PARAMETERS[name]


def test_planning_looks_as_if_the_gpus_were_there():
    recipe = Recipe.model_validate({"generation": {"backend": "vllm", "vllm": {"tensor_parallel_size": 2}}})
    before = pick_device(), visible_gpus()
    with planning_for(gpu_of("H100"), 6):
        assert (pick_device(), pick_dtype("auto", "cuda")) == ("cuda", "bfloat16")
        assert engine_count(recipe, "vllm", "cuda") == 3
        assert launch_of_recipe(recipe, "cuda").processes == max(
            n for n in range(1, 7) if recipe.train.batch_size % n == 0
        )
    assert (pick_device(), visible_gpus()) == before


def test_an_unknown_gpu_is_named():
    with pytest.raises(ConfigError, match="nothing is known of a GPU 'h1000'") as caught:
        gpu_of("h1000")
    assert "h100" in caught.value.do


def _estimate(tmp_path, train=None, **options):
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"prompt": "How do I boil an egg?"}\n' * 3, encoding="utf-8")
    recipe = {
        "model": "Qwen/Qwen2-7B-Instruct", "train": train or {},
        "queries": {"source": str(queries), "heldout": 1}, "generation": {"max_new_tokens": 512},
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return printed(estimate, EstimateArguments(str(file), queries=1000, **options), width=160)


def test_what_does_not_fit_is_said_with_what_would(tmp_path):
    _, out, _ = _estimate(tmp_path, gpu="l4")
    assert re.search(r"training, single +1 .* does not fit: take more or larger GPUs", out)
    _, out, _ = _estimate(tmp_path, gpu="a100")
    assert "does not fit: set train.lora.r=16" in out
    _, out, _ = _estimate(tmp_path, {"gradient_checkpointing": True, "lora": {}}, gpu="a100")
    assert "does not fit" not in out and "training, single" in out


def test_hours_are_divided_by_the_gpus(tmp_path):
    one, _, _ = _estimate(tmp_path, gpu="h100", response_tokens=200, kept=0.5)
    eight, out, errors = _estimate(tmp_path, gpu="h100", count=8, response_tokens=200, kept=0.5)
    assert (eight.sampling, eight.scoring, eight.training) == (8, 8, 8)
    assert "training, fsdp" in out and "are free" not in out
    assert "times are guesses for 8 x H100 80 GB (SXM): from its published figures" in errors
    assert "nothing was sampled" not in errors and eight.kept(1000) == 500
    flops = one.training_flops(one.recipe.train) * 500 * one.recipe.train.epochs
    saved = one.of("policy", heldout=False).seconds - eight.of("policy", heldout=False).seconds
    assert saved == pytest.approx(flops / one.rates.training * 7 / 8, rel=0.01)


def test_a_faster_gpu_has_faster_rates(tmp_path):
    slow, fast = (_estimate(tmp_path, gpu=name)[0].rates for name in ("a100", "h100"))
    assert fast.training / slow.training == pytest.approx(GPUS["h100"].flops / GPUS["a100"].flops)
    assert fast.step < slow.step


def test_another_machine_can_not_be_measured(tmp_path):
    with pytest.raises(ConfigError, match="--calibrate measures this machine"):
        _estimate(tmp_path, gpu="h100", calibrate=True)
