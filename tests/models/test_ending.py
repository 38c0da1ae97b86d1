"""Which tokens the configurations of a model name as ends, and what sampling makes of them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from selfsteer.backends import Sampling
from selfsteer.backends.transformers import TransformersBackend
from selfsteer.chat import Chat
from selfsteer.models import end_token_ids
from tests.chat_templates import tokenizer_of, user
from tests.conftest import build_model


def folder_of(folder: Path, config: dict, generation: dict | None = None) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 5}, {"eos_token_id": [7, 9]}, [7, 9, 5]),
        ({"eos_token_id": [5, 7]}, {"eos_token_id": 7}, [7, 5]),
        ({"eos_token_id": 5}, None, [5]),
        ({"text_config": {"eos_token_id": 6}}, None, [6]),
        ({"eos_token_id": None}, {"eos_token_id": None}, []),
        ({"eos_token_id": -1}, {}, []),
        ({}, None, []),  # what the class of the configuration would say is another model's
    ],
)
def test_every_end_that_a_configuration_names(tmp_path, config, generation, expected):
    assert end_token_ids(str(folder_of(tmp_path / "m", config, generation))) == expected


def test_the_ends_of_an_adapter_are_those_of_its_base(tmp_path):
    base = folder_of(tmp_path / "base", {"eos_token_id": 5}, {"eos_token_id": [7]})
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert end_token_ids(str(tmp_path / "adapter")) == [7, 5]


def saying(tokenizer, text: str, then: str):
    """A model whose next token depends on the last one alone: ``text`` after a line break, then ``then`` for ever."""
    ids = tokenizer.encode(f"\n{text}{then}{then}", add_special_tokens=False)
    model = build_model(
        tokenizer, hidden_size=512, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=1,
        tie_word_embeddings=False, bos_token_id=None,
    )  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), 512))
        for token, following in pairwise(ids):
            model.lm_head.weight[following, token] = 1.0
    return model


@pytest.mark.parametrize("named", [[], [2]], ids=["the tokenizer's alone", "and the configurations'"])
@pytest.mark.parametrize("end", ["<|im_end|>", "<eos>"])
def test_sampling_stops_at_the_templates_end_and_at_every_other_one(end, named):
    """The form of ChatML fine-tunes whose tokenizer still names the document's end."""
    tokenizer = tokenizer_of("chatml")
    chat = Chat(tokenizer, named)
    backend = TransformersBackend(saying(tokenizer, f"Hey{end}", "x"), chat)
    (found,) = backend.generate([user("Hi")], Sampling(12, temperature=0.0, top_p=1.0), seed=0)
    assert (found.text, found.finish) == ("Hey", "stop")
    assert found.token_ids == [*tokenizer.encode("Hey", add_special_tokens=False), tokenizer.convert_tokens_to_ids(end)]
