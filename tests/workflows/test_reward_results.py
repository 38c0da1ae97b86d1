"""The table of reward models: accuracies by hand, over pairs and over seeds."""

from __future__ import annotations

from typing import Any

import pytest

from selfsteer.judges import Answer, Judgement, Pair
from selfsteer.workflows.reward_results import accuracy, as_markdown, summary
from tests.chat_templates import user


def judged(label: int | None, difference: float | None, subset: str = "s") -> Judgement:
    """A pair whose first answer got so much more reward than its second; None: it could not be scored."""
    pair = Pair("p", user("Hi"), "a", "b", label, subset)
    if difference is None:
        return Judgement(pair, *[Answer(0, valid=False)] * 2)
    vote = (difference > 0) - (difference < 0)
    return Judgement(pair, Answer(vote, difference), Answer(-vote, -difference))


def test_accuracy_counts_every_pair_with_a_winner():
    judgements = [
        judged(1, 0.5), judged(-1, -2.0), judged(1, -0.1), judged(-1, 0.0), judged(1, None), judged(0, 1.0),
        judged(None, 1.0), judged(-1, -1.0, "t"), judged(None, 1.0, "u"),
    ]  # fmt: skip
    found = accuracy(judgements)
    # Wilson's interval of 2 of 5, and of 1 of 1, from tables
    assert found["s"].pop("interval") == pytest.approx([0.1176, 0.7693], abs=1e-4)
    assert found["s"] == {"n": 5, "right": 2, "share": 0.4, "tied": 1, "invalid": 1, "unlabelled": 2}
    assert found["t"]["interval"] == pytest.approx([0.2065, 1.0], abs=1e-4) and found["t"]["share"] == 1.0
    assert found["u"] == {
        "n": 0, "right": 0, "share": None, "interval": None, "tied": 0, "invalid": 0, "unlabelled": 1
    }  # fmt: skip


def test_seeds_are_summed_up_by_mean_and_standard_deviation():
    one, other = {"share": 0.5, "interval": [0.2, 0.8]}, {"share": 0.7, "interval": [0.4, 0.9]}
    assert summary([one]) == "50 % (20-80)"
    assert summary([one, other]) == "60.0 % ± 14.1"  # the square root of 2 times 0.1 squared, over 2 - 1
    assert summary([{"share": None, "interval": None}]) == "-"


def model(variant: str, seed: int, right: int, **more: Any) -> dict[str, Any]:
    step = {"loss": 0.5}
    subsets = accuracy([judged(1, 1.0)] * right + [judged(1, -1.0)] * (4 - right))
    return {
        "variant": variant,
        "seed": seed,
        "folder": f"models/{variant}-seed-{seed}",
        "data": {"examples": 9, "sets": {"a": 9}, "left_out": {"too | long": 2}, "longer_chosen": 0.5},
        "training": {"steps": 3, "first": step, "last": step, "seconds": 1.0},
        "accuracy": {"f.json": {"subsets": subsets}, "g.json": {"subsets": subsets}},
    } | more


def test_the_table_names_files_where_their_subsets_are_called_alike():
    length = {"subsets": accuracy([judged(1, -1.0), judged(0, 1.0)]), "left_out": {"an empty answer": 3}}
    results = {
        "name": "n", "base": "b", "command": "selfsteer reward r", "models": [model("v", 0, 2), model("v", 1, 4)],
        "length": {"f.json": length, "g.json": length},
    }  # fmt: skip
    lines = as_markdown(results).splitlines()
    assert "| f.json: s | 1 | 0 % (0-79) | 75.0 % ± 35.4 |" in lines
    assert "| g.json: s | 50 % (15-85) | 100 % (51-100) |" in lines
    assert "- f.json: 3 rows left out, an empty answer" in lines
    assert "- g.json, s: 1 pairs without a winner by their label" in lines
    assert "- `models/v-seed-1`: too | long (2)" in lines and "    selfsteer reward r" in lines


def test_a_file_of_several_subsets_has_a_row_of_all_its_pairs():
    """2 of 3 and 0 of 1: 2 of 4; the other seed 4 of 4: 75 % in the mean, deviation 0.5 / sqrt(2)."""
    first = accuracy([judged(1, 1.0)] * 2 + [judged(1, -1.0)] + [judged(1, -1.0, "t")])
    second = accuracy([judged(1, 1.0)] * 3 + [judged(1, 1.0, "t")])
    models = [model("v", seed, 0, accuracy={"x/f.json": {"subsets": one}}) for seed, one in enumerate((first, second))]
    length = {"x/f.json": {"subsets": first, "left_out": {}}}
    results = {"name": "n", "base": "b", "command": "", "models": models, "length": length}
    told = as_markdown(results)
    assert "| all of f | 4 | 50 % (15-85) | 75.0 % ± 35.4 |" in told
    assert "| all of f | 50 % (15-85) | 100 % (51-100) |" in told
