"""A model's shape, from its configuration alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from selfsteer.config import LoraSettings, ModelSettings
from selfsteer.errors import ModelError
from selfsteer.estimate.model_shape import read_shape, shape_of, source_of, stored_weights
from tests.estimate.shapes import LINEARS, paper_shape
from tests.logprobs.tiny import _SMALL, ARCHITECTURES, tiny_model


def _llama(**changes):
    """The model that :func:`paper_shape` describes."""
    config = AutoConfig.for_model(
        "llama", vocab_size=10, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config.update(changes)
    return AutoModelForCausalLM.from_config(config)


def test_a_llama_has_the_shape_that_was_worked_out_by_hand():
    found = shape_of(_llama())
    assert found == paper_shape(architecture="LlamaForCausalLM")
    assert (found.layers, found.head) == (2, 80)


def test_an_untied_head_counts_as_parameters_and_not_as_a_layer():
    found = shape_of(_llama(tie_word_embeddings=False))
    assert (found.parameters, found.tied, found.active) == (1160, False, 960)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_shape_read_from_a_folder_is_that_of_its_weights(name, tmp_path):
    """Read back from configuration and headers, against tensors counted in the loaded model."""
    model = tiny_model(name, torch.float32)
    model.save_pretrained(tmp_path)
    found, stored = read_shape(ModelSettings(name=str(tmp_path))), stored_weights(str(tmp_path))
    counted = sum({weight.data_ptr(): weight.numel() for weight in model.parameters()}.values())
    assert found.parameters == stored.numbers == counted
    assert stored.size > 4 * counted
    assert found.active == sum(w.numel() for n, w in model.named_parameters() if "_proj" in n and w.dim() == 2)
    assert found.tied == (model.lm_head.weight is model.model.embed_tokens.weight)
    assert (found.query_width, found.key_width, found.layers) == (32, 16, 3)
    assert found.norms == (4 if name.startswith("gemma") else 2)


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("llama", (None, None, None)),
        ("qwen2", (None, None, None)),
        ("mistral", (5, 5, 5)),
        ("gemma2", (5, None, 5)),
        ("gemma3_text", (5, None, 5)),
    ],
)
def test_sliding_windows_are_those_of_the_layers(name, windows):
    assert shape_of(tiny_model(name)).windows == windows


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"], r".*layers\.0\..*_proj"])
def test_an_adapter_has_as_many_parameters_as_peft_gives_it(targets):
    """All of a layer by hand: r * (16 + 12 + 12 + 16 + 3 * 20) = 116 r."""
    from peft import LoraConfig, get_peft_model

    model = _llama()
    found = shape_of(model).lora(LoraSettings(r=3, target_modules=targets))
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=targets))
    assert found == adapted.get_nb_trainable_parameters()[0]
    assert targets != "all-linear" or found == 2 * 3 * 116


def test_an_adapter_on_no_layer_is_refused():
    with pytest.raises(ModelError, match="is one of 'nothing'"):
        paper_shape().lora(LoraSettings(target_modules="nothing"))


def _mixture(name: str, **changes):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(_SMALL | changes)))


def test_a_token_meets_only_the_experts_it_is_sent_to():
    """Mixtral with 4 experts of 3 * 32 * 48 weights a layer, 2 for a token; attention has 32 * (32 + 16 + 16 + 32)."""
    found = shape_of(_mixture("mixtral", num_local_experts=4, num_experts_per_tok=2))
    assert found.experts == (2, 4)
    assert found.active == 3 * (32 * 96 + 2 * 3 * 32 * 48)
    assert found.parameters > found.active + 3 * 2 * 3 * 32 * 48


def test_a_mixture_that_does_not_say_how_many_experts_a_token_meets_is_refused():
    model = _mixture("mixtral", num_local_experts=4, num_experts_per_tok=2)
    model.config.num_experts_per_tok = 0
    with pytest.raises(ModelError, match="how many a token is routed to"):
        shape_of(model)


def test_layers_of_unknown_cost_are_refused():
    model = _llama()
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ModelError, match="linear_attention"):
        shape_of(model)


def test_nothing_is_fetched_to_look_at_a_catalogue_model(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="selfsteer models fetch smollm2-135m"):
        source_of("smollm2-135m")
    assert not list(tmp_path.rglob("*"))


def test_numbers_and_bytes_of_stored_weights_come_from_their_headers(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}, file, metadata={"format": "np"})
    assert stored_weights(str(tmp_path)) == (17, file.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        stored_weights(str(tmp_path))


def test_the_layers_of_the_paper_shape_add_up():
    assert sum(inputs * outputs for _, inputs, outputs in LINEARS) == 480
