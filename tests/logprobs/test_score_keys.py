"""The key of stored scores: it changes with everything that changes a score, and with nothing else."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from selfsteer.errors import DataError
from selfsteer.logprobs import score_keys as keys
from selfsteer.logprobs.score_keys import ScoreKey, settings_key, weights_dtype, weights_key
from selfsteer.models import load_model
from selfsteer.records import PROMPTS, ROLES
from tests.conftest import build_model, build_tokenizer
from tests.example_rows import contrast

IDS = {f"{name}_token_ids": [number, number + 1] for number, name in enumerate((*PROMPTS, *ROLES))}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.register_buffer("kept", torch.tensor([1, 2]))
        self.register_buffer("made", torch.tensor([3.0]), persistent=False)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def lora(model, *, zero=False, alpha=8, seed=0, **options):
    """The model with an adapter, which changes its numbers unless ``zero``."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, lora_alpha=alpha, target_modules="all-linear", init_lora_weights=zero, **options)
    return get_peft_model(model, config)


def change(name):
    def edit(model):
        with torch.no_grad():
            getattr(model, name).view(-1)[-1] += 1

    return edit


def transpose(model):
    model.weight = nn.Parameter(model.weight.detach().reshape(3, 2))


def rename(model):
    model.other = model.weight
    del model.weight


@pytest.mark.parametrize(
    "edit",
    [change("weight"), change("kept"), transpose, rename, lambda model: model.to(torch.bfloat16)],
    ids=["a weight", "a persistent buffer", "a shape", "a name", "a type"],
)
def test_a_change_of_the_weights_changes_their_key(edit):
    model = Small()
    edit(model)
    assert weights_key(model) != weights_key(Small())


def test_what_is_derived_or_how_the_bytes_lie_does_not(monkeypatch):
    plain, model = weights_key(Small()), Small()
    assert len(plain) == 32
    change("made")(model)
    model.weight = nn.Parameter(model.weight.detach().t().contiguous().t(), requires_grad=False)
    assert not model.weight.is_contiguous()
    monkeypatch.setattr(keys, "_CHUNK", 7)
    assert weights_key(model) == plain


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_does_not_count():
    assert weights_key(Small().to("cuda")) == weights_key(Small())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_model_that_was_saved_and_loaded_keeps_its_key(tmp_path, tokenizer, dtype, tied):
    model = build_model(tokenizer, tie_word_embeddings=tied).to(getattr(torch, dtype))
    assert weights_dtype(model) == dtype
    model.save_pretrained(tmp_path)
    assert weights_key(load_model(str(tmp_path), dtype=dtype)) == weights_key(model)


def test_tied_weights_count_once(tokenizer, monkeypatch):
    hashed = []
    add = keys.add_bytes
    monkeypatch.setattr(keys, "add_bytes", lambda digest, tensor: (hashed.append(id(tensor)), add(digest, tensor)))
    model = build_model(tokenizer, tie_word_embeddings=True)
    weights_key(model)
    assert sorted(hashed) == sorted({id(parameter) for parameter in model.parameters()})


def test_a_fresh_adapter_changes_no_number_and_no_key(tokenizer):
    plain = weights_key(build_model(tokenizer))
    assert weights_key(lora(build_model(tokenizer), zero=True)) == plain
    assert weights_key(lora(build_model(tokenizer))) != plain


def test_adapters_count_by_weights_and_scaling_where_they_act(tokenizer):
    model = lora(build_model(tokenizer))
    acting = weights_key(model)
    assert weights_key(lora(build_model(tokenizer))) == acting
    assert weights_key(lora(build_model(tokenizer), seed=1)) != acting
    assert weights_key(lora(build_model(tokenizer), alpha=16)) != acting, "the same weights, scaled otherwise"
    with model.disable_adapter():
        assert weights_key(model) == weights_key(build_model(tokenizer))
    model.add_adapter("second", model.peft_config["default"])
    assert weights_key(model) == acting, "the second one is not active"
    model.set_adapter("second")
    assert weights_key(model) != acting


def test_a_merged_adapter_is_in_the_weights(tokenizer):
    model = lora(build_model(tokenizer))
    acting = weights_key(model)
    model.merge_adapter()
    merged = weights_key(model)
    assert merged not in (acting, weights_key(build_model(tokenizer)))
    assert weights_key(lora(build_model(tokenizer)).merge_and_unload()) == merged


def test_the_settings_say_limit_and_precision():
    assert settings_key(max_length=480, dtype="float32") == "max_length 480 with the longest prompt, precision float32"
    assert settings_key(max_length=None, dtype="float32", autocast="bfloat16") == (
        "max_length None, precision bfloat16 autocast"
    )


def test_a_key_is_stored_with_its_row():
    row = contrast(provenance={"backend": "scripted"}, **IDS)
    assert ScoreKey.stored(row) is None
    key = ScoreKey.from_row(row, "ab" * 16, "max_length 480, precision float32")
    stored = key.put(row)
    assert ScoreKey.stored(stored) == key
    assert stored.provenance["backend"] == "scripted"
    assert dataclasses.replace(stored, provenance=row.provenance) == row
    unreadable = dataclasses.replace(row, provenance={"reference_key": "another form"})
    assert ScoreKey.stored(unreadable) is None


@pytest.mark.parametrize("column", IDS)
def test_each_of_the_six_token_sequences_is_in_the_key(column):
    key = ScoreKey.from_row(contrast(**IDS), "", "")
    assert ScoreKey.from_row(contrast("q2", **IDS), "", "") == key
    assert ScoreKey.from_row(contrast(**{**IDS, column: [0, 9]}), "", "").tokens != key.tokens
    with pytest.raises(DataError, match="has no"):
        ScoreKey.from_row(contrast(**{**IDS, column: None}), "", "")
