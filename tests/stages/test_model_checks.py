"""A recipe that its models can't follow is refused before the first stage, with the key and what to do."""

from __future__ import annotations

import importlib.util
import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from selfsteer.config import ModelSettings
from selfsteer.errors import InputError, ModelError, SelfsteerWarning
from selfsteer.loop import generate, run
from selfsteer.models import load_model, load_tokenizer
from selfsteer.workflows.reward import reward
from tests.conftest import build_model, build_tokenizer
from tests.reward_runs import reward_recipe, write_pairs
from tests.run_helpers import small_recipe, write_queries

LORA = {"r": 4, "alpha": 8}


@pytest.fixture
def queries(tmp_path):
    return write_queries(tmp_path)


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "pairs.jsonl", 8)


def saved(folder: Path, tokenizer, model) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def refused(recipe, run_dir: Path, do=run) -> InputError:
    """Return the error of a run that is refused before it has done anything."""
    with pytest.raises(InputError) as caught:
        do(recipe, run_dir)
    assert not (run_dir / "ledger.jsonl").exists()
    return caught.value


# --- adapters

TARGETS = [
    (["c_attn"], "no module of the name 'c_attn'", "Available: all-linear, down_proj"),
    (["q_proj", "k_porj"], "no module of the name 'k_porj'", "Did you mean 'k_proj'?"),
    ("q_proj", "no module of the name 'q_proj'", "Did you mean 'q_proj'?"),
    ("*", "no adapter can be put on '*'", "all-linear"),
    (["self_attn"], "no adapter can be put on ['self_attn']", "q_proj"),
    ([], "no adapter can be put on []", "q_proj"),
]


@pytest.mark.parametrize(("asked", "what", "do"), TARGETS, ids=lambda value: str(value)[:20])
def test_target_modules_that_the_model_lacks(tmp_path, tiny_chat_model, queries, pairs, asked, what, do):
    lora = {**LORA, "target_modules": asked}
    told = refused(small_recipe(tiny_chat_model, queries, train__lora=lora), tmp_path / "run")
    assert what in told.what and do in told.do and told.where == "train.lora.target_modules"
    told = refused(reward_recipe(tiny_chat_model, pairs, options={"lora": lora}), tmp_path / "reward", reward)
    assert what in told.what and told.where == "options.lora.target_modules"


@pytest.mark.parametrize("asked", ["all-linear", ["q_proj", "mlp.up_proj"], r".*layers\.1\..*_proj", ["lm_head"]])
def test_target_modules_that_the_model_has(tiny_chat_model, asked):
    from selfsteer.config import LoraSettings
    from selfsteer.models.configs import outline
    from selfsteer.policy.adapters import check_adapter

    source = str(tiny_chat_model)
    check_adapter(outline(source), source, LoraSettings(target_modules=asked), where="train.lora")


def test_an_adapter_of_other_settings_than_the_model_brings(tmp_path, tiny_chat_model, queries):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(load_model(str(tiny_chat_model)), config).save_pretrained(tmp_path / "adapter")
    told = refused(small_recipe(tmp_path / "adapter", queries, train__lora=LORA), tmp_path / "run")
    assert "brings an adapter with r=2, but the settings say 4" in told.what


# --- lengths


def test_new_tokens_that_fill_the_context(tmp_path, tiny_chat_model, queries):
    told = refused(small_recipe(tiny_chat_model, queries, generation__max_new_tokens=512), tmp_path / "run")
    assert told.where == "generation.max_new_tokens" and "the context of" in told.what and "512" in told.what
    told = refused(small_recipe(tiny_chat_model, queries, generation__max_new_tokens=600), tmp_path / "data", generate)
    assert "600 new tokens" in told.what


def offline(model, queries, pairs, **changes):
    changes = {"mode": "offline", "preferences__source": str(pairs), "train__objective": "base", **changes}
    return small_recipe(model, queries, queries__heldout=0, generation__max_new_tokens=600, **changes)


def test_rows_beyond_the_context_are_warned_of_once_where_another_writes_them(
    tmp_path, tiny_chat_model, queries, pairs
):
    with pytest.warns(SelfsteerWarning, match="beyond the model's context of 512: set train.max_length=512") as caught:
        run(offline(tiny_chat_model, queries, pairs, train__max_length=513), tmp_path / "run")
    assert len([one for one in caught if one.category is SelfsteerWarning]) == 1


