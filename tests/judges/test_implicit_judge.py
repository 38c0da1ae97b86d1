"""Implicit rewards: against log-probs by plain forward passes, one model in memory at a time, and what is refused."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch

import selfsteer.models
from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError, ModelError
from selfsteer.judges import AnswerCache, Pair, PresentedPair, judge_pairs, make_judge
from tests.chat_templates import user
from tests.conftest import build_model, build_tokenizer

PAIRS = [
    Pair("0", user("How do plants make food?"), "From light, water and air.", "They do not."),
    Pair("1", user("Hi"), "yes", "no, and here is a long list of reasons"),
    Pair("2", [*user("Hi"), {"role": "assistant", "content": "yes"}, *user("And?")], "", "no"),
    Pair("3", user("Hi"), "yes", "yes"),
    Pair("4", user("Hi"), "the river", "the mill", first_finish="length"),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def policy(tiny_chat_model, tmp_path) -> Path:
    """Other weights than the tiny model's, with its tokenizer."""
    folder = tmp_path / "policy"
    shutil.copytree(tiny_chat_model, folder)
    build_model(build_tokenizer(), seed=1).save_pretrained(folder)
    return folder


def opened(name: str, **settings):
    return make_judge(JudgeSettings(name=name, **settings))


def read(folder: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    return AutoTokenizer.from_pretrained(folder), model


def by_hand(tokenizer, model, pair: Pair, response: str, finish: str) -> torch.Tensor:
    """Log-probs of a response's tokens, end token included where it ended, by one unpacked pass in float64."""
    prompt = tokenizer.apply_chat_template(pair.prompt, add_generation_prompt=True, return_dict=False)
    ids = tokenizer(response, add_special_tokens=False)["input_ids"]
    ids += [tokenizer.eos_token_id] if finish == "stop" else []
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(ids)), ids]


@pytest.mark.parametrize("per_token", [False, True])
def test_the_log_odds_are_the_difference_of_log_ratios(tiny_chat_model, policy, per_token):
    judge = opened(f"implicit:{policy}@{tiny_chat_model}", per_token=per_token, device="cpu")
    models = [read(folder) for folder in (policy, tiny_chat_model)]

    def reward(pair, text, finish):
        over, under = (by_hand(*model, pair, text, finish) for model in models)
        return float((over - under).mean() if per_token else (over - under).sum())

    expected = [reward(p, p.first, p.first_finish) - reward(p, p.second, p.second_finish) for p in PAIRS]
    found = judge_pairs(judge, PAIRS)
    assert [one.log_odds for one in found] == pytest.approx(expected, abs=1e-4)
    assert [one.strict for one in found] == [(value > 0) - (value < 0) for value in expected]
    assert found[3].outcome == "tie" and {one.outcome for one in found} == {"tie", "consistent"}
    assert judge.name == f"policy against tiny (implicit, {'per token' if per_token else 'summed'})"


def test_one_model_is_in_memory_at_a_time_and_none_where_answers_are_kept(
    tiny_chat_model, policy, tmp_path, monkeypatch
):
    real, loaded = selfsteer.models.load_model, []

    def load(source, **options):
        gc.collect()
        assert all(ref() is None for _, ref in loaded), "the other one is still there"
        model = real(source, **options)
        loaded.append((Path(source).name, weakref.ref(model)))
        return model

    monkeypatch.setattr(selfsteer.models, "load_model", load)
    judge = opened(f"implicit:{policy}@{tiny_chat_model}", device="cpu")
    assert loaded == []
    judge.batch_size = 4
    found = judge_pairs(judge, PAIRS, AnswerCache(tmp_path / "answers.jsonl"))
    # three batches: each begins with the model that the one before ended with
    assert [name for name, _ in loaded] == ["policy", "tiny", "policy", "tiny"]
    again = opened(f"implicit:{policy}@{tiny_chat_model}", device="cpu")
    assert again.key == judge.key and judge_pairs(again, PAIRS, AnswerCache(tmp_path / "answers.jsonl")) == found
    assert len(loaded) == 4
    del judge, again
    at_once = judge_pairs(opened(f"implicit:{policy}@{tiny_chat_model}", device="cpu"), PAIRS)
    assert [one.log_odds for one in at_once] == pytest.approx([one.log_odds for one in found], abs=1e-4)


def test_both_orders_are_scored_once(tiny_chat_model, policy, monkeypatch):
    import selfsteer.logprobs

    real, rows = selfsteer.logprobs.score_responses, []

    def score(model, given, **options):
        rows.append(len(given))
        return real(model, given, **options)

    monkeypatch.setattr(selfsteer.logprobs, "score_responses", score)
    judge_pairs(opened(f"implicit:{policy}@{tiny_chat_model}", device="cpu"), PAIRS[:2])
    assert rows == [2, 2]


