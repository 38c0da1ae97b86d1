"""Fixtures that several folders of tests share: a tiny random chat model on disk, and where the shared data lie."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Tiny models gain nothing from threads, and processes that share the cores lose a lot by them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# A shell has what it starts in the background ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SENTENCES = [
    "The river runs past the old mill and into the sea.",
    "Answer in one short sentence. Write a very long and detailed answer with many paragraphs.",
    "How do plants make food from light, water and air?",
]


def build_tokenizer():
    """Return a small byte-level tokenizer with a ChatML template that injects a default system message."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHATML
    return fast


def build_model(tokenizer, seed: int = 0, **overrides):
    """Return a tiny random Llama for a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return LlamaForCausalLM(LlamaConfig(**(settings | overrides))).eval()


@pytest.fixture(scope="session")
def tiny_chat_model(tmp_path_factory) -> Path:
    """A folder with a tiny random chat model, as a user would point ``model=`` at."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_classifier(tiny_chat_model, tmp_path_factory) -> Path:
    """A folder with a tiny random text classifier of the labels "fine" and "harmful", which reads 32 tokens at once."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tiny_chat_model)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, pad_token_id=tokenizer.pad_token_id,
        id2label={0: "fine", 1: "harmful"}, label2id={"fine": 0, "harmful": 1},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("classifiers") / "tiny"
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        model.score.weight.mul_(20)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    from tests.run_helpers import write_queries

    return write_queries(tmp_path_factory.mktemp("queries"))


@pytest.fixture(scope="module")
def scripted_run(tmp_path_factory, queries):
    """A finished run without a model, for tests that only read it, or copy it before they change it."""
    from selfsteer.loop import run
    from tests.run_helpers import scripted_recipe, without_reports

    run_dir = tmp_path_factory.mktemp("runs") / "scripted"
    with without_reports():
        run(scripted_recipe(queries), run_dir)
    return run_dir


@pytest.fixture
def hub(monkeypatch) -> Callable[..., None]:
    """Put a data set on the hub that this process sees: ``hub("org/name", filtered=ROWS)``; all others are missing."""
    import datasets

    there: dict[tuple[str, str | None, str], datasets.Dataset] = {}

    def load_dataset(name: str, config: str | None, split: str) -> datasets.Dataset:
        if (name, config, split) not in there:
            raise ValueError(f'Unknown split "{split}" of {name}, {config}')
        return there[name, config, split]

    def put(name: str, **splits: list[dict[str, Any]]) -> None:
        path, _, config = name.partition(":")
        for split, rows in splits.items():
            there[path, config or None, split] = datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return put


@pytest.fixture
def command_line(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; returns exit code, output and errors."""
    from selfsteer import cli
    from selfsteer.commands import console

    # Where COLUMNS was set when the module was imported, as in a worker of xdist, the console keeps that width.
    for one in (console.out, console.errors):
        monkeypatch.setattr(one, "_width", None)

    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selfsteer", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call
