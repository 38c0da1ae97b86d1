"""Recipes: what is accepted, what is refused and where the message points."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from selfsteer.config import (
    Recipe,
    dump_recipe,
    find_recipe,
    judge_settings,
    load_recipe,
    load_sweep,
    read_recipe,
    shipped_recipes,
    template_kwargs,
)
from selfsteer.config.keys import OTHERWISE, SAME_MEANING, keys_of
from selfsteer.errors import ConfigError
from selfsteer.reward.recipe import load_reward_recipe


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes) -> Path:
        file = tmp_path / "recipe.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return write


def refused(file: Path, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, overrides)
    return caught.value


# --- unknown keys


@pytest.mark.parametrize(
    ("text", "key", "line", "close"),
    [
        ("name: a\ntrian: x\n", "trian", 2, "train"),
        ("train:\n  beta: 0.1\n  bta: 0.1\n", "train.bta", 3, "beta"),
        ("train:\n  lora:\n    r: 8\n    alhpa: 16\n", "train.lora.alhpa", 4, "alpha"),
        ("train: {lora: {droput: 0.1}}\n", "train.lora.droput", 1, "dropout"),
        ("queries:\n  sauce: x.jsonl\n", "queries.sauce", 2, "source"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_closest_one(write, text, key, line, close):
    file = write(text)
    error = refused(file)
    assert error.what == f"unknown key {key!r}"
    assert error.where == f"{file}:{line}"
    assert f"Did you mean {close!r}? Available: " in error.do
    assert error.exit_code == 2


def test_an_unknown_key_named_like_a_type_is_named_too(write):
    assert refused(write("train:\n  str: 1\n")).what == "unknown key 'train.str'"


@pytest.mark.parametrize(
    ("load", "file", "command"),
    [
        (load_recipe, "recipes/reward.yaml", "reward"),
        (load_recipe, "recipes/sweeps/scripted.yaml", "sweep"),
        (load_reward_recipe, "recipes/quickstart.yaml", "run"),
        (load_reward_recipe, "recipes/sweeps/scripted.yaml", "sweep"),
        (load_sweep, "recipes/quickstart.yaml", "run"),
        (load_sweep, "recipes/reward.yaml", "reward"),
    ],
)
def test_a_file_of_another_command_says_which_it_is_for(load, file, command):
    with pytest.raises(ConfigError, match="unknown key") as caught:
        load(Path(__file__).parents[1] / file)
    assert f"`selfsteer {command}`" in caught.value.do and f"{Path(file).name}:" in caught.value.where


def test_all_faults_are_named_with_their_lines(write):
    file = write("modle: x\ntrain: {beta: -1}\nrounds: 0\n")
    error = refused(file, "train.lr=1")
    first, *listed = error.what.replace(str(file), "FILE").splitlines()
    assert first == "4 settings are wrong" and error.exit_code == 2
    said = "\n".join(sorted(listed))
    assert "FILE:1: unknown key 'modle'; did you mean 'mode'?" in said
    assert "FILE:2: wrong value for 'train.beta': it must be more than 0, got -1; for example train.beta=" in said
    assert "FILE:3: wrong value for 'rounds': it must be at least 1, got 0" in said
    assert "command line: train.lr=1: unknown key 'train.lr'; did you mean 'train.learning_rate'" in said
    many = refused(write("".join(f"key{n}: 1\n" for n in range(30))))
    assert many.what.startswith("30 settings are wrong") and many.what.endswith("and 20 more")


@pytest.mark.parametrize(
    ("name", "do"),
    [
        ("lr", "Did you mean 'train.learning_rate'?"),
        ("train.lr", "Did you mean 'train.learning_rate'?"),
        ("learning_rate", "Did you mean 'train.learning_rate'?"),
        ("lora_rank", "Did you mean 'train.lora.r'?"),
        ("temperature", "Did you mean 'generation.temperature'?"),
        ("precision", "Did you mean 'principles.model.precision', 'generation.precision', 'train.precision'?"),
        ("deepspeed", "set train.strategy to deepspeed-zero2 or deepspeed-zero3"),
        ("train.max_steps", "a training lasts train.epochs over the rows; limit them with queries.limit"),
    ],
)
def test_a_name_from_elsewhere_is_answered_with_the_key(write, name, do):
    assert refused(write("seed: 1"), f"{name}=1").do == do


def test_names_from_elsewhere_are_no_keys_and_stand_for_keys():
    keys = set(keys_of(Recipe))
    assert {"train.lora.r", "queries.decontaminate.field", "guards.kept.min_ratio"} < keys
    assert set(SAME_MEANING.values()) <= keys and keys.isdisjoint(SAME_MEANING) and keys.isdisjoint(OTHERWISE)


@pytest.mark.parametrize(
    ("override", "what", "do"),
    [
        (
            "train.lora=true",
            "it is a section with keys of its own, got True",
            "set one of its keys, e.g. train.lora.r=",
        ),
        ("queries=[a, b]", "it is a section with keys of its own", "give one text, queries=..., for queries.source;"),
        ("model=", "it is a section with keys of its own, got None", "give one text, model=..., for model.name;"),
        ("quality.filters=identical, leak", "it takes a list", "as a list: quality.filters=[identical, leak]"),
        ("rounds=two", "it takes a whole number, got 'two'", "for example rounds=1"),
        ("train.beta=big", "it takes a number, got 'big'", "for example train.beta="),
        ("train.use_weight=maybe", "it takes true or false, got 'maybe'", "for example train.use_weight=true"),
        ("mode=ofline", "it takes 'online'", "for example mode=online"),
        ("generation.top_p=0", "it must be more than 0, got 0", "for example generation.top_p="),
    ],
)
def test_a_wrong_type_says_what_is_allowed_with_an_example(write, override, what, do):
    error = refused(write("seed: 1"), override)
    assert what in error.what and do in error.do


# --- wrong values


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("rounds: 0", "rounds", 1),
        ("seed: -1", "seed", 1),
        ("name: a/b", "name", 1),
        ("name: .hidden", "name", 1),
        ("mode: ofline", "mode", 1),
        ("train:\n  beta: 0", "train.beta", 2),
        ("train:\n  beta: big", "train.beta", 2),
        ("train:\n  beta: .nan", "train.beta", 2),
        ("train:\n  learning_rate: .inf", "train.learning_rate", 2),
        ("train:\n  onpolicy_alpha: 1.1", "train.onpolicy_alpha", 2),
        ("train:\n  label_smoothing: 0.5", "train.label_smoothing", 2),
        ("train:\n  show_examples: -1", "train.show_examples", 2),
        ("train:\n  lora:\n    bits: 3", "train.lora.bits", 3),
        ("train:\n  weight_scope: both", "train.weight_scope", 2),
        ("train:\n  adam_betas: [0.9, 1.5]", "train.adam_betas.1", 2),
        ("train:\n  epochs: 1.5", "train.epochs", 2),
        ("train:\n  lora: 8", "train.lora", 2),
        ("train:\n  lora:\n    target_modules: 3", "train.lora.target_modules", 3),
        ("generation:\n  temperature: -0.1", "generation.temperature", 2),
        ("generation:\n  top_p: 0", "generation.top_p", 2),
        ("generation:\n  backend: vlm", "generation.backend", 2),
        ("quality:\n  filters: leak", "quality.filters", 2),
        ("quality:\n  filters:\n  - 3", "quality.filters.0", 2),
        ("queries:\n  heldout: -1", "queries.heldout", 2),
        ("queries:\n  limit: 0", "queries.limit", 2),
        ("train: 3", "train", 1),
        ("model: 3", "model", 1),
        ("evaluation:", "evaluation", 1),
        ("guards:\n  action: off", "guards.action", 2),
        ("guards:\n  best: first", "guards.best", 2),
        ("guards:\n  length:\n    max_ratio: 1", "guards.length.max_ratio", 3),
        ("guards:\n  kept:\n    min_ratio: 1.5", "guards.kept.min_ratio", 3),
        ("guards:\n  divergence:\n    max_nats: 0", "guards.divergence.max_nats", 3),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_line(write, text, key, line):
    file = write(text)
    error = refused(file)
    assert error.what.startswith(f"wrong value for {key!r}: ")
    assert error.where == f"{file}:{line}"


def test_a_wrong_value_is_shown(write):
    assert refused(write("train: {beta: big}")).what.endswith("got 'big'")


def test_a_value_of_several_types_is_told_what_each_would_take(write):
    """``heldout`` is a source or a count: "should be a string" alone would mislead who gave a number."""
    what = refused(write("queries: {heldout: -1}")).what
    assert "it takes text; or: it must be at least 0, got -1" in what


def test_micro_batches_must_divide_the_batch(write):
    file = write("train:\n  batch_size: 8\n  micro_batch_size: 3\n")
    error = refused(file)
    assert "micro_batch_size 3 must divide batch_size 8" in error.what
    assert error.where == f"{file}:3"


def test_a_micro_batch_may_be_larger_than_the_batch(write):
    assert load_recipe(write("train: {batch_size: 1, micro_batch_size: 2}")).train.batch_size == 1


def test_the_scripted_backend_can_only_make_data(write):
    error = refused(write("generation: {backend: scripted}"))
    assert "set mode: data-only" in error.what
    assert load_recipe(write("mode: data-only\ngeneration: {backend: scripted}")).mode == "data-only"


def test_data_only_has_one_round(write):
    error = refused(write("mode: data-only\nrounds: 2"))
    assert "set rounds: 1" in error.what and error.where.endswith(":2")


# --- YAML


def test_a_key_given_twice_is_refused_where_the_second_stands(write):
    file = write("train:\n  beta: 0.1\n  epochs: 1\n  beta: 0.2\n")
    error = refused(file)
    assert (error.what, error.where) == ("key 'train.beta' is given twice", f"{file}:4")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\ntrain: [1, 2\nseed: 1\n", 3),
        ("name: a\n\tseed: 1\n", 2),
        ("seed: 1\n---\nseed: 2\n", 2),
        ("name: a\nseed: *nowhere\n", 2),
        ("name: a\nseed: !own 3\n", 2),
        ("name: a\nseed: !!int three\n", 2),
        ("name: 2024-13-45\n", 1),
        ("name: a\nmodel: x\x00y\n", 2),
        ("train: &all [*all]\n", 1),
    ],
)
def test_malformed_yaml_is_told_with_its_line(write, text, line):
    file = write(text)
    error = refused(file)
    assert error.what.startswith("this is not valid YAML: ")
    assert error.where == f"{file}:{line}"


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "3\n"])
def test_a_recipe_is_a_mapping(write, text):
    assert "a mapping of keys to values" in refused(write(text)).what


def test_a_recipe_that_is_not_utf8_is_refused(write):
    file = write("name: café\n".encode("latin-1"))
    error = refused(file)
    assert "not UTF-8" in error.what and error.where == str(file)


def test_an_empty_recipe_is_refused_and_an_empty_mapping_is_the_defaults(write):
    for text in ("", "# nothing\n", "---\n", "null\n"):
        file = write(text)
        error = refused(file, "train.beta=0.3")
        assert (error.what, error.where) == ("the recipe is empty", str(file))
    assert load_recipe(write("{}")) == Recipe()


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(write):
    assert load_recipe(write(b"\xef\xbb\xbfname: a\r\ntrain:\r\n  beta: 0.3\r\n")).train.beta == 0.3


def test_numbers_with_exponents_are_numbers(write):
    recipe = load_recipe(write("train:\n  learning_rate: 1e-5\nquality:\n  filters: [{near_onpolicy: {a: -2E3}}]\n"))
    assert recipe.train.learning_rate == 1e-5
    assert recipe.quality.filters == [{"near_onpolicy": {"a": -2000.0}}]


def test_text_in_quotes_stays_text_though_it_looks_like_a_number(write):
    recipe = load_recipe(write("model: {name: x, revision: '57e8123'}"))
    assert recipe.model.revision == "57e8123"


@pytest.mark.parametrize("key", ["model", "queries", "judge"])
def test_a_section_may_be_given_as_one_string(write, key):
    field = {"model": "name", "queries": "source", "judge": "name"}[key]
    assert load_recipe(write(f"{key}: this")) == load_recipe(write(f"{key}: {{{field}: this}}"))
    assert getattr(getattr(load_recipe(write(f"{key}: this")), key), field) == "this"


# --- overrides


def test_an_override_sets_one_key_and_leaves_the_others(write):
    file = write("train:\n  beta: 0.1\n  epochs: 3\n")
    train = load_recipe(file, ["train.beta=0.5", "train.lora.r=4"]).train
    assert (train.beta, train.epochs, train.lora.r, train.lora.alpha) == (0.5, 3, 4, 32)


def test_the_last_override_of_a_key_wins(write):
    assert load_recipe(write("seed: 1"), ["seed=2", "seed=3"]).seed == 3


def test_an_override_of_a_whole_section_replaces_it(write):
    file = write("model: {name: a, revision: r}\n")
    recipe = load_recipe(file, ["model=./b"])
    assert (recipe.model.name, recipe.model.revision) == ("./b", None)


@pytest.mark.parametrize("overrides", [["queries=b.csv"], {"queries": "b.csv"}])
def test_other_queries_leave_the_recipes_query_settings_but_those_about_the_old_source(write, overrides):
    kept = "heldout: 3\n  min_chars: 3\n  per_round: stream\n  round_size: 2\n"
    gone = "field: text\n  dataset_split: test\n  limit: 5\n"
    file = write(f"queries:\n  source: a.jsonl\n  {gone}  {kept}")
    found = read_recipe(file, overrides).queries
    assert found == load_recipe(write(f"queries:\n  source: b.csv\n  {kept}")).queries
    assert load_recipe(write("queries: a.jsonl"), ["queries=b.csv"]).queries.source == "b.csv"


def test_held_out_queries_of_a_source_of_their_own_go_with_the_old_source(write):
    file = write("queries:\n  source: a.jsonl\n  heldout: h.jsonl\n  heldout_limit: 4\n  min_chars: 3\n")
    assert (
        load_recipe(file, ["queries=b.csv"]).queries
        == load_recipe(write("queries: {source: b.csv, min_chars: 3}")).queries
    )


def test_an_override_may_go_into_a_section_that_was_given_as_a_string(write):
    recipe = load_recipe(write("model: a\nqueries: b.csv\n"), ["model.revision=r", "queries.limit=3"])
    assert (recipe.model.name, recipe.model.revision, recipe.queries.limit) == ("a", "r", 3)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.learning_rate=1e-5", "train", "learning_rate", 1e-5),
        ("train.adam_betas=[0.8, 9e-1]", "train", "adam_betas", (0.8, 0.9)),
        (
            "quality.filters=[identical, {leak: {ngram: 6}}]",
            "quality",
            "filters",
            ["identical", {"leak": {"ngram": 6}}],
        ),
        ("quality.filters=[]", "quality", "filters", []),
        ("train.lora=null", "train", "lora", None),
        ("train.lora={r: 2}", "train", "lora", {"r": 2}),
        ("train.use_weight=false", "train", "use_weight", False),
        ("queries.heldout=0", "queries", "heldout", 0),
        ("queries.heldout=other.jsonl", "queries", "heldout", "other.jsonl"),
        ("queries.source=hub:a=b", "queries", "source", "hub:a=b"),
        ("model.revision='1e5'", "model", "revision", "1e5"),
    ],
)
def test_override_values_are_read_as_yaml(write, override, section, key, value):
    recipe = load_recipe(write("train: {lora: {r: 8}}"), [override])
    expected = Recipe.model_validate({section: {key: value}})
    assert getattr(getattr(recipe, section), key) == getattr(getattr(expected, section), key)


@pytest.mark.parametrize("override", ["train.beta", "=1", ".beta=1", "train..beta=1", "train.=1", ""])
def test_an_override_has_the_form_key_value(write, override):
    error = refused(write("{}"), override)
    assert "key=value" in error.what and error.where == f"command line: {override}"


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("trian.beta=1", "unknown key 'trian'"),
        ("train.bta=1", "unknown key 'train.bta'"),
        ("train.beta=-1", "wrong value for 'train.beta'"),
        ("train={beta: -1}", "wrong value for 'train.beta'"),
        ("train={beta: 1, beta: 2}", "key 'train.beta' is given twice"),
        ("train.adam_betas.0=1", "wrong value for 'train.adam_betas'"),
        ("model=", "wrong value for 'model'"),
        ("model.name.x=1", "wrong value for 'model.name'"),
        ("model=[a", "this is not valid YAML"),
        ("train.micro_batch_size=3", "wrong value for 'train.micro_batch_size'"),
        ("train.batch_size=7", "wrong value for 'train.batch_size'"),
        ("generation.backend=scripted", "wrong value for 'generation.backend'"),
        ("mode=data-only", "wrong value for 'mode'"),
    ],
)
def test_an_error_of_an_override_points_at_the_command_line_and_not_at_the_file(write, override, what):
    file = write("model: {name: x}\nrounds: 2\ntrain:\n  beta: 0.3\n  batch_size: 8\n  micro_batch_size: 2\n")
    error = refused(file, override)
    assert error.what.startswith(what)
    assert error.where == f"command line: {override}"


# --- variables of chat templates


@pytest.mark.parametrize("key", ["model", "principles.model", "judge"])
def test_variables_of_a_chat_template_are_set_one_by_one_or_together(write, key):
    file = write("model: some/model\njudge: some/judge\nprinciples:\n  model: some/writer\n")
    overrides = [f"{key}.chat_template_kwargs.enable_thinking=false", f"{key}.chat_template_kwargs.date_string='1 May'"]
    values: dict = load_recipe(file, overrides).model_dump()
    for part in key.split("."):
        values = values[part]
    assert values["chat_template_kwargs"] == {"enable_thinking": False, "date_string": "1 May"}
    together = load_recipe(file, [f"{key}.chat_template_kwargs={{enable_thinking: false, date_string: 1 May}}"])
    assert together == load_recipe(file, overrides) and read_recipe(together) == together


@pytest.mark.parametrize(
    ("override", "what"),
    [
        *((f"model.chat_template_kwargs.{name}=1", f"'{name}' can't be set") for name in (
            "tools", "messages", "add_generation_prompt", "tokenize", "chat_template", "eos_token", "return_dict"
        )),
        ("model.chat_template_kwargs.date=2024-07-26", "the value of 'date' can't be sent as JSON"),
        ("model.chat_template_kwargs.x=.nan", "the value of 'x' can't be sent as JSON"),
        ("model.chat_template_kwargs={a b: 1}", "'a b' can't be the name of a template's variable"),
        ("model.chat_template_kwargs=enable_thinking", "it takes a mapping of names to values"),
        ("judge.chat_template_kwargs.tools=1", "'tools' can't be set"),
        ("principles.model.chat_template_kwargs.x=1", "chat_template_kwargs needs principles.model"),
    ],
)  # fmt: skip
def test_what_is_no_variable_of_a_chat_template_is_refused(write, override, what):
    error = refused(write("judge: x"), override)
    assert what in error.what and error.where == f"command line: {override}"


def test_variables_of_the_command_line_are_read_as_overrides_are():
    assert template_kwargs(["enable_thinking=false", "effort=low"]) == {"enable_thinking": False, "effort": "low"}
    with pytest.raises(ConfigError, match="'tools' can't be set") as caught:
        template_kwargs(["tools=1"])
    assert caught.value.where == "--chat-template-kwargs"
    with pytest.raises(ConfigError, match="key=value"):
        template_kwargs(["enable_thinking"])


# --- how each role is sampled


def test_a_role_is_sampled_as_its_own_settings_say_and_else_as_all_are(write):
    recipe = load_recipe(write("generation: {temperature: 0.5}"), ["generation.roles.original.temperature=0"])
    generation = recipe.generation
    assert [generation.drawing(role) for role in ("positive", "original")] == [(0.5, 0.8), (0.0, 0.8)]
    assert generation.own_drawings == {"original": (0.0, 0.8)}
    assert load_recipe(write(dump_recipe(recipe))) == recipe
    same = load_recipe(write("{}"), ["generation.roles.negative={temperature: 0.7, top_p: 0.8}"]).generation
    assert same.own_drawings == {} and same.sampling == "temperature 0.7, top_p 0.8, 2048 tokens"
    other = load_recipe(write("{}"), ["generation.roles.negative.top_p=1"]).generation
    assert other.sampling == "temperature 0.7, top_p 0.8, 2048 tokens; negative: temperature 0.7, top_p 1.0"


@pytest.mark.parametrize(
    ("settings", "what", "key"),
    [
        ("roles: {original: {temperature: 0, top_p: 0.9}}", "top_p has no effect", "roles"),
        ("{temperature: 0, roles: {negative: {top_p: 0.9}}}", "top_p has no effect", "roles"),
        ("roles: {original: {temperature: -1}}", "wrong value for 'generation.roles.original.temperature'", "roles"),
        ("roles: {plain: {temperature: 0}}", "unknown key 'generation.roles.plain'", "roles"),
        ("roles: {original: {max_new_tokens: 9}}", "unknown key 'generation.roles.original.max_new_tokens'", "roles"),
    ],
)
def test_what_does_not_act_in_a_role_is_an_error(write, settings, what, key):
    file = write(f"generation:\n  {settings}\n")
    error = refused(file)
    assert what in str(error) and error.where == f"{file}:2"


@pytest.mark.parametrize(
    "override",
    [
        "generation.temperature=2.5",
        "generation.roles.original.temperature=0.001",
        "generation.roles.positive.temperature=3",
        "principles.choice_temperature=2.5",
    ],
)
def test_a_temperature_that_vllm_does_not_sample_at_is_refused_before_anything_is_done(write, override):
    error = refused(write("generation: {backend: vllm}"), override)
    assert "vLLM can't sample at temperature" in error.what and error.where == f"command line: {override}"
    assert load_recipe(write("{}"), [override]), "other backends do"
    if override.startswith("principles"):
        load_recipe(write("generation: {backend: vllm}"), [override, "principles.model=endpoint:m"])


# --- who writes the principles


@pytest.mark.parametrize(
    ("name", "kind", "model"),
    [
        ("smollm2-135m", "local", "smollm2-135m"),
        ("endpoint:org/model:free", "endpoint", "org/model:free"),
        ("scripted", "scripted", "scripted"),
        ("./scripted", "local", "./scripted"),
    ],
)
def test_a_writer_may_be_named_in_one_word(write, name, kind, model):
    file, override = write(f"principles:\n  model: {name}\n"), f"principles.model={name}"
    for recipe in (load_recipe(file), load_recipe(write("{}"), [override])):
        assert (recipe.principles.model.kind, recipe.principles.model.model) == (kind, model)
        assert load_recipe(write(dump_recipe(recipe))) == recipe
    assert load_recipe(write("{}")).principles.model.kind == "policy"


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ("{name: 'endpoint:'}", "needs the model's name"),
        ("{base_url: http://x/v1}", "base_url needs principles.model"),
        ("{device: cpu}", "device needs principles.model"),
        ("{name: m, base_url: http://x/v1, max_total_tokens: 5}", "'m' does not use base_url, max_total_tokens"),
        ("{name: 'endpoint:m', device: cpu, precision: float32}", "'endpoint:m' does not use device, precision"),
        ("{name: scripted, revision: main}", "'scripted' does not use revision"),
        ("{name: 'endpoint:m', max_cost: 2}", "price_prompt"),
    ],
)
def test_what_a_writer_does_not_go_by_is_an_error(write, settings, what):
    file = write(f"principles:\n  model: {settings}\n")
    error = refused(file)
    assert what in error.what and error.where == f"{file}:2"


# --- the judge


@pytest.mark.parametrize("name", ["smollm2-135m", "program:my.py:better", "endpoint:gpt-4o", "reward:org/model"])
def test_a_judge_may_be_named_in_one_word(write, name):
    for recipe in (load_recipe(write(f"judge: {name}")), load_recipe(write("{}"), [f"judge={name}"])):
        assert (recipe.judge.name, recipe.judge.mode, recipe.judge.by) == (name, "logprobs", "overall")
        assert load_recipe(write(dump_recipe(recipe))) == recipe


def test_a_judge_may_be_described(write):
    file = write("judge:\n  name: a\n  mode: text\n")
    judge = load_recipe(file, ["judge.by=aspects", "judge.template=own.jinja"]).judge
    assert (judge.name, judge.mode, judge.by, judge.template) == ("a", "text", "aspects", "own.jinja")
    assert load_recipe(write("{}")).judge.name is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("judge:\n  mode: words", "wrong value for 'judge.mode'"),
        ("judge:\n  by: length", "wrong value for 'judge.by'"),
        ("judge:\n  precision: float16", "wrong value for 'judge.precision'"),
        ("judge:\n  modell: a", "unknown key 'judge.modell'"),
    ],
)
def test_a_wrong_judge_is_told_with_its_line(write, text, what):
    file = write(text)
    error = refused(file)
    assert error.what.startswith(what) and error.where == f"{file}:2"


def test_a_judge_of_the_command_line_is_told_by_its_option():
    settings = judge_settings({"mode": "text", "base_url": None})
    assert (settings.mode, settings.name) == ("text", None)
    with pytest.raises(ConfigError, match="'logprobs' or 'text', got 'words'") as caught:
        judge_settings({"mode": "words"})
    assert caught.value.where == "--mode" and caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="got 3") as caught:
        judge_settings({"base_url": 3})
    assert caught.value.where == "--base-url"


# --- writing and finding recipes


def test_what_is_dumped_loads_as_the_same_recipe(write):
    recipe = Recipe.model_validate(
        {
            "name": "a.b-c_1",
            "model": {"name": "modèle 模型", "revision": "57e8123"},
            "queries": {"source": "# not a comment: no", "heldout": 3, "field": "null"},
            "quality": {"filters": ["leak", {"direction": {"program": "1e5", "min_ratio": 1e-7}}]},
            "train": {"learning_rate": 5e-7, "adam_betas": [0.9, 0.999], "lora": {"target_modules": ["q", "v"]}},
        }
    )
    assert load_recipe(write(dump_recipe(recipe))) == recipe
    assert load_recipe(write(dump_recipe(Recipe()))) == Recipe()


@pytest.mark.parametrize("name", sorted(shipped_recipes().keys() - {"reward"}))  # tests/reward/test_recipe.py has that
def test_a_shipped_recipe_loads_and_its_header_holds_the_command_that_runs_it(name):
    file = shipped_recipes()[name]
    recipe = load_recipe(file)
    assert recipe.name == name
    header = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    (command,) = [shlex.split(line) for line in header if re.match("selfsteer (run|generate) ", line)]
    assert load_recipe(command[2], command[3:]) == recipe


@pytest.mark.parametrize("name", ["sso-v1", "pbaa-v1", "sso-v2", "generator"])
def test_the_ablations_in_a_header_load(name):
    """Settings between blanks of three or more stand for one ablation; of ``a | b`` each is one."""
    header = [line for line in shipped_recipes()[name].read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    settings = [part.strip(" .,()") for line in header for part in re.split(r"\s{3,}|, |: |\(", line[1:])]
    found = [part.split() for part in settings if re.fullmatch(r"([\w.]+=\S+ ?)+( \| \w+)*", part)]
    assert len(found) >= 2
    for overrides in found:
        first, *others = [word for word in overrides if "=" in word]
        values = [first] + [
            f"{first.partition('=')[0]}={word}" for word in overrides if "=" not in word and word != "|"
        ]
        for value in values:
            assert load_recipe(name, [value, *others]) != load_recipe(name), value


@pytest.mark.parametrize("name", ["sso-v1", "pbaa-v1"])
def test_v1s_recipes_draw_as_its_code_does_and_keep_its_filters(name):
    recipe = load_recipe(name)
    principles = recipe.principles
    assert (principles.choice, principles.choice_temperature, principles.per_round) == ("shuffled", 0.7, "redrawn")
    assert (principles.aspects_per_query, principles.extra_rate, principles.strategy) == (2, 0.2, "fixed")
    assert recipe.quality.filters == ["identical", "leak", "preference_order", "near_onpolicy", "steering_gap"]
    assert recipe.generation.own_drawings == {}
    assert load_recipe(name, ["rounds=1"]).rounds == 1


def test_v2s_recipe_does_what_its_code_does():
    recipe = load_recipe("sso-v2")
    assert recipe.generation.own_drawings == {"original": (0.0, 0.8)}
    assert (recipe.principles.strategy, recipe.principles.steering) == ("guideline", "relative")
    assert recipe.principles.model.kind == "local" and recipe.principles.model.name != recipe.model.name
    assert recipe.train.warmup_ratio == 0.04
    assert recipe.quality.filters == ["identical", "leak"]


def test_the_recipes_that_the_readme_builds_on_are_shipped():
    assert {"quickstart", "scripted"} <= set(shipped_recipes())


@pytest.mark.parametrize("path", ["quickstart", "quickstart.yaml", "recipes/quickstart.yaml", "recipes/quickstart"])
def test_a_shipped_recipe_is_found_by_name_from_anywhere(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(path) == shipped_recipes()["quickstart"]


def test_a_file_of_ones_own_comes_before_a_shipped_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quickstart.yaml").write_text("seed: 5")
    assert load_recipe("quickstart.yaml").seed == 5


@pytest.mark.parametrize("path", ["quikstart", "recipes/quikstart.yaml", "elsewhere/quickstart.yaml", ""])
def test_a_recipe_that_is_not_there_gets_a_suggestion(path):
    with pytest.raises(ConfigError, match="no such recipe") as caught:
        find_recipe(path)
    assert caught.value.where == path and "quickstart" in caught.value.do


def test_a_recipe_is_never_changed_after_it_was_read():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().train.beta = 3


# --- no torch


LIGHT = "config cli records loop principles queries quality report evaluation backends contrast backends.scripted"


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_needs_no_model_imports_no_torch():
    imports = "\n".join(f"import selfsteer.{name}" for name in LIGHT.split())
    heavy = "[name for name in ('torch', 'transformers', 'datasets', 'peft') if name in sys.modules]"
    assert python(f"import sys\n{imports}\nprint({heavy})") == "[]\n"


def test_help_imports_no_torch():
    code = """
