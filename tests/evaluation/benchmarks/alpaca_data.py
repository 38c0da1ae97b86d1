"""AlpacaEval's recorded preferences and leaderboard, where they lie next to the clone."""

from __future__ import annotations

import csv
import gzip
import json
from functools import cache
from pathlib import Path

import pytest

from selfsteer.evaluation.benchmarks.length_control import GamedRows, read_gamed_rows

DATA = Path(__file__).parents[4] / "shared" / "data" / "alpaca_eval"
PREFERENCES = DATA / "derived" / "preferences_weighted_gpt4_turbo.csv.gz"
GAMED = DATA / "derived" / "df_gamed_reconstructed.csv"
LEADERBOARD = DATA / "leaderboards" / "weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
STORED = json.loads((Path(__file__).parent / "alpaca_lc.json").read_text())
"""By model: our LC win rate (alpaca_eval 0.6.6 agrees to 4e-15), the place of the C that cross-validation found among
logspace(-4, 4, 10), and the place of the C whose LC is the published one (None for a model that has none)."""

needs_data = pytest.mark.skipif(not PREFERENCES.exists(), reason="the shared AlpacaEval data are not here")


@cache
def gamed() -> GamedRows:
    return read_gamed_rows(GAMED)


@cache
def recorded() -> dict[str, dict[str, list[float]]]:
    """The columns of the recorded annotations of each model."""
    found: dict[str, dict[str, list[float]]] = {}
    with gzip.open(PREFERENCES, "rt", encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            own = found.setdefault(row.pop("model"), {name: [] for name in row})
            for name, value in row.items():
                own[name].append(float(value) if name == "preference" else int(value))
    return found


@cache
def published() -> dict[str, dict[str, float]]:
    """The leaderboard's figures of the recorded models."""
    with LEADERBOARD.open(encoding="utf-8", newline="") as stream:
        rows = {row.pop(""): row for row in csv.DictReader(stream)}
    numbers = ("win_rate", "standard_error", "discrete_win_rate", "length_controlled_winrate")
    return {model: {name: float(rows[model][name]) for name in numbers} for model in recorded() if model in rows}
