"""Bytes on a device: by hand, and against what autograd keeps."""

from __future__ import annotations

import pytest
import torch

from selfsteer.config import LoraSettings
from selfsteer.estimate.memory import (
    HEAD_CHUNK,
    cache_bytes,
    generation_memory,
    layer_activations,
    scoring_memory,
    training_memory,
    tuning,
)
from selfsteer.estimate.model_shape import shape_of
from selfsteer.logprobs import PromptRow, row_attention_on, score_responses
from tests.estimate.shapes import paper_shape
from tests.logprobs.tiny import tiny_model


def _training(strategy="ddp", devices=1, lora=None, bits=None, **changes):
    shape = paper_shape()
    settings = {
        "tokens": 10,
        "predicted": 10**9,
        "precision": "float32",
        "checkpointing": False,
        "device": "cpu",
    } | changes
    return training_memory(shape, tuning(shape, lora, bits), strategy, devices, **settings)


def test_full_training_holds_sixteen_bytes_a_parameter():
    found = _training()
    assert found[:4] == (4 * 1080, 0, 4 * 1080, 8 * 1080)
    assert found.logits == 12 * HEAD_CHUNK["cpu"]
    assert _training(predicted=5).logits == 12 * 5 * 10
    assert found.total == sum(found)


def test_autocast_holds_a_copy_of_what_is_multiplied():
    """2 bytes for each of 960 weights of the layers and 80 of the head."""
    assert _training(precision="bfloat16").copies == 2 * 1040


def test_an_adapter_is_all_that_has_gradients():
    """r (inputs + outputs) = 2 * 116 for each of two layers."""
    found = _training(lora=LoraSettings(r=2))
    assert found[:4] == (4 * (1080 + 464), 0, 4 * 464, 8 * 464)


@pytest.mark.parametrize(("bits", "held"), [(8, 960 + 4 * 120), (4, (0.5 + 0.127 / 8) * 960 + 4 * 120)])
def test_bits_shrink_the_linear_layers_of_the_base_alone(bits, held):
    assert _training(lora=LoraSettings(r=2), bits=bits).weights == pytest.approx(held + 4 * 464)


@pytest.mark.parametrize(
    ("strategy", "weights", "gradients", "optimiser"),
    [
        ("ddp", 4320, 4320, 8640),
        ("zero-1", 4320, 4320, 2160),
        ("zero-2", 4320, 1080, 2160),
        ("zero-3", 1080, 1080, 2160),
        ("fsdp", 1080, 1080, 2160),
    ],
)
def test_four_devices_share_what_the_strategy_divides(strategy, weights, gradients, optimiser):
    found, alone = _training(strategy, 4), _training()
    assert (found.weights, found.gradients, found.optimiser) == (weights, gradients, optimiser)
    assert found.activations == alone.activations  # each device has its own micro-batch


@pytest.mark.parametrize("strategy", ["zero-3", "fsdp"])
def test_sharded_weights_are_gathered_a_layer_at_a_time_beside_the_head(strategy):
    assert _training(strategy, 4).copies == 4 * (480 + 80)
    assert _training(strategy, 4, precision="bfloat16").copies == 2 * (480 + 80)


def test_a_sharded_adapter_shards_its_base_too():
    found = _training("zero-3", 4, lora=LoraSettings(r=2))
    assert found.weights == (1080 + 464)


def test_checkpointing_keeps_a_layers_input_and_one_layer():
    one = layer_activations(paper_shape(), "float32", full=True)
    assert _training().activations == 10 * (2 * one + 12 * 8)
    assert _training(checkpointing=True).activations == 10 * (2 * 4 * 8 + one + 12 * 8)


def test_a_layers_activations_by_hand():
    """float32: norms 2 (64 + 4), inputs 4 * 2 * 8, attention 8 * 8 + 8 * 4 + 8, MLP 16 * 12.

    bfloat16: inputs 2 (5 * 8 + 8), attention 8 * 8 + 6 * 4 + 8, MLP 8 * 12.
    """
    assert layer_activations(paper_shape(), "float32", full=True) == 136 + 64 + 104 + 192
    assert layer_activations(paper_shape(), "bfloat16", full=True) == 136 + 96 + 96 + 96
    assert layer_activations(paper_shape(), "float32", full=False) == 136 - 64 + 64 + 104 + 192


def _kept_bytes(model, rows, *, bf16: bool) -> int:
    """Bytes of all distinct tensors, parameters left out, that autograd keeps for the backward pass."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    shapes = {tuple(weight.shape) for weight in model.parameters()} | {tuple(w.shape[::-1]) for w in model.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tuple(tensor.shape) not in shapes:  # a copy under autocast is a weight
            held[storage.data_ptr()] = storage
        return tensor

    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), row_attention_on(model), autocast:
        kept = score_responses(model, rows)  # noqa: F841  (holds the graph)
    return sum(storage.nbytes() for storage in held.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    ("name", "within"), [("llama", 0.01), ("qwen2", 0.01), ("mistral", 0.01), ("qwen3", 0.3), ("phi3", 0.3)]
)
def test_a_layers_activations_are_what_autograd_keeps(name, within, bf16):
    """The difference of two depths is one layer. Qwen 3 norms its heads too, Phi-3 multiplies joined matrices."""
    rows = [PromptRow(list(range(3, 40)), [list(range(3, 33)), list(range(5, 30))])]
    models = [tiny_model(name, torch.float32, num_hidden_layers=depth, sliding_window=None).train() for depth in (2, 3)]
    two, three = (_kept_bytes(model, rows, bf16=bf16) for model in models)
    tokens = 37 + 29 + 24
    expected = layer_activations(shape_of(models[0]), "bfloat16" if bf16 else "float32", full=True)
    assert (three - two) / tokens == pytest.approx(expected, rel=within)


def test_a_cache_holds_keys_and_values_of_each_layer_up_to_its_window():
    assert cache_bytes(paper_shape(), 10, "bfloat16") == 2 * 2 * 4 * (10 + 10)
    assert cache_bytes(paper_shape(windows=(None, 6)), 10, "float32") == 2 * 4 * 4 * (10 + 6)


def test_generation_and_scoring_hold_the_weights_in_their_precision():
    shape = paper_shape()
    found = generation_memory(shape, weights=None, batch=3, tokens=10, precision="bfloat16")
    assert found == 2 * 1080 + 3 * 320 * 1.5 + 3 * 10 * 6
    assert generation_memory(shape, weights=500, batch=3, tokens=10, precision="bfloat16") == found - 2160 + 500
    half, whole = (scoring_memory(shape, weights=None, precision=p, device="cpu") for p in ("bfloat16", "float32"))
    one = [layer_activations(shape, p, full=True) for p in ("bfloat16", "float32")]
    assert half - whole == 2 * 1040 + 4096 * (one[0] - one[1])
