"""``model.chat_template_kwargs`` and the place of annotated answers, from the recipe to what is trained and judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from selfsteer.chat_template import ChatTemplate
from selfsteer.config import JudgeSettings, Recipe, from_values
from selfsteer.errors import ConfigError
from selfsteer.judges import Pair, judge_pairs, make_judge
from selfsteer.loop import generate, run
from selfsteer.models import load_tokenizer
from selfsteer.records import Contrast, Response, read_rows
from selfsteer.reward.data import read_examples
from selfsteer.reward.recipe import RewardRecipe
from selfsteer.reward.scoring import conversation_ids
from selfsteer.stages.model_pool import ModelPool
from selfsteer.stages.principle_model import PrincipleModel
from selfsteer.workflows.reward import reward
from tests.chat_templates import tokenizer_of, user
from tests.conftest import build_model
from tests.reward_runs import reward_values, write_pairs
from tests.run_helpers import small_recipe, without_reports, write_queries

OFF = {"enable_thinking": False}
EMPTY = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def thinking_model(tmp_path_factory) -> Path:
    """A tiny model with the template of Qwen 3."""
    folder = tmp_path_factory.mktemp("models") / "qwen3"
    tokenizer = tokenizer_of("qwen3", eos_token="<|im_end|>")
    build_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def annotated(folder: Path, model: Path, **changes):
    (folder / "q.txt").write_text("Hi\n")
    pairs = [{"prompt": f"Name {i}.", "chosen": f"A{i}.", "rejected": f"Not {i}."} for i in range(4)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in pairs))
    settings = {"mode": "offline", "preferences": {"source": str(folder / "pairs.jsonl")}, "train__objective": "base"}
    return small_recipe(model, folder / "q.txt", queries__heldout=0, train__epochs=1, **settings, **changes)


def stored(run_dir: Path, stage: str, kind):
    return list(read_rows(sorted(run_dir.glob(f"round-01/{stage}/*.parquet")), kind))


@pytest.mark.parametrize("kwargs", [{}, OFF], ids=["thinking", "not thinking"])
def test_annotated_answers_are_trained_behind_the_empty_thought_as_reward_models_read_them(
    tmp_path, thinking_model, kwargs
):
    with without_reports():
        run(annotated(tmp_path, thinking_model, model__chat_template_kwargs=kwargs), tmp_path / "run")
    template = ChatTemplate(load_tokenizer(str(thinking_model)), kwargs)
    rows = stored(tmp_path / "run", "contrasts", Contrast)
    assert len(rows) == 4
    for row in rows:
        messages = [*row.prompt, {"role": "assistant", "content": row.positive_response}]
        whole = conversation_ids(template, messages, "")
        own = [*row.prompt_ids("prompt"), *row.response_ids("positive")]
        assert [*whole[: len(own)]] == own and template.tokenizer.decode(whole[len(own) :]) == "\n"
        assert template.tokenizer.decode(row.prompt_ids("prompt")).endswith(f"assistant\n{EMPTY}")
    card = (tmp_path / "run" / "round-01" / "policy" / "README.md").read_text()
    assert ('`{"enable_thinking": false}`' in card) is bool(kwargs)


def test_other_variables_make_other_responses_and_the_rows_say_which(tmp_path, thinking_model):
    queries = write_queries(tmp_path)
    settings = {"mode": "data-only", "queries__limit": 4, "queries__heldout": 0, "quality__filters": []}
    for kwargs in ({}, OFF):
        generate(
            small_recipe(thinking_model, queries, model__chat_template_kwargs=kwargs, **settings), tmp_path / "run"
        )
    rows = stored(tmp_path / "run", "responses", Response)
    decode = load_tokenizer(str(thinking_model)).decode
    ends = [decode(row.prompt_token_ids).endswith(f"assistant\n{EMPTY}") for row in rows]
    assert len(rows) == 24 and ends.count(True) == 12, "both settings' responses are kept"
    said = {row.provenance.get("chat_template_kwargs") for row in stored(tmp_path / "run", "contrasts", Contrast)}
    assert said == {None, '{"enable_thinking": false}'}


def test_an_implicit_judge_scores_what_is_trained_on(tmp_path, thinking_model, monkeypatch):
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))
    other = tmp_path / "other"
    shutil.copytree(thinking_model, other)
    tokenizer = load_tokenizer(str(thinking_model))
    models = [build_model(tokenizer, seed=1), build_model(tokenizer)]
    models[0].save_pretrained(other)
    judge = make_judge(JudgeSettings(name=f"implicit:{other}@{thinking_model}", device="cpu"))
    pair = Pair("0", user("Hi"), "yes", "no, never")
    (found,) = judge_pairs(judge, [pair])

    def logp(model, text: str) -> float:
        ids = conversation_ids(ChatTemplate(tokenizer), [*pair.prompt, {"role": "assistant", "content": text}], "")
        ids = ids[:-1]  # the line break behind the end of the turn
        size = len(tokenizer.encode(f"{text}<|im_end|>", add_special_tokens=False))
        with torch.inference_mode():
            logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(logps[at - 1, ids[at]]) for at in range(len(ids) - size, len(ids)))

    rewards = [logp(models[0], text) - logp(models[1], text) for text in (pair.first, pair.second)]
    assert found.log_odds == pytest.approx(rewards[0] - rewards[1], abs=1e-4)


def test_the_name_of_a_policy_names_the_variables(tmp_path, thinking_model):
    def start(kwargs):
        recipe = small_recipe(thinking_model, tmp_path, model__chat_template_kwargs=kwargs)
        return ModelPool(recipe, tmp_path).initial_policy(print)

    names = [start(kwargs).fingerprint for kwargs in ({}, OFF, {"enable_thinking": True})]
    assert len(set(names)) == 3 and start(OFF).fingerprint == names[1]


def test_a_variable_that_the_template_does_not_mention_is_refused_before_any_work(tmp_path, thinking_model):
    recipe = annotated(tmp_path, thinking_model, model__chat_template_kwargs={"enable_thinkin": False})
    with pytest.raises(ConfigError, match="no variable 'enable_thinkin'"):
        run(recipe, tmp_path / "run")
    assert not list((tmp_path / "run").glob("round-01/*/*.parquet"))
    with pytest.raises(ConfigError, match="no variable 'x'"):
        make_judge(JudgeSettings(name=str(thinking_model), chat_template_kwargs={"x": 1}))


def test_variables_of_a_server_are_part_of_the_key_and_of_the_request(tmp_path):
    def recipe(kwargs):
        endpoint = {"backend": "endpoint", "endpoint": {"model": "m", "base_url": "http://localhost:1/v1"}}
        writer = {"name": "endpoint:w", "chat_template_kwargs": kwargs}
        values = {"mode": "data-only", "model": {"chat_template_kwargs": kwargs}, "principles": {"model": writer}}
        return from_values(Recipe, values | {"generation": endpoint, "quality": {"filters": []}})

    bare, off = (ModelPool(recipe(kwargs), tmp_path) for kwargs in ({}, OFF))
    assert bare.weightless_policy().fingerprint == "endpoint:m" != off.weightless_policy().fingerprint
    assert PrincipleModel(recipe({})).fingerprint == "endpoint:w" != PrincipleModel(recipe(OFF)).fingerprint
    backends = [off.backend(off.weightless_policy()), PrincipleModel(recipe(OFF)).open(None)]
    assert [one._extra for one in backends] == [{"extra_body": {"chat_template_kwargs": OFF}}] * 2


def test_other_variables_render_the_pairs_of_a_reward_model_again(tmp_path):
    tokenizer = tokenizer_of("smollm3", eos_token="<|im_end|>")
    for one in (build_model(tokenizer), tokenizer):
        one.save_pretrained(tmp_path / "model")
    pairs = write_pairs(tmp_path / "pairs.jsonl", 2)
    for kwargs in ({}, OFF):
        model = {"name": str(tmp_path / "model"), "device": "cpu", "chat_template_kwargs": kwargs}
        values = reward_values(tmp_path, pairs, options={"epochs": 1}) | {"model": model}
        reward(RewardRecipe.model_validate(values), tmp_path / "run")
    files = (tmp_path / "run/data").glob("*examples.parquet")
    told = [["/no_think" in tokenizer.decode(one.chosen_ids) for one in read_examples(file)] for file in files]
    assert sorted(told) == [[False, False], [True, True]]