def test_rows_beyond_a_table_of_positions_are_refused(tmp_path, queries, pairs):
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=256, n_embd=16, n_layer=1, n_head=2))
    folder = saved(tmp_path / "gpt2", tokenizer, model)
    told = refused(offline(folder, queries, pairs, train__max_length=300), tmp_path / "run")
    assert told.where == "train.max_length" and "no positions" in told.what and "train.max_length=256" in told.do


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "linear", "factor": 4.0}, 512),
    ],
)
def test_a_context_counts_its_stretched_positions(rope, expected):
    from selfsteer.models.rope import context_of

    config = build_model(build_tokenizer(), rope_parameters={"rope_theta": 10000.0, **rope}).config
    assert context_of(config) == expected


# --- devices and extras


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cuda:x", ""])
def test_a_device_that_is_not_there(tmp_path, tiny_chat_model, queries, pairs, device):
    told = refused(small_recipe(tiny_chat_model, queries, model__device=device), tmp_path / "run")
    assert told.where == "model.device"
    model = ModelSettings(name=str(tiny_chat_model), device=device)
    recipe = reward_recipe(tiny_chat_model, pairs).model_copy(update={"model": model})
    assert refused(recipe, tmp_path / "reward", reward).where == "model.device"


def test_a_backend_that_is_not_installed(tmp_path, tiny_chat_model, queries, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else found(name, *rest))
    told = refused(small_recipe(tiny_chat_model, queries, generation__backend="vllm"), tmp_path / "run")
    assert "vLLM, which is not installed" in told.what and "pip install 'selfsteer[vllm]'" in told.do


# --- tokens and weights


def test_a_mark_of_the_template_without_an_embedding(tmp_path, queries, pairs):
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|turn|>"]})
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>assistant", "<|turn|>assistant")
    folder = saved(tmp_path / "marks", tokenizer, model)
    for told in (
        refused(small_recipe(folder, queries), tmp_path / "run"),
        refused(reward_recipe(folder, pairs), tmp_path / "reward", reward),
    ):
        assert isinstance(told, ModelError) and "the chat template writes token" in told.what


def test_a_pad_token_without_an_embedding_works_to_the_end_and_what_was_trained_loads(tmp_path, queries, pairs):
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    folder = saved(tmp_path / "pad", tokenizer, model)
    settings = json.loads((folder / "generation_config.json").read_text())
    ends = {"eos_token_id": [tokenizer.eos_token_id, 7], "do_sample": False, "temperature": 0.4}
    (folder / "generation_config.json").write_text(json.dumps(settings | ends))
    run(small_recipe(folder, queries, train__epochs=1), tmp_path / "run")
    policy = str(tmp_path / "run/round-01/policy")
    trained = load_model(policy)
    assert set(trained.generation_config.eos_token_id) == {tokenizer.eos_token_id, 7}
    assert load_tokenizer(policy).pad_token_id < rows == trained.get_input_embeddings().weight.shape[0]
    held = write_pairs(tmp_path / "held.jsonl", 4, start=50)
    reward(reward_recipe(folder, pairs, held), tmp_path / "reward")


def test_a_policy_with_weights_missing_is_refused_before_another_model_writes_for_it(
    tmp_path, tiny_chat_model, queries
):
    broken = saved(tmp_path / "broken", build_tokenizer(), build_model(build_tokenizer()))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    changes = {"mode": "offline", "generation__model": str(tiny_chat_model), "queries__heldout": 0}
    assert "weights are missing" in refused(small_recipe(broken, queries, **changes), tmp_path / "run").what


def test_a_finished_run_is_not_checked_again(tmp_path, tiny_chat_model, queries, monkeypatch):
    recipe = small_recipe(tiny_chat_model, queries, mode="data-only", queries__heldout=0)
    generate(recipe, tmp_path / "run")
    monkeypatch.setattr(
        import_module("selfsteer.loop.run"), "check_models", lambda *_, **__: pytest.fail("all is done")
    )
    generate(recipe, tmp_path / "run")
