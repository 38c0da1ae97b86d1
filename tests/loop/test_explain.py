"""Why a stage is redone, in words of the recipe."""

from __future__ import annotations

import pytest

from selfsteer.loop.explain import reasons

_ENGINE = ["transformers", "w1", "float32", 16]


@pytest.mark.parametrize(
    ("stage", "before", "now", "said"),
    [
        ("policy", {"settings": {"beta": 0.2}}, {"settings": {"beta": 0.1}}, ["train.beta 0.2 -> 0.1"]),
        ("queries", {"settings": {"limit": 8}}, {"settings": {"limit": None}}, ["queries.limit 8 -> null"]),
        ("principles", {"settings": {"set": "a"}}, {"settings": {"set": "b"}}, ["principles.set a -> b"]),
        ("policy", {"settings": {"lora": None}}, {"settings": {"lora": {"r": 4}}}, ['train.lora null -> {"r": 4}']),
        ("responses", {"sampling": [1, 0.8, 64]}, {"sampling": [1, 0.8, 96]}, ["generation.max_new_tokens 64 -> 96"]),
        ("responses", {"engine": _ENGINE}, {"engine": [*_ENGINE[:3], 8]}, ["generation.batch_size 16 -> 8"]),
        ("responses", {"engine": _ENGINE}, {"engine": [*_ENGINE, {"max_model_len": 9}]},
         ['generation.vllm null -> {"max_model_len": 9}']),
        ("scores", {"responses": "k1"}, {"responses": "k2"}, ["the responses changed"]),
        ("policy", {"contrasts": ["k1", "k2"]}, {"contrasts": ["k1", "k3"]}, ["the filtered rows changed"]),
        ("policy", {"contrasts": ["k1"]}, {"contrasts": ["k1", "k3"]}, ["the filtered rows changed"]),
        ("reference", {"rows": [["k1", "w1"]]}, {"rows": [["k2", "w1"]]}, ["the rows changed"]),
        ("judgements", {"rows": "k1"}, {"rows": "k2"}, ["the rows changed"]),
        ("queries", {"content": ["c1"]}, {"content": ["c2"]}, ["the content of the queries changed"]),
        ("reward-data:all-seed-0", {"sets": {"a": {"content": ["c1"]}}}, {"sets": {"a": {"content": ["c2"]}}},
         ["the content of sets.a changed"]),
        ("contrasts", {"filters": ["leak"]}, {"filters": ["identical"]}, ['quality.filters ["leak"] -> ["identical"]']),
        ("contrasts", {"set": "s1"}, {"set": "s2"}, ["the text of the principle set has changed"]),
        ("principles", {"templates": {"steer": 1}}, {"templates": {"steer": 2}}, ["prompt template steer 1 -> 2"]),
        ("principles", {"room": 64}, {"room": 96}, ["generation.max_new_tokens (a writer that thinks) 64 -> 96"]),
        ("contrasts", {"files": {"leak": "a"}}, {"files": {"leak": "b"}}, ["the file of filter leak a -> b"]),
        ("scores", {"version": 2}, {"version": 3}, ["selfsteer's code of this stage 2 -> 3"]),
        ("policy", {"seed": 0}, {"seed": 1}, ["seed 0 -> 1"]),
        ("policy", {"scorer": ["w1", "float32", 9]}, {"scorer": ["w2", "float32", 9]},
         ["the model (weights, tokenizer, chat template, end tokens) w1 -> w2"]),
    ],
)  # fmt: skip
def test_a_changed_dependency_is_named_with_both_values(stage, before, now, said):
    assert reasons(stage, before, now) == said


def test_settings_are_told_before_the_inputs_they_have_changed():
    before = {"contrasts": ["k1"], "settings": {"beta": 0.2, "epochs": 1}, "seed": 0}
    now = {"contrasts": ["k2"], "settings": {"beta": 0.1, "epochs": 1}, "seed": 0}
    assert reasons("policy", before, now) == ["train.beta 0.2 -> 0.1", "the filtered rows changed"]


def test_what_nobody_noted_is_not_guessed():
    (said,) = reasons("policy", None, {"seed": 0})
    assert said.startswith("reason unknown: the ledger is of a version that did not note")


def test_a_key_that_changed_without_a_difference_is_not_explained_away():
    assert reasons("policy", {"seed": 0}, {"seed": 0}) == ["reason unknown: it has another key"]


def test_a_long_value_is_shortened():
    (said,) = reasons("contrasts", {"filters": ["leak"] * 40}, {"filters": []})
    assert len(said) < 100 and said.endswith("... -> []")
