"""Within a run the scores of quality control are the reference: no row is scored a second time, in any round."""

from __future__ import annotations

import pytest

from selfsteer.logprobs.score_keys import ScoreKey
from selfsteer.loop import run
from selfsteer.policy import SSOTrainer
from tests.run_helpers import contrasts, small_recipe, write_queries


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, {"r": 2}], ids=["full", "lora"])
def test_two_rounds_train_on_the_scores_they_made(tmp_path, tiny_chat_model, monkeypatch, lora, precision):
    score = SSOTrainer._score
    monkeypatch.setattr(
        SSOTrainer, "_score", lambda self, rows: pytest.fail("scored again") if rows else score(self, rows)
    )
    changes = {"train__lora": lora, "train__precision": precision, "train__epochs": 3, "queries__heldout": 0}
    recipe = small_recipe(tiny_chat_model, write_queries(tmp_path), rounds=2, queries__limit=4, **changes)
    run(recipe, tmp_path / "run")
    keys = [[ScoreKey.stored(row) for row in contrasts(tmp_path / "run", number)] for number in (1, 2)]
    assert [len({key.weights for key in own}) for own in keys] == [1, 1]
    assert keys[0][0].weights != keys[1][0].weights
    named = "float32" if precision == "float32" else "bfloat16 autocast"
    settings = f"max_length 480 with the longest prompt, precision {named}"
    assert {key.settings for own in keys for key in own} == {settings}
