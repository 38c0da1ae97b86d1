"""An adapter merged into its base: the same model in one folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selfsteer.models import load_model, load_tokenizer
from selfsteer.models.merge import merge
from tests.conftest import build_model, build_tokenizer


@pytest.fixture(scope="module")
def adapter(tiny_chat_model, tmp_path_factory) -> Path:
    """A policy of train.lora: an adapter that changes its base, beside the tokenizer and a card."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter") / "policy"
    model = get_peft_model(load_model(str(tiny_chat_model)), LoraConfig(target_modules="all-linear", r=4))
    torch.manual_seed(0)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            weights.data.normal_(std=0.1)
    model.save_pretrained(folder)
    load_tokenizer(str(tiny_chat_model)).save_pretrained(folder)
    (folder / "README.md").write_text("---\nbase_model: tiny\n---\nA policy.\n")
    return folder


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(40)[None]).logits.float()


def test_the_merged_model_is_base_and_adapter(adapter, tiny_chat_model, tmp_path, command_line):
    code, shown, _ = command_line("models", "merge", adapter, "--output", tmp_path / "merged")
    assert code == 0 and shown.strip() == str(tmp_path / "merged")
    merged = logits(load_model(str(tmp_path / "merged")))
    torch.testing.assert_close(merged, logits(load_model(str(adapter))), rtol=1e-5, atol=1e-5)
    assert (merged - logits(load_model(str(tiny_chat_model)))).abs().max() > 0.01
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert weights.keys() == load_file(tiny_chat_model / "model.safetensors").keys()
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert not [*(tmp_path / "merged").glob("adapter*")]
    assert (tmp_path / "merged" / "README.md").read_text() == (adapter / "README.md").read_text()
    assert load_tokenizer(str(tmp_path / "merged")).chat_template == load_tokenizer(str(adapter)).chat_template


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
@pytest.mark.filterwarnings("ignore:.*save_embedding_layers", "ignore:.*tie_word_embeddings")
def test_a_tied_head_gets_weights_of_its_own(target, tmp_path):
    from peft import LoraConfig, get_peft_model

    tokenizer, base = build_tokenizer(), tmp_path / "base"
    build_model(tokenizer, tie_word_embeddings=True).save_pretrained(base)
    tokenizer.save_pretrained(base)
    model = get_peft_model(load_model(str(base)), LoraConfig(target_modules=[target]))
    for name, weights in model.named_parameters():
        if "lora_" in name:
            weights.data.normal_(std=0.1)
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    merged = logits(load_model(str(merge(str(tmp_path / "policy"), tmp_path / "merged"))))
    torch.testing.assert_close(merged, logits(load_model(str(tmp_path / "policy"))), rtol=1e-5, atol=1e-5)
    assert (merged - logits(load_model(str(base)))).abs().max() > 0.01


def test_the_type_is_that_of_the_base_or_the_one_asked_for(adapter, tiny_chat_model, tmp_path, command_line):
    base = tmp_path / "base"
    load_model(str(tiny_chat_model), dtype="bfloat16").save_pretrained(base)
    own = rebased(adapter, base, tmp_path / "own")
    for wanted, options in ((torch.bfloat16, ()), (torch.float16, ("--dtype", "float16"))):
        output = tmp_path / str(wanted)
        assert command_line("models", "merge", own, "--output", output, *options)[0] == 0
        assert {value.dtype for value in load_file(output / "model.safetensors").values()} == {wanted}


def rebased(adapter: Path, base: Path, folder: Path) -> Path:
    shutil.copytree(adapter, folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))
    return folder


def test_what_can_not_be_merged_is_refused(adapter, tiny_chat_model, tmp_path, command_line):
    packed = tmp_path / "packed"
    shutil.copytree(tiny_chat_model, packed)
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (packed / "config.json").write_text(json.dumps(config))
    for policy, options, message in (
        (tiny_chat_model, ("--output", tmp_path / "out"), "there is no adapter to merge"),
        (adapter, ("--output", tmp_path), "the output exists"),
        (adapter, ("--output", tmp_path / "out", "--dtype", "int4"), "unknown dtype 'int4'"),
        (rebased(adapter, packed, tmp_path / "own"), ("--output", tmp_path / "out"), "weights are quantised"),
        (learnt_prompt(tiny_chat_model, tmp_path), ("--output", tmp_path / "out"), "PROMPT_TUNING can't be merged"),
    ):
        code, _, err = command_line("models", "merge", policy, *options)
        assert code == 2 and message in err
    assert not (tmp_path / "out").exists()


def learnt_prompt(base: Path, folder: Path) -> Path:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(load_model(str(base)), config).save_pretrained(folder / "prompt")
    return folder / "prompt"