import sys
sys.argv = ["selfsteer", "--help"]
from selfsteer.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
print("torch" in sys.modules)
"""
    lines = python(code).splitlines()
    assert any("run" in line for line in lines) and lines[-1] == "False"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("generation: {backend: vllm}\ntrain: {lora: {bits: 4}}", "whole weights"),
        ("generation: {backend: vllm}\nmodel: {device: 'cuda:1'}", "CUDA_VISIBLE_DEVICES"),
        ("mode: data-only\ngeneration: {backend: scripted}\nmodel: {chat_template_kwargs: {x: 1}}", "no chat template"),
        ("generation: {backend: endpoint}\nmode: data-only", "set endpoint.model"),
        ("generation: {backend: endpoint, endpoint: {model: m}}", "no weights to train"),
        ("generation: {endpoint: {concurrency: 3}}", "about the backend endpoint"),
        ("generation: {vllm: {max_model_len: 512}}", "about the backend vllm"),
        ("mode: data-only\ngeneration: {backend: endpoint, endpoint: {model: m, max_cost: 2}}", "price_prompt"),
        ("generation: {backend: vllm}\nprinciples: {model: {name: m, device: 'cuda:1'}}", "principles.model.device"),
    ],
)
def test_settings_of_a_backend_that_do_not_go_together(write, values, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe(write(values))


# --- modes, rounds, baselines


GUIDED = "mode: generator\nprinciples: {strategy: guideline}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mode: offline\nrounds: 2", "offline data are made once"),
        ("generation: {model: a/b}", "in mode offline only"),
        ("mode: offline\ngeneration: {model: a/b, backend: scripted}", "no effect with the backend scripted"),
        ("mode: generator\ngeneration: {backend: scripted}", "no weights to train"),
        ("generator: {keep: true}", "about mode generator, and mode is online"),
        ("mode: generator\ntrain: {objective: sso}", "base view"),
        ("mode: generator\ntrain: {micro_batch_size: 3, batch_size: 3}", "must divide the generator's batch_size"),
        ("mode: generator\ngenerator: {allow_harmful_targets: true}", "needs y- as a target"),
        (f"{GUIDED}generator: {{negative: negative}}", "nobody knows whether a written guideline asks for harm"),
        ("preferences: a.jsonl", "in mode offline, not in online"),
        ("mode: offline\npreferences: a.jsonl", "no principles to steer by"),
        ("mode: offline\npreferences: {limit: 3}", "set preferences.source"),
        ("mode: offline\npreferences: a.jsonl\ntrain: {objective: base}\ngeneration: {model: b}", "nobody writes"),
        ("mode: offline\npreferences: a\ntrain: {objective: base}\nqueries: {per_round: split}", "no queries are"),
        ("queries: {per_round: stream}", "round_size goes with per_round: stream"),
        ("queries: {round_size: 3}", "round_size goes with per_round: stream"),
        ("train: {reference: first}", "from the second round on"),
        ("train: {older_rounds: 1}", "from the second round on"),
        ("rounds: 2\ntrain: {older_rounds: 2}", "of 2 rounds none has 2 before it"),
        ("rounds: 2\ntrain: {ema_decay: 0.9}", "goes with train.reference: ema"),
        ("rounds: 2\ntrain: {reference: first, objective: sft}", "no reference"),
        ("rounds: 2\ntrain: {reference: ema, lora: {r: 2}}", "average of adapters"),
    ],
)
def test_what_does_not_go_together_is_one_message(write, text, words):
    error = refused(write(text))
    assert words in error.what and error.exit_code == 2 and "settings are wrong" not in error.what


@pytest.mark.parametrize(
    "rest",
    [
        "generator: {negative: negative, allow_harmful_targets: true}",
        "generator: {negative: negative}\nquality: {harm: {classifier: a/b, label: toxic}}",
        "generator: {negative: negative, terms: [positive]}",
        "generator: {negative: original}",
    ],
)
def test_guidelines_go_with_formula_3_where_harm_is_known_or_allowed(write, rest):
    assert load_recipe(write(f"{GUIDED}{rest}")).principles.strategy == "guideline"


def test_the_generators_batches_matter_in_its_mode_only(write):
    assert load_recipe(write("train: {micro_batch_size: 3, batch_size: 3}")).train.batch_size == 3


def test_mode_generator_has_the_policys_settings_of_v2_where_the_recipe_says_nothing_else(write):
    recipe = load_recipe(write("mode: generator\ntrain: {beta: 0.3}"))
    train = recipe.train
    assert (train.objective, train.base_loss, train.beta, train.batch_size) == ("base", "dpo", 0.3, 256)
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    sft = load_recipe(write("mode: generator\ntrain: {objective: sft}")).train
    assert (sft.objective, sft.base_loss, sft.beta) == ("sft", "ipo", 0.2), "what does not act stays at its default"


@pytest.mark.parametrize("overrides", [["train.beta=0.5", "queries=a.txt"], {"train.beta": 0.5, "queries": "a.txt"}])
def test_a_recipe_is_read_in_any_form(write, overrides):
    file = write("model: b\nrounds: 2\n")
    found = [read_recipe(form, overrides) for form in (file, {"model": "b", "rounds": 2}, load_recipe(file))]
    assert found[0] == found[1] == found[2]
    assert found[0].queries.source == "a.txt" and found[0].train.beta == 0.5 and found[0].model.name == "b"


def test_a_wrong_override_of_values_is_named(write):
    with pytest.raises(ConfigError, match=r"unknown key 'train\.bta'") as caught:
        read_recipe({"rounds": 1}, {"train.bta": 1})
    assert caught.value.where == "override 'train.bta'"


@pytest.mark.parametrize(
    ("text", "itself"),
    [
        ("mode: generator", True),
        ("mode: offline", True),
        ("mode: offline\ngeneration: {model: b}", False),
        ("mode: offline\ngeneration: {backend: scripted}", False),
        ("mode: offline\npreferences: a\ntrain: {objective: base}", False),
        ("mode: data-only\ngeneration: {backend: scripted}", True),
    ],
)
def test_whose_held_out_pairs_tell_whether_the_data_follow_the_principles(write, text, itself):
    assert load_recipe(write(text)).writes_itself is itself


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, True),
    ({"train": {"base_loss": "dpo"}}, False),
    ({"train": {"base_loss": "hinge"}}, False),
    ({"train": {"base_loss": "ln_dpo"}}, True),
    ({"train": {"objective": "sft", "base_loss": "dpo"}}, True),
    ({"mode": "generator"}, False),  # dpo by default
    ({"train": {"base_loss": "dpo"}, "evaluation": {"per_token": True}}, True),
    ({"evaluation": {"per_token": False}}, False),
])  # fmt: skip
def test_implicit_rewards_follow_the_loss_unless_the_recipe_says_otherwise(changes, expected):
    assert Recipe.model_validate(changes).implicit_per_token is expected


def test_the_losses_that_compare_sums_are_those_whose_reward_grows_with_the_length():
    """Twice as many tokens with the same log-prob each: a sum doubles, a mean stays."""
    import torch

    from selfsteer.config import per_token
    from selfsteer.logprobs import PairLogps
    from selfsteer.losses.base import BASE_LOSSES, pair_loss

    def reward(name, tokens):
        bundle, other = (PairLogps(*(torch.tensor([mean * tokens]) for mean in means), *[torch.tensor([tokens])] * 2)
                         for means in ((-1.0, -2.0), (-1.5, -1.5)))  # fmt: skip
        return pair_loss(name, bundle, other, beta=0.1, label_smoothing=0.0, margin=0.0).chosen_reward

    for name in BASE_LOSSES:
        assert per_token("base", name) == torch.allclose(reward(name, 4), reward(name, 8)), name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(12)
        ), "with its aliases written out"),
        ("name: " + "[" * 5000, "nested too deep"),
        ("name: !!bool foo", "'foo' is no bool"),
        ("name: !!int ''", "'' is no int"),
        ("name: !!timestamp foo", "'foo' is no timestamp"),
        ("name: 1:59:59.x:9", "."),
        ("#" + "x" * 200_001, "at most 200,000 are read"),
        ("a: [" + "x, " * 10_001 + "]", "at most 10,000 are read"),
    ],
)  # fmt: skip
def test_yaml_that_would_not_end_or_not_load_is_one_message(text, words, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        load_recipe(path)
    assert len(str(caught.value)) < 2000
