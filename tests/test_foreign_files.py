"""A run directory, a recipe or a model from someone else harms nobody."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import metadata_load

from selfsteer.config import dump_recipe
from selfsteer.errors import ConfigError, StorageError
from selfsteer.loop import generate, run
from selfsteer.policy.card import model_card
from selfsteer.reward.card import reward_card
from selfsteer.workflows.evaluate_signal import evaluate_signal
from tests.run_helpers import scripted_recipe, small_recipe, without_reports


@pytest.fixture(autouse=True)
def no_reports():
    with without_reports():
        yield


@pytest.fixture
def mark(tmp_path) -> Path:
    """A file that code from someone else would write."""
    return tmp_path / "executed"


@pytest.fixture
def evil(tmp_path, mark) -> str:
    """A judge's program that leaves the mark when it is imported."""
    path = tmp_path / "evil.py"
    path.write_text(f"open({str(mark)!r}, 'w').close()\ndef judge(row):\n    return 0\n", encoding="utf-8")
    return f"program:{path}:judge"


def recipe_file(folder: Path, recipe) -> Path:
    path = folder / "theirs.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    return path


def test_a_runs_own_judge_runs_its_program_only_when_the_user_says_so(scripted_run, tmp_path, queries, evil, mark):
    run_dir = shutil.copytree(scripted_run, tmp_path / "run")
    recipe = scripted_recipe(queries, judge={"name": evil})
    (run_dir / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    with pytest.raises(ConfigError, match="--trust-recipe"):
        evaluate_signal(run_dir)
    assert not mark.exists()
    evaluate_signal(run_dir, overrides={"name": "program:shorter"})
    assert not mark.exists()
    evaluate_signal(run_dir, trust_recipe=True)
    assert mark.exists()


@pytest.mark.parametrize(
    "judge",
    [
        {"name": "endpoint:m", "mode": "text", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "HOME"},
        {"name": "endpoint:m", "mode": "text"},
    ],
)
def test_a_runs_own_judge_asks_its_server_only_when_the_user_says_so(judge, scripted_run, tmp_path, queries):
    run_dir = shutil.copytree(scripted_run, tmp_path / "run")
    (run_dir / "recipe.yaml").write_text(dump_recipe(scripted_recipe(queries, judge=judge)), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"judge\.name"):
        evaluate_signal(run_dir)
    if len(judge) > 2:
        with pytest.raises(ConfigError, match=r"judge\.api_key_env"):
            evaluate_signal(run_dir, overrides={"name": "endpoint:m"})


def test_an_estimate_and_a_plan_import_nothing_of_a_recipe(tmp_path, queries, evil, mark, command_line):
    path = recipe_file(tmp_path, scripted_recipe(queries, judge={"name": evil}))
    for arguments in (("estimate", path), ("run", path, "--dry-run"), ("generate", path, "--dry-run")):
        code, _, err = command_line(*arguments, *(["--run-dir", tmp_path / "r"] if arguments[0] != "estimate" else []))
        assert code == 0, err
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(f"recipe: {path}\ngrid: {{seed: [1, 2]}}\n", encoding="utf-8")
    code, _, err = command_line("sweep", sweep, "--dry-run", "--run-dir", tmp_path / "s")
    assert code == 0, err
    assert not mark.exists()


def test_a_finished_run_with_a_program_of_its_own_is_done_in_the_plan(tmp_path, queries, evil, mark, command_line):
    recipe = scripted_recipe(queries, judge={"name": evil})
    run(recipe, tmp_path / "run")
    assert mark.exists()
    mark.unlink()
    code, out, _ = command_line("run", recipe_file(tmp_path, recipe), "--dry-run", "--run-dir", tmp_path / "run")
    assert code == 0 and not mark.exists()
    assert "0 to do" in out and out.count("to do") == 1 and "redo" not in out, out


def test_an_estimate_and_a_plan_run_no_code_of_a_model(tiny_chat_model, tmp_path, queries, mark, command_line):
    model = shutil.copytree(tiny_chat_model, tmp_path / "model")
    code = f"open({str(mark)!r}, 'w').close()\nfrom transformers import LlamaConfig as Config\n"
    (model / "evil.py").write_text(code, encoding="utf-8")
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((model / name).read_text(encoding="utf-8"))
        values["auto_map"] = {"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.Config", None]}
        (model / name).write_text(json.dumps(values | {"model_type": "theirs"}), encoding="utf-8")
    path = recipe_file(tmp_path, small_recipe(model, queries, model__trust_remote_code=True))
    for arguments in (("estimate", path), ("run", path, "--dry-run", "--run-dir", tmp_path / "run")):
        code, _, err = command_line(*arguments)
        assert code in (0, 2) and "Traceback" not in err, err
    assert not mark.exists()


ADDRESSES = ["http://user:PW@host/v1", "http://host/v1?token=PW", "http://host/v1#PW"]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("key", ["generation.endpoint.base_url", "judge.base_url"])
def test_an_address_with_a_secret_is_refused_and_not_repeated(address, key, tmp_path, command_line):
    code, out, err = command_line("run", "recipes/scripted.yaml", f"{key}={address}", "--run-dir", tmp_path / "run")
    assert code == 2 and "a password" in err
    assert "PW" not in out + err and not (tmp_path / "run").exists()


def test_a_key_given_as_a_setting_is_refused_and_not_repeated(tmp_path, command_line):
    code, out, err = command_line("run", "recipes/scripted.yaml", "generation.endpoint.api_key=sk-PW")
    assert code == 2 and "unknown key 'generation.endpoint.api_key'" in err
    assert "PW" not in out + err


def test_a_value_of_a_megabyte_is_not_repeated_whole(tmp_path, command_line):
    code, _, err = command_line("run", "recipes/scripted.yaml", "train.beta=" + "x" * 1_000_000)
    assert code == 2 and len(err) < 2_000


@pytest.mark.parametrize("name", ["ti #2", "a: b", "x\nlicense: mit", "- a", "'q'", "null", "org/name", "a|b`c"])
def test_a_card_reads_back_the_base_model_whatever_its_name(name, tmp_path):
    cards = [
        model_card(base_model=name, data={}, settings={}, figures=[], version="1", annotated=False),
        reward_card(
            base_model=name, title="t", sets=[],
            data={"longer_chosen": 0.5, "examples": 1, "left_out": {}}, settings={},
            training={"first": {"step": 1}, "last": {"step": 2}, "precision": "float32"}, scores={},
        ),
    ]  # fmt: skip
    for card in cards:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
        found = metadata_load(tmp_path / "README.md")
        assert found["base_model"] == name and "license" not in found


@pytest.mark.parametrize("folder", ["round-01", "round-01/responses"])
def test_nothing_is_written_through_a_link_that_leads_out_of_the_run(folder, tmp_path, queries):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "run" / folder).parent.mkdir(parents=True)
    (tmp_path / "run" / folder).symlink_to(outside)
    with pytest.raises(StorageError, match="outside of the run directory"):
        generate(scripted_recipe(queries), tmp_path / "run")
    assert not list(outside.iterdir())
