"""What a run leaves, served by vLLM: a LoRA policy, merged into its base, and a whole one as it is."""

from __future__ import annotations

import json
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from selfsteer.loop import run
from selfsteer.models import load_model, load_tokenizer
from selfsteer.models.merge import merge
from tests.backends.vllm_engines import served
from tests.conftest import build_model, build_tokenizer
from tests.run_helpers import small_recipe, without_reports, write_queries

QUESTION = [{"role": "user", "content": "How do plants make food?"}]


def train(folder: Path, lora: dict[str, int] | None) -> Path:
    """Return the policy of a run that has trained it until it answers otherwise than its base."""
    tokenizer = build_tokenizer()
    # vLLM's attention on CPUs takes heads of 32 and more.
    build_model(tokenizer, hidden_size=128, intermediate_size=192).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    settings = {"train__lora": lora, "train__learning_rate": 0.05, "queries__heldout": 0}
    with without_reports():
        run(small_recipe(folder / "base", write_queries(folder), **settings), folder / "run")
    return folder / "run" / "policy"


def answer(folder: Path) -> str:
    """Return the greedy answer by transformers."""
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        out = model.generate(**ids, max_new_tokens=12, do_sample=False)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.vllm
@pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed")
@pytest.mark.parametrize("lora", [{"r": 8}, None], ids=["merged", "whole"])
def test_a_policy_answers_in_a_vllm_server(lora, tmp_path):
    policy = train(tmp_path, lora)
    folder = merge(str(policy), tmp_path / "merged") if lora else policy
    expected = answer(folder)
    assert expected == answer(policy) != answer(tmp_path / "base")
    request = {"model": "policy", "messages": QUESTION, "temperature": 0, "max_tokens": 12}
    # The tiny model has 512 positions.
    with served(str(folder), tmp_path / "log", name="policy", max_model_len=512) as address:
        body = urllib.request.Request(
            f"{address}/chat/completions", json.dumps(request).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(body, timeout=60) as reply:
            said = json.load(reply)
    assert said["choices"][0]["message"]["content"] == expected
