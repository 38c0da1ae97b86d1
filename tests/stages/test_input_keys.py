"""What acts on a stage and is no recipe key is in its key too: files, templates, phrases, tokenizers, programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from selfsteer.config import JudgeSettings, Recipe, RewardFilterSettings
from selfsteer.judges import make_judge
from selfsteer.principles import prompt_templates as rendering
from selfsteer.quality import HarmClassifier, refusals
from selfsteer.stages.reward_margins import RewardMargins
from tests.conftest import build_model, build_tokenizer
from tests.reward_runs import reward_recipe, write_pairs
from tests.run_helpers import QUERIES, scripted_recipe
from tests.stages.access_log import stage_keys

PRINCIPLES = Path(rendering.__file__).parent


@pytest.fixture
def inputs(tmp_path) -> Path:
    """The files that a scripted run reads."""
    for name, lines in {"queries.txt": QUERIES, "held.txt": ["Held?"], "bench.txt": ["Nothing."]}.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    (tmp_path / "judge.py").write_text("import helper\n\ndef better(pair): return helper.grade(pair)\n")
    (tmp_path / "helper.py").write_text("def grade(pair): return len(pair.first) - len(pair.second)\n")
    shutil.copy(PRINCIPLES / "sets/brief.yaml", tmp_path / "set.yaml")
    return tmp_path


def recipe_of(folder: Path) -> Recipe:
    queries = {
        "source": folder / "queries.txt",
        "heldout": folder / "held.txt",
        "decontaminate": [folder / "bench.txt"],
    }
    values = scripted_recipe(
        folder / "queries.txt", principles={"set": str(folder / "set.yaml")},
        judge={"name": f"program:{folder / 'judge.py'}:better"}, quality={"filters": ["identical", "refusal_mismatch"]},
    ).model_dump()  # fmt: skip
    return Recipe.model_validate(values | {"queries": json.loads(json.dumps(queries, default=str))})


def first_changed(folder: Path, before: dict) -> str:
    """The first stage of a run that has another key now."""
    after = stage_keys(recipe_of(folder), folder / "run")
    return next((slot[0] for slot in before if before[slot].key != after[slot].key), "none")


@pytest.mark.parametrize(
    ("file", "old", "new", "stage"),
    [
        ("queries.txt", "river", "lake", "queries"),
        ("held.txt", "Held", "Kept", "queries"),
        ("bench.txt", "Nothing", "Something", "queries"),
        ("set.yaml", "at most 20 words", "at most 9 words", "principles"),
        ("set.yaml", "description: Short answers.", "description: Brief ones.", "none"),
        ("judge.py", "return helper", "return -helper", "judgements"),
        ("helper.py", "return len", "return -len", "judgements"),
    ],
)
def test_the_content_of_a_file_is_in_the_key_of_the_stage_that_reads_it(inputs, file, old, new, stage):
    before = stage_keys(recipe_of(inputs), inputs / "run")
    text = (inputs / file).read_text()
    assert old in text
    (inputs / file).write_text(text.replace(old, new))
    assert first_changed(inputs, before) == stage


def test_so_is_a_prompt_template_whose_version_was_left_as_it_was(inputs, monkeypatch):
    before = stage_keys(recipe_of(inputs), inputs / "run")
    folder = Path(shutil.copytree(PRINCIPLES / "templates", inputs / "templates"))
    monkeypatch.setattr(rendering._TEMPLATES, "folder", folder)
    assert first_changed(inputs, before) == "none"
    with (folder / "steer.jinja").open("a") as file:
        file.write("{# another #}")
    assert first_changed(inputs, before) == "principles"


def test_so_are_the_phrases_that_refuse_where_a_filter_goes_by_them(inputs, monkeypatch):
    before = stage_keys(recipe_of(inputs), inputs / "run")
    phrases = Path(shutil.copy(refusals._FILE, inputs / "phrases.yaml"))
    phrases.write_text(phrases.read_text() + "# another\n")
    monkeypatch.setattr(refusals, "_FILE", phrases)
    assert first_changed(inputs, before) == "contrasts"


# --- models that are no policy: judges, classifiers, the base of a reward model


@pytest.fixture
def models(tmp_path) -> Path:
    import torch
    from transformers import AutoModelForSequenceClassification

    tokenizer = build_tokenizer()
    for seed, name in enumerate(("model", "reference", "rewarding")):
        model = build_model(tokenizer, seed, num_labels=1)
        if name == "rewarding":
            torch.manual_seed(seed)
            model = AutoModelForSequenceClassification.from_config(model.config)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    write_pairs(tmp_path / "pairs.jsonl", 4)
    return tmp_path


def keys_of(folder: Path) -> dict[str, str]:
    model, rewarding = folder / "model", folder / "rewarding"
    names = {"log-probs": str(model), "text": str(model), "implicit": f"implicit:{model}@{folder / 'reference'}"}
    names["reward judge"] = f"reward:{rewarding}"
    found = {
        kind: make_judge(JudgeSettings(name=name, device="cpu", mode="text" if kind == "text" else "logprobs")).key
        for kind, name in names.items()
    }
    found["harm"] = str(HarmClassifier(str(rewarding), "LABEL_0", 0.5).key)
    found["margins"] = RewardMargins(RewardFilterSettings(model=str(rewarding)), "cpu").key
    trained = stage_keys(reward_recipe(model, folder / "pairs.jsonl"), folder / "run")
    return found | {slot[0].partition(":")[0]: keyed.key for slot, keyed in trained.items()}


def without_a_merge(folder: Path) -> None:
    """Take the last merge out of a tokenizer: the vocabulary stays, the ids of many texts don't."""
    for file in folder.glob("*/tokenizer.json"):
        values = json.loads(file.read_text())
        values["model"]["merges"].pop()
        file.write_text(json.dumps(values))


def with_other_ends(folder: Path) -> None:
    for file in folder.glob("*/config.json"):
        file.with_name("generation_config.json").write_text('{"eos_token_id": [1, 2]}')


def with_another_template(folder: Path) -> None:
    for file in folder.glob("*/chat_template.jinja"):
        file.write_text(file.read_text().replace("You help.", "You judge."))


def with_another_rope(folder: Path) -> None:
    for file in folder.glob("*/config.json"):
        values = json.loads(file.read_text())
        values["rope_parameters"]["rope_theta"] = 5000.0
        file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "unmoved"),
    [
        (without_a_merge, set()),
        (with_another_template, set()),
        (with_other_ends, {"reward-data", "reward"}),
        (with_another_rope, {"reward-data"}),
    ],
)
def test_the_key_of_a_model_that_is_asked_names_its_tokenizer_template_ends_and_configuration(models, change, unmoved):
    before = keys_of(models)
    change(models)
    after = keys_of(models)
    assert {kind for kind in before if before[kind] == after[kind]} == unmoved
