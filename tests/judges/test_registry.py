"""From a name to a judge: each form, what is loaded when, and what is refused."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

import selfsteer.models
from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError, InputError, ModelError
from selfsteer.judges import AnswerCache, Pair, judge_pairs, make_judge
from selfsteer.judges.logprob import EndpointLogprobJudge, LogprobJudge
from selfsteer.judges.program import ProgramJudge
from selfsteer.judges.registry import settings_of
from selfsteer.judges.reward import RewardJudge
from selfsteer.judges.text import TextJudge
from selfsteer.reward import loading
from tests.chat_templates import user
from tests.conftest import build_model, build_tokenizer

PAIRS = [Pair("0", user("Hi"), "yes", "no")]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def loads(monkeypatch) -> list[Any]:
    """What was loaded with which options."""
    real, seen = selfsteer.models.load_model, []

    def load(source: str, **options: Any) -> Any:
        seen.append((source, options))
        return real(source, **options)

    monkeypatch.setattr(selfsteer.models, "load_model", load)
    return seen


def opened(name: str | None, **settings: Any) -> Any:
    return make_judge(JudgeSettings(name=name, **settings))


@pytest.mark.parametrize(
    ("mode", "kind", "name"), [("logprobs", LogprobJudge, "tiny (log-probs)"), ("text", TextJudge, "tiny (text)")]
)
def test_a_folder_is_a_language_model_whose_weights_come_with_the_first_answer(
    tiny_chat_model, loads, mode, kind, name
):
    judge = opened(str(tiny_chat_model), mode=mode, device="cpu", precision="float32")
    assert type(judge) is kind and judge.name == name and judge.key
    assert loads == []
    (judged,) = judge_pairs(judge, PAIRS)
    assert judged.pair == PAIRS[0]
    judge_pairs(judge, PAIRS)
    ((source, options),) = loads
    assert source == str(tiny_chat_model)
    assert (options["device"], options["dtype"]) == ("cpu", "float32")


def test_a_model_is_known_again_by_weights_precision_question_mode_and_chat_template(tiny_chat_model, tmp_path):
    own = tmp_path / "template.jinja"
    own.write_text("{{ first }} or {{ second }}?")
    name = str(tiny_chat_model)
    retold, retrained = tmp_path / "retold", tmp_path / "retrained"
    shutil.copytree(tiny_chat_model, retold)
    shutil.copytree(tiny_chat_model, retrained)
    file = retold / "chat_template.jinja"
    file.write_text(file.read_text().replace("You help.", "You judge."))
    build_model(build_tokenizer(), seed=1).save_pretrained(retrained)
    others: list[Any] = []
    for mode in ("logprobs", "text"):
        settings = {"mode": mode, "precision": "float32"}
        key = opened(name, **settings).key
        assert opened(name, **settings).key == key
        others += [
            key,
            opened(name, **settings | {"precision": "bfloat16"}).key,
            opened(name, **settings, template=str(own)).key,
            opened(str(retold), **settings).key,
            opened(str(retrained), **settings).key,
        ]
    assert len(set(others)) == 10


@pytest.fixture
def reward_folder(tmp_path):
    from transformers import AutoModelForSequenceClassification

    folder, tokenizer = tmp_path / "rewards", build_tokenizer()
    config = build_model(tokenizer, num_labels=1).config
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_reward_model_is_opened_in_float32_unless_told_otherwise(reward_folder):
    judge = opened(f"reward:{reward_folder}")
    assert type(judge) is RewardJudge and judge.name == "rewards (reward)"
    assert str(judge.model.dtype) == "torch.float32"
    assert judge_pairs(judge, PAIRS)[0].outcome in ("consistent", "tie")
    assert str(opened(f"reward:{reward_folder}", precision="bfloat16").model.dtype) == "torch.bfloat16"


def test_a_reward_model_is_loaded_once_and_not_at_all_where_its_answers_are_kept(reward_folder, tmp_path, monkeypatch):
    real, loads = loading.load_reward_model, []

    def load(source: str, **options: Any) -> Any:
        loads.append((source, options["device"], options["dtype"]))
        return real(source, **options)

    monkeypatch.setattr(loading, "load_reward_model", load)
    first = opened(f"reward:{reward_folder}", device="cpu")
    assert loads == []
    found = judge_pairs(first, PAIRS, AnswerCache(tmp_path / "answers.jsonl"))
    assert loads == [(str(reward_folder), "cpu", "float32")]
    again = opened(f"reward:{reward_folder}", device="cpu")
    assert judge_pairs(again, PAIRS, AnswerCache(tmp_path / "answers.jsonl")) == found
    assert again.key == first.key and len(loads) == 1
    halved = opened(f"reward:{reward_folder}", precision="bfloat16")
    assert halved.key != first.key and len(loads) == 1


def test_a_language_model_is_no_reward_model_and_that_is_said_at_once(tiny_chat_model):
    with pytest.raises(ModelError, match="has 2 outputs; a reward model has one"):
        opened(f"reward:{tiny_chat_model}")


def test_an_endpoint_is_opened_without_asking_it():
    address = "http://localhost:9/v1"
    by_odds, by_words = (opened("endpoint:org/m", base_url=address, mode=mode) for mode in ("logprobs", "text"))
    assert type(by_odds) is EndpointLogprobJudge and by_odds.name == "org/m (log-probs)"
    assert type(by_words) is TextJudge and by_words.name == "org/m (text)"
    keys = {by_odds.key, by_words.key, opened("endpoint:org/n", base_url=address).key}
    assert len(keys | {opened("endpoint:org/m", base_url="http://localhost:8/v1").key}) == 4


def test_a_program_is_found_by_name_and_by_file(tmp_path):
    assert type(opened("program:shorter")) is ProgramJudge
    (tmp_path / "mine.py").write_text("def best(pair):\n    return 1\n")
    judge = opened(f"program:{tmp_path / 'mine.py'}:best")
    assert judge.name == "best" and judge_pairs(judge, PAIRS)[0].outcome == "inconsistent"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        (None, {}, "no judge is named"),
        ("", {}, "no judge is named"),
        ("program:", {}, "names no judge"),
        ("reward:", {}, "names no judge"),
        ("program:shortr", {}, "Did you mean 'shorter'"),
        ("program:none.py:f", {}, "no such file"),
        ("endpoint:m", {"base_url": "nowhere"}, "base_url"),
        ("endpoint:m", {"base_url": "http://localhost:9/v1", "template": "none.jinja"}, "none.jinja"),
        ("smollm2", {}, "smollm2-135m"),
        ("./no/such/folder", {}, "no such folder"),
        ("reward:./no/such/folder", {}, "no such folder"),
        # a setting that would change nothing
        ("program:shorter", {"mode": "text"}, "judge.mode"),
        ("program:shorter", {"template": "x.jinja"}, "judge.template"),
        ("reward:m", {"mode": "text", "base_url": "http://x/v1"}, "judge.base_url, judge.mode"),
        ("endpoint:m", {"base_url": "http://x/v1", "precision": "float32"}, "judge.precision"),
        ("some/model", {"base_url": "http://x/v1"}, "judge.base_url"),
        ("smollm2-135m", {"revision": "main"}, "judge.revision"),
        # what this machine or the environment can't give
        ("endpoint:m", {"base_url": "http://x/v1", "api_key_env": "sk-1"}, "judge.api_key_env (--api-key-env)"),
    ],
)
def test_what_can_not_be_opened_is_the_inputs_fault_and_says_why(name, settings, words, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError) as caught:
        opened(name, **settings)
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", ["", "reward:"])
@pytest.mark.parametrize(
    ("device", "words"),
    [("gpu", "no such device: 'gpu'"), ("", "no such device: ''"), ("meta", "can't compute on 'meta'")],
)
def test_a_device_that_is_none_is_told_before_anything_is_loaded(
    tiny_chat_model, reward_folder, loads, kind, device, words
):
    with pytest.raises(ConfigError) as caught:
        opened(f"{kind}{reward_folder if kind else tiny_chat_model}", device=device)
    assert words in caught.value.what and caught.value.where == "judge.device (--device)"
    assert "\n" not in caught.value.what and "cpu" in caught.value.do and loads == []


def test_a_revision_is_for_models_of_the_hub(tiny_chat_model, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    for hub in ("org/name", "reward:org/name", str(tmp_path / "adapter")):
        assert "revision" in settings_of(hub)
    for here in ("smollm2-135m", str(tiny_chat_model), f"reward:{tiny_chat_model}", "endpoint:m"):
        assert "revision" not in settings_of(here)
    with pytest.raises(ConfigError, match="has no setting revision"):
        opened(str(tiny_chat_model), revision="v1")


def test_what_the_pairs_are_judged_by_is_no_setting_of_the_judge():
    assert opened("program:shorter", by="aspects").name == "shorter"


def test_a_template_that_is_wrong_is_told_before_any_weights_are_loaded(tiny_chat_model, tmp_path, loads):
    (tmp_path / "own.jinja").write_text("{{ first }}\n{% if %}{{ second }}")
    with pytest.raises(ConfigError) as caught:
        opened(str(tiny_chat_model), template=str(tmp_path / "own.jinja"))
    assert caught.value.where.endswith("own.jinja:2") and loads == []


def test_a_folder_without_a_chat_template_is_refused(tiny_chat_model, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_chat_model, bare, ignore=shutil.ignore_patterns("chat_template.jinja"))
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    assert "chat_template" not in settings
    with pytest.raises(ModelError, match="chat template"):
        opened(str(bare))


def test_every_setting_belongs_to_some_kind():
    """A new key would else be refused by all."""
    kinds = [settings_of(name) for name in ("m", "reward:m", "implicit:m", "endpoint:m", "program:p")]
    assert set().union(*kinds) == set(JudgeSettings.model_fields) - {"name", "by"}
