"""Loading reward models: what is saved comes back, and no model is taken for one that is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from selfsteer.errors import ConfigError, ModelError
from selfsteer.judges.reward import RewardJudge
from selfsteer.reward.loading import load_reward_model, reward_config
from tests.backends.tiny import tiny_llama
from tests.chat_templates import tokenizer_of
from tests.judges.test_reward_judge import SHOWN, judge_of
from tests.reward.tiny import reward_model


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of("chatml")


def saved(model: Any, folder) -> str:
    model.save_pretrained(folder)
    return str(folder)


def test_a_saved_reward_model_comes_back_with_its_scores(tokenizer, tmp_path):
    model = reward_model(tokenizer, "qwen2")
    loaded = load_reward_model(saved(model, tmp_path), dtype="float32")
    assert not loaded.training and loaded.dtype == torch.float32
    one, other = (judge_of(m, tokenizer) for m in (model, loaded))
    assert one.key == other.key
    for expected, found in zip(one.answer(SHOWN), other.answer(SHOWN), strict=True):
        assert found.log_odds == pytest.approx(expected.log_odds, abs=1e-5)
    assert load_reward_model(str(tmp_path), dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3_text"])
@pytest.mark.parametrize("pad", [None, 0])
def test_the_key_from_the_configuration_alone_is_that_of_the_loaded_model(tokenizer, tmp_path, architecture, pad):
    folder = saved(reward_model(tokenizer, architecture, pad=pad), tmp_path)
    loaded = load_reward_model(folder)
    by_file, by_model = (
        RewardJudge(lambda: loaded, tokenizer, config=config, name="r", content="tiny")
        for config in (reward_config(folder), loaded.config)
    )
    assert by_file.key == by_model.key and by_file.max_length == by_model.max_length == 512


def test_what_the_files_tell_is_refused_before_any_weights_are_loaded(tokenizer, tmp_path):
    for outputs in (2, 3):
        folder = saved(reward_model(tokenizer, num_labels=outputs), tmp_path / str(outputs))
        with pytest.raises(ModelError, match=f"has {outputs} outputs"):
            reward_config(folder)
    with pytest.raises(ModelError, match="without reward:, by its log-probs"):
        reward_config(saved(tiny_llama(tokenizer), tmp_path / "language"))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "empty").mkdir()
    for name, message in (("adapter", "adapter"), ("model.gguf", "GGUF"), ("empty", "no config.json")):
        with pytest.raises(ModelError, match=message):
            reward_config(str(tmp_path / name))
    assert reward_config(saved(reward_model(tokenizer), tmp_path / "one")).num_labels == 1


def test_a_language_model_is_refused_instead_of_scored_at_random(tokenizer, tmp_path):
    folder = saved(tiny_llama(tokenizer), tmp_path)
    with pytest.raises(
        ModelError, match=r"no score head \(score.weight\), so it is not a reward model.*lm_head.weight"
    ):
        load_reward_model(folder)


def test_a_model_of_several_outputs_is_refused(tokenizer, tmp_path):
    with pytest.raises(ModelError, match="has 3 outputs"):
        load_reward_model(saved(reward_model(tokenizer, num_labels=3), tmp_path))


def test_missing_layers_are_refused(tokenizer, tmp_path):
    folder = saved(reward_model(tokenizer), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ModelError, match="weights are missing"):
        load_reward_model(folder)


def test_other_forms_are_refused(tokenizer, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    for name, message in (("adapter", "adapter"), ("model.gguf", "GGUF"), ("pickled", "pickled")):
        with pytest.raises(ModelError, match=message):
            load_reward_model(str(tmp_path / name))


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="dtype"):
        load_reward_model(str(tmp_path), dtype="float8")
    with pytest.raises(ConfigError, match="no such device"):
        load_reward_model(str(tmp_path), device="gpu")
    with pytest.raises(ModelError, match="no model 'nothing-here'"):
        load_reward_model("nothing-here")
