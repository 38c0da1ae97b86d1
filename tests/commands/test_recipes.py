"""`selfsteer recipes`: what is shipped, one as text or with all settings, and the schema for editors."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from selfsteer.config import Recipe, load_recipe, shipped_recipes
from selfsteer.config.yaml_lines import read_file

OTHER_KINDS = {"reward"}
"""Shipped files that are not recipes of `selfsteer run`."""


def test_every_shipped_recipe_is_listed_with_what_it_does(command_line, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, said, _ = command_line("recipes", "list")
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in said.splitlines() if len(line.split()) > 1}
    assert code == 0 and set(shipped_recipes()) <= set(lines)
    assert lines["quickstart"].startswith("Align the embedded 135M model towards brevity")


def test_a_recipe_is_shown_as_written_or_with_all_settings(command_line):
    text = shipped_recipes()["quickstart"].read_text(encoding="utf-8")
    assert command_line("recipes", "show", "quickstart")[1].strip() == text.strip()
    code, said, _ = command_line("recipes", "show", "quickstart", "--resolved", "train.lora.r=16")
    assert code == 0
    assert Recipe.model_validate(yaml.safe_load(said)) == load_recipe("quickstart", ["train.lora.r=16"])
    assert command_line("recipes", "show", "quikstart")[0] == 2
    assert "add --resolved" in command_line("recipes", "show", "quickstart", "rounds=2")[2]


def test_the_schema_takes_every_shipped_recipe_and_refuses_what_the_reader_refuses(command_line, tmp_path):
    code, said, _ = command_line("recipes", "schema")
    schema = json.loads(said)
    assert code == 0
    jsonschema.Draft202012Validator.check_schema(schema)
    for name, file in shipped_recipes().items():
        if name not in OTHER_KINDS:
            jsonschema.validate(read_file(file)[0], schema)
    lora = {"train": {"lora": {"q": 1}}}
    for wrong in ({"modle": "x"}, {"train": {"beta": "big"}}, {"rounds": 0}, {"queries": 3}, lora):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    strategy = schema["$defs"]["TrainSettings"]["properties"]["strategy"]
    assert strategy["description"].startswith("single: one process; ddp: each process holds everything")
    assert command_line("recipes", "schema", "--output", tmp_path / "schema.json")[0] == 0
    assert json.loads((tmp_path / "schema.json").read_text(encoding="utf-8")) == schema