def test_what_does_not_fit_or_has_no_token_is_invalid(tiny_chat_model, policy):
    pairs = [Pair("long", user("Hi"), "river " * 600, "no"), Pair("none", user("Hi"), "", "no", first_finish="length")]
    judge = opened(f"implicit:{policy}@{tiny_chat_model}", device="cpu")
    found = judge_pairs(judge, [*pairs, PAIRS[0]])
    assert [one.outcome for one in found] == ["invalid", "invalid", "consistent"]
    assert "context" in found[0].forward.why and "without tokens" in found[1].forward.why
    (alone,) = judge.answer([PresentedPair(pairs[1], False)])
    assert not alone.valid


@pytest.mark.parametrize(("said", "asked", "scale"), [
    ({"objective": "sso", "base_loss": "ipo"}, None, "per token"),
    ({"objective": "base", "base_loss": "simpo"}, None, "per token"),
    ({"objective": "base", "base_loss": "dpo"}, None, "summed"),
    ({"objective": "sso", "base_loss": "hinge"}, None, "summed"),
    ({"objective": "sft", "base_loss": None}, None, "per token"),
    ({"objective": "base", "base_loss": "dpo"}, True, "per token"),
    ({"objective": "sso", "base_loss": "ipo"}, False, "summed"),
    ({"examples": 3}, None, "summed"),
])  # fmt: skip
def test_the_scale_follows_the_loss_that_the_policys_folder_names(tiny_chat_model, policy, said, asked, scale):
    file = policy / "selfsteer.json"
    file.write_text(json.dumps(said))
    try:
        name = opened(f"implicit:{policy}@{tiny_chat_model}", per_token=asked, device="cpu").name
    finally:
        file.unlink()
    assert name == f"policy against tiny (implicit, {scale})"


@pytest.mark.parametrize("form", ["card", "adapter"])
def test_a_folder_that_tells_what_it_was_trained_from_needs_no_reference(tiny_chat_model, policy, form):
    if form == "card":
        (policy / "README.md").write_text(f"---\nbase_model: {tiny_chat_model}\ntags: [x]\n---\n# A policy\n")
    else:
        (policy / "README.md").write_text("no front matter")
        (policy / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_chat_model)}))
    judge = opened(f"implicit:{policy}", device="cpu")
    assert judge.name == "policy against tiny (implicit, summed)"


@pytest.mark.parametrize("card", [None, "plain text", "---\nbase_model: [a, b]\n---\n", "---\n: : :\n---\n"])
def test_a_folder_that_does_not_tell_is_refused(policy, card):
    if card is not None:
        (policy / "README.md").write_text(card)
    with pytest.raises(ConfigError, match=r"nothing records which model .*policy' was trained from") as caught:
        opened(f"implicit:{policy}")
    assert "@REFERENCE" in caught.value.do
    with pytest.raises(ConfigError, match="nothing records"):
        opened(f"implicit:{policy}@")


def test_a_policy_folder_may_have_an_at_sign(tiny_chat_model, policy, tmp_path):
    odd = tmp_path / "a@b"
    shutil.move(policy, odd)
    with pytest.raises(ConfigError, match="nothing records"):
        opened(f"implicit:{odd}")
    assert opened(f"implicit:{odd}@{tiny_chat_model}").name == "a@b against tiny (implicit, summed)"


def test_models_that_can_not_be_compared_are_refused(tiny_chat_model, policy):
    with pytest.raises(ConfigError, match="the same weights"):
        opened(f"implicit:{policy}@{policy}")
    template = policy / "chat_template.jinja"
    template.write_text(template.read_text().replace("You help.", "You judge."))
    with pytest.raises(ModelError, match="different tokenizers or chat templates"):
        opened(f"implicit:{policy}@{tiny_chat_model}")


def test_settings_that_do_not_act_are_refused(tiny_chat_model, policy):
    for settings in ({"mode": "text"}, {"revision": "main"}, {"template": "x.jinja"}):
        with pytest.raises(ConfigError, match="has no setting"):
            opened(f"implicit:{policy}@{tiny_chat_model}", **settings)
    with pytest.raises(ConfigError, match="has no setting per_token"):
        opened("program:shorter", per_token=True)
    keys = {opened(f"implicit:{policy}@{tiny_chat_model}", **own).key for own in
            ({}, {"per_token": True}, {"precision": "bfloat16"})}  # fmt: skip
    assert len(keys) == 3
