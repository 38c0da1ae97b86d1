"""Files of toy pairs, and a reward recipe that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfsteer.reward.recipe import RewardRecipe
from tests.reward.pairs import toy_pairs


def write_pairs(path: Path, count: int, *, start: int = 0, **cells: Any) -> Path:
    rows = [
        {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} | cells
        for pair in toy_pairs(count, start=start)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def reward_values(model: Path, source: Path, *evaluate: Path, **changes: Any) -> dict[str, Any]:
    """The values of a recipe; ``changes`` replace whole keys."""
    options = {"learning_rate": 3e-3, "batch_size": 4, "micro_batch_size": 2, "max_length": 200,
               "precision": "float32", "save_steps": 1, "processes": 0}  # fmt: skip
    return {
        "name": "toy",
        "model": {"name": str(model), "device": "cpu"},
        "sets": {"a": {"source": str(source)}},
        "options": options | changes.pop("options", {}),
        "evaluate": [str(path) for path in evaluate],
    } | changes


def reward_recipe(model: Path, source: Path, *evaluate: Path, **changes: Any) -> RewardRecipe:
    return RewardRecipe.model_validate(reward_values(model, source, *evaluate, **changes))
