"""The recipe of `selfsteer reward`: one typed tree, every wrong key or value with its place."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from selfsteer.config import dump_recipe, load_recipe, shipped_recipes
from selfsteer.errors import ConfigError
from selfsteer.reward.recipe import Trained, load_reward_recipe

PLAIN = "sets: {a: x.json, b: {source: runs/r, weight: 0.5, rounds: [1, 2]}}\n"


@pytest.fixture
def write(tmp_path):
    def into(text: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return into


def test_short_forms_overrides_and_the_way_back(write):
    recipe = load_reward_recipe(write(PLAIN + "model: ./m\n"), ["sets.a.source=y.json", "options.learning_rate=1e-4"])
    assert recipe.model.name == "./m" and recipe.sets["a"].source == "y.json" and recipe.sets["b"].rounds == [1, 2]
    assert recipe.options.learning_rate == 1e-4
    assert load_reward_recipe(write(dump_recipe(recipe))) == recipe


def test_variants_and_seeds_give_the_trainings_in_their_order(write):
    recipe = load_reward_recipe(write(PLAIN + "variants: {z: [a], both: [a, b]}\nseeds: [0, 2]\n"))
    assert recipe.trainings == [Trained("z", 0), Trained("z", 2), Trained("both", 0), Trained("both", 2)]
    assert str(recipe.trainings[1]) == "z-seed-2"
    assert load_reward_recipe(write(PLAIN)).of_variant == {"all": ["a", "b"]}


@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("set: {}\n", "unknown key 'set'", "recipe.yaml:2"),
        ("options: {learning_rat: 1}\n", "unknown key 'options.learning_rat'", "recipe.yaml:2"),
        ("options: {lora: {rank: 1}}\n", "unknown key 'options.lora.rank'", "recipe.yaml:2"),
        ("options: {lora: {bits: 4}}\n", "can't be merged into them exactly", "recipe.yaml:2"),
        ("options: {margin_scale: 2}\n", "margin_scale needs margin: steering", "recipe.yaml:2"),
        ("options: {batch_size: 6, micro_batch_size: 4}\n", "must divide batch_size", "recipe.yaml:2"),
        ("variants: {v: [a, bb]}\n", "no set is called 'bb'. Did you mean 'b'?", "recipe.yaml:2"),
        ("variants: {v: [a, a]}\n", "'a' is listed 2 times", "recipe.yaml:2"),
        ("variants: {v: [a]}\n", "no variant uses the set 'b'", "recipe.yaml:2"),
        ("seeds: [1, 1]\n", "has a duplicate", "recipe.yaml:2"),
        ("evaluate_limit: 3\n", "evaluate names none", "recipe.yaml:2"),
        ("evaluate: [x, x]\n", "names a file twice", "recipe.yaml:2"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(write, text, message, where):
    with pytest.raises(ConfigError) as caught:
        load_reward_recipe(write(PLAIN + text))
    assert message in caught.value.what and caught.value.where.endswith(where)


def test_an_unknown_key_of_a_named_set_gets_a_suggestion(write):
    with pytest.raises(ConfigError, match=r"unknown key 'sets.a.sourc'") as caught:
        load_reward_recipe(write("sets: {a: {sourc: x, source: y}}\n"))
    keys = "dataset_split, finished, licence, limit, max_left_out, rounds, source, weight"
    assert caught.value.do == f"Did you mean 'source'? Available: {keys}"


def test_the_shipped_recipe_loads_with_the_command_of_its_header():
    file = shipped_recipes()["reward"]
    lines = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    (command,) = [shlex.split(line) for line in lines if line.startswith("selfsteer reward ")]
    runs = [shlex.split(line) for line in lines if line.startswith("selfsteer run ")]
    assert [load_recipe(run[2], [word for word in run[3:] if "=" in word]).train.objective for run in runs] == [
        "sso", "base"
    ]  # fmt: skip
    recipe = load_reward_recipe(command[2], [word for word in command[3:] if "=" in word])
    assert recipe.of_variant == {
        "annotated": ["annotated"],
        "annotated-pbaa": ["annotated", "pbaa"],
        "annotated-sso": ["annotated", "sso"],
    }
    assert recipe.seeds == [0, 1, 2] and recipe.name == "reward"
    assert "shared" not in dump_recipe(load_reward_recipe(file))


def test_reading_a_recipe_needs_no_torch():
    code = "import sys; from selfsteer.reward.recipe import load_reward_recipe; import selfsteer.cli; " \
           "load_reward_recipe('reward'); sys.exit('torch' in sys.modules)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
