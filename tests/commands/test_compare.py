"""`selfsteer compare`: its tables, its files and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from selfsteer.commands.compare import CompareArguments, compare
from selfsteer.errors import ConfigError
from tests.evaluation.benchmarks.result_files import benchmark, items, right_or_wrong, write_result
from tests.printed import printed

JUDGE = {"name": "judge[bold]", "key": "abc"}


@pytest.fixture
def results(tmp_path) -> list[Path]:
    files = []
    for seed, name in enumerate(("before", "after [red]1[/red]")):
        scores = right_or_wrong(100, 0.3 + 0.2 * seed, seed)
        if seed:
            scores |= {f"q{place}": None for place in range(12)}
        gsm8k = benchmark(items(scores, "flexible_extract"), invalid={"the answer is empty": 12} if seed else {})
        wins = {f"{place}": 0.3 + 0.2 * seed * (place % 2) for place in range(50)}
        alpaca = benchmark(items(wins, "win_rate"), judge=JUDGE, length={"mean": 1000.0 + 640 * seed, "cut_off": 0.1})
        files.append(write_result(tmp_path / f"{seed}.json", name, {"gsm8k": gsm8k, "alpaca_eval": alpaca}))
    return files


def test_the_tables_say_figures_differences_lengths_and_what_is_incomplete(results):
    _, text, _ = printed(compare, CompareArguments(results))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert any(line.startswith("metric before after [red]1[/red]") for line in lines), "no markup in names"
    assert "items scored 100 88 of 100: incomplete" in lines
    assert "characters an answer 1,000 1,640" in lines
    assert "AlpacaEval 2, percent, judge judge[bold]" in lines
    assert any(line.startswith("after [red]1[/red] +10.0 <0.001 - ") for line in lines)
    named = ", ".join(f"q{place}" for place in range(10))
    assert f"GSM8K: 12 items ({named} and 2 more, all in --json) have a score of before, none of after" in text
    assert "after [red]1[/red] is incomplete: 88 of 100 (the answer is empty: 12)" in text
    assert text.count("characters an answer") == 1, "lengths belong to what a judge decides"


def test_the_files_hold_all_figures_and_a_picture_of_them(results, tmp_path):
    file, picture = tmp_path / "found.json", tmp_path / "found.png"
    printed(compare, CompareArguments(results, json_file=file, picture=picture))
    found = json.loads(file.read_text())
    assert found["models"] == ["before", "after [red]1[/red]"] and found["schema_version"] == 1
    gsm8k = found["benchmarks"][0]
    change = gsm8k["metrics"]["flexible_extract"][1]["change"]
    assert gsm8k["unit"] == "%" and len(change["only_first"]) == 12 and change["n"] == change["clusters"] == 88
    shown = imread(picture)
    assert shown.shape[1] > 1000 and (shown[..., :3].min(axis=2) < 0.5).mean() > 0.005, "it is not empty"
    printed(compare, CompareArguments(results[::-1], picture=tmp_path / "other.png"))
    other = imread(tmp_path / "other.png")
    assert other.shape != shown.shape or not np.array_equal(other, shown), "it shows what it compares"


def test_the_picture_is_put_beside_the_first_result(results):
    _, text, _ = printed(compare, CompareArguments(results))
    picture = results[0].with_name("comparison.png")
    assert picture.is_file() and f"picture: {picture}" in text


def test_a_picture_is_a_png(results):
    with pytest.raises(ConfigError, match=r"found\.jpg is no name of a PNG file"):
        compare(CompareArguments(results, picture=Path("found.jpg")))


def test_results_of_two_judges_end_with_exit_code_2(results, tmp_path):
    alpaca = benchmark(items({"0": 0.5}, "win_rate"), judge={"name": "another", "key": "def"})
    other = write_result(tmp_path / "other.json", "other", {"alpaca_eval": alpaca})
    command = [sys.executable, "-m", "selfsteer.cli", "compare", str(results[0]), str(other)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 2 and "the judges of before and other differ" in found.stderr, found.stderr
    assert "judge[bold], key abc" in found.stderr and not (tmp_path / "comparison.png").exists()
