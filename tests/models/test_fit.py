"""Tokens against embeddings, generation configurations that can't be saved, and what a fingerprint covers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from selfsteer.errors import ModelError, SelfsteerWarning
from selfsteer.models import end_token_ids, load_model, load_tokenizer, model_fingerprint
from tests.conftest import build_model, build_tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))


def saved(folder: Path, tokenizer, model) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values), encoding="utf-8")


# --- tokens


@pytest.mark.parametrize("told", [True, False], ids=["also in config.json", "in the tokenizer alone"])
def test_a_pad_token_without_an_embedding_gives_way_to_another(tmp_path, told):
    tokenizer = build_tokenizer()
    rows = len(tokenizer)
    model = build_model(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    source = saved(tmp_path / "m", tokenizer, model)
    if told:
        change(tmp_path / "m" / "config.json", pad_token_id=rows)
    assert load_tokenizer(source).pad_token == "<|im_end|>"
    loaded = load_model(source)
    assert loaded.get_input_embeddings().weight.shape[0] == rows
    loaded.save_pretrained(tmp_path / "again")
    AutoModelForCausalLM.from_pretrained(tmp_path / "again")


def without_last_rows(tokenizer, count):
    return build_model(tokenizer, vocab_size=len(tokenizer) - count, pad_token_id=None, eos_token_id=None)


@pytest.mark.parametrize(
    ("added", "what"),
    [
        ({"additional_special_tokens": ["<|im_start|>", "<|turn|>"]}, r"template writes token \d+ \('<\|turn\|>'\)"),
        ({"eos_token": "</done>"}, r"tokenizer has token \d+ \('</done>'\)"),
        ({}, r"tokenizer has token \d+ \('<plain>'\)"),
    ],
    ids=["a mark of the template", "the end token", "a token that a text may hold"],
)
def test_any_other_token_that_can_occur_is_refused_with_its_id_and_the_number_of_embeddings(tmp_path, added, what):
    tokenizer = build_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_special_tokens(added) if added else tokenizer.add_tokens(["<plain>"])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>assistant", "<|turn|>assistant")
    source = saved(tmp_path / "m", tokenizer, without_last_rows(tokenizer, len(tokenizer) - rows))
    with pytest.raises(ModelError, match=f"{what}.* embeddings for {rows} tokens only") as caught:
        load_tokenizer(source)
    assert "resize_token_embeddings" in caught.value.do


def test_left_over_special_tokens_and_more_embeddings_than_tokens_are_fine(tmp_path):
    tokenizer = build_tokenizer()
    few = build_model(tokenizer)
    many = build_model(tokenizer, vocab_size=len(tokenizer) + 64)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|unused|>"]})
    for name, model in (("few", few), ("many", many)):
        assert load_tokenizer(saved(tmp_path / name, tokenizer, model)).pad_token == "<pad>"


# --- generation configurations

UNSAVABLE = [
    {"do_sample": False, "temperature": 0.9, "top_p": 0.6},
    {"do_sample": False, "top_k": 20, "typical_p": 0.5, "min_p": 0.1, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1},
    {"temperature": 0.3},
    {"length_penalty": 2.0, "early_stopping": True},
    {"early_stopping": "perhaps"},
    {"max_new_tokens": -1},
    {"num_return_sequences": 3},
    {"cache_implementation": "own"},
    {"output_scores": True},
    {"temperature": "0.7"},
    {"pad_token_id": -1},
    {"logits_processor": []},
    {"watermarking_config": {"greenlist_ratio": 7}},
]


@pytest.mark.parametrize("settings", UNSAVABLE, ids=lambda settings: ", ".join(settings))
def test_a_generation_configuration_that_can_not_be_saved_is_left_out_but_for_its_end_tokens(tmp_path, settings):
    check_saved_again(tmp_path, "generation_config.json", {"eos_token_id": [2, 5], **settings})


def test_so_are_sampling_settings_of_config_json(tmp_path):
    check_saved_again(tmp_path, "config.json", {"eos_token_id": [2, 5], "temperature": 0.4, "top_k": 3})


def check_saved_again(tmp_path, file, settings):
    tokenizer = build_tokenizer()
    source = saved(tmp_path / "m", tokenizer, build_model(tokenizer))
    if file == "config.json":
        (tmp_path / "m" / "generation_config.json").unlink()
    change(tmp_path / "m" / file, **settings)
    model = load_model(source)
    model.generation_config.bos_token_id = 3  # as a trainer does, which makes saving strict
    model.save_pretrained(tmp_path / "again")
    found = GenerationConfig.from_pretrained(tmp_path / "again")
    assert found.eos_token_id == [2, 5] and found.do_sample is not True
    found.validate(strict=True)


def test_a_generation_configuration_that_can_be_saved_stays_whole(tmp_path):
    tokenizer = build_tokenizer()
    source = saved(tmp_path / "m", tokenizer, build_model(tokenizer))
    change(tmp_path / "m" / "generation_config.json", do_sample=True, temperature=0.6, top_k=20)
    found = load_model(source).generation_config
    assert (found.temperature, found.top_k) == (0.6, 20)


@pytest.mark.parametrize("content", ["{", "[1, 2]", '"text"'])
def test_a_generation_configuration_that_is_no_json_object_is_told(tmp_path, content):
    tokenizer = build_tokenizer()
    source = saved(tmp_path / "m", tokenizer, build_model(tokenizer))
    (tmp_path / "m" / "generation_config.json").write_text(content)
    for use in (load_model, end_token_ids, lambda name: model_fingerprint(name, chat=True)):
        with pytest.raises(ModelError, match="is not a JSON object"):
            use(source)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([2, 5], [2, 5]), (2, [2]), (None, []), ([], []), ("2", []), ([2, None, -1, True, 5.0], [2]), ({"id": 2}, [])],
)
def test_end_tokens_are_read_whatever_stands_there(tmp_path, ids, expected):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    assert end_token_ids(str(tmp_path)) == expected


# --- fingerprints


@pytest.mark.parametrize(
    ("file", "values", "acts"),
    [
        ("generation_config.json", {"do_sample": True, "temperature": 0.5, "top_p": 0.5}, False),
        ("generation_config.json", {"transformers_version": "9"}, False),
        ("generation_config.json", {"eos_token_id": [2, 4]}, True),
        ("config.json", {"transformers_version": "9", "dtype": "bfloat16", "use_cache": False}, False),
        ("config.json", {"rms_norm_eps": 0.5}, True),
        ("tokenizer_config.json", {"eos_token": "<pad>"}, True),
    ],
)
def test_a_fingerprint_covers_what_acts_and_nothing_else(cache, tmp_path, file, values, acts):
    tokenizer = build_tokenizer()
    source = saved(tmp_path / "m", tokenizer, build_model(tokenizer))
    before = model_fingerprint(source, chat=True)
    change(tmp_path / "m" / file, **values)
    assert (model_fingerprint(source, chat=True) != before) == acts


def test_a_models_own_code_is_part_of_its_fingerprint(cache, tmp_path):
    tokenizer = build_tokenizer()
    source = saved(tmp_path / "m", tokenizer, build_model(tokenizer))
    names = [model_fingerprint(source)]
    change(tmp_path / "m" / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    names.append(model_fingerprint(source))
    (tmp_path / "m" / "modeling_own.py").write_text("a = 1")
    assert model_fingerprint(source) == names[-1], "not run, so it does not act"
    names.append(model_fingerprint(source, trust_remote_code=True))
    (tmp_path / "m" / "modeling_own.py").write_text("a = 2")
    names.append(model_fingerprint(source, trust_remote_code=True))
    assert len(set(names)) == 4


# --- weights


@pytest.mark.parametrize("layers", [2, 3])
def test_on_meta_a_model_is_checked_and_holds_nothing(tmp_path, layers):
    tokenizer = build_tokenizer()
    source = saved(tmp_path / "m", tokenizer, build_model(tokenizer))
    change(tmp_path / "m" / "config.json", num_hidden_layers=layers)
    if layers == 2:
        assert {weight.device for weight in load_model(source, device="meta").parameters()} == {torch.device("meta")}
        return
    with pytest.raises(ModelError, match="weights are missing"):
        load_model(source, device="meta")


def test_weights_that_the_model_has_no_place_for_are_told(tmp_path):
    tokenizer = build_tokenizer()
    source = saved(tmp_path / "m", tokenizer, build_model(tokenizer))
    change(tmp_path / "m" / "config.json", num_hidden_layers=1)
    with pytest.warns(SelfsteerWarning, match=r"9 weights of .* are not part of the model .*layers\.1"):
        load_model(source)
