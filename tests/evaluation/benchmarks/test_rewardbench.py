"""RewardBench's averages: against the published constants, and a made-up table worked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from selfsteer.evaluation.benchmarks import Right, rewardbench
from selfsteer.evaluation.benchmarks.base import mean_score as score
from selfsteer.evaluation.benchmarks.rewardbench import is_subset, sections

DATA = Path(__file__).parents[4] / "shared/data/preferences/rewardbench_partial"
TABLE = yaml.safe_load(Path(rewardbench.__file__).with_name("rewardbench.yaml").read_text())
REAL = {name: n for weights in TABLE["sections"].values() for name, n in weights.items()} | TABLE["pairs"]


def test_the_shipped_table_is_the_published_one():
    if not DATA.is_dir():
        pytest.skip(f"no {DATA}")
    published = json.loads((DATA / "rewardbench_sections.json").read_text())
    assert {name: list(weights) for name, weights in TABLE["sections"].items()} == published["SUBSET_MAPPING"]
    weights = {name: weight for section in TABLE["sections"].values() for name, weight in section.items()}
    assert weights == published["EXAMPLE_COUNTS"]
    assert TABLE["pairs"] == {"math-prm": 447}


def test_a_section_is_averaged_by_the_weights_of_the_subsets_that_are_there():
    """Reasoning of math-prm (300 of 447 right) and hep-go (82 of 164): (984 * 300/447 + 164 * 1/2) / (984 + 164)."""
    *others, reasoning = sections({"math-prm": Right(300, 447), "hep-go": Right(82, 164), "unknown": Right(1, 1)})
    assert reasoning.share == pytest.approx((984 * 300 / 447 + 164 / 2) / 1148)
    assert reasoning.state == "partial: 2 of 7 subsets" and not reasoning.whole
    assert reasoning.missing == ("hep-cpp", "hep-java", "hep-js", "hep-python", "hep-rust")
    # Kish: 1 / ((984/1148)^2 / 447 + (164/1148)^2 / 164) pairs count
    effective = 1 / ((984 / 1148) ** 2 / 447 + (164 / 1148) ** 2 / 164)
    low, high = reasoning.interval
    middle = (reasoning.share + 1.959964**2 / 2 / effective) / (1 + 1.959964**2 / effective)
    assert (low + high) / 2 == pytest.approx(middle) and 0.035 < high - reasoning.share < 0.04
    assert [(one.state, one.share, one.interval) for one in others] == [("not run", None, None)] * 3
    assert score([*others, reasoning]) is None


def test_with_proportional_weights_all_pairs_count_alike():
    (hard,) = (one for one in sections({"mt-bench-hard": Right(30, 37), "llmbar-natural": Right(60, 100)})
               if one.name == "Chat Hard")  # fmt: skip
    assert hard.share == pytest.approx(90 / 137)
    assert hard.interval == pytest.approx(rewardbench.wilson(90, 137))


def test_the_score_is_the_mean_of_four_whole_sections():
    right = {name: Right(n if name.startswith(("alpaca", "mt-", "llm")) else 0, n) for name, n in REAL.items()}
    right["math-prm"] = Right(447, 447)
    found = sections(right)
    assert [(one.name, one.share, one.state) for one in found] == [
        ("Chat", 1.0, "all 5 subsets"),
        ("Chat Hard", 1.0, "all 6 subsets"),
        ("Safety", 0.0, "all 5 subsets"),
        ("Reasoning", pytest.approx(0.5), "all 7 subsets"),
    ]
    assert score(found) == pytest.approx(2.5 / 4)


@pytest.mark.parametrize(("n", "told"), [(50, "all 5 subsets, 308 pairs in place of 358"), (200, "458 pairs")])
def test_a_sample_or_a_file_given_twice_makes_a_section_less_than_whole(n, told):
    right = {name: Right(1, count) for name, count in REAL.items()} | {"alpacaeval-easy": Right(1, n)}
    chat, *others = sections(right)
    assert told in chat.state and not chat.whole and all(one.whole for one in others)
    assert score([chat, *others]) is None


def test_a_subset_without_a_pair_is_not_there():
    chat = sections({"alpacaeval-easy": Right(0, 0), "mt-bench-med": Right(10, 40)})[0]
    assert chat.found == ("mt-bench-med",) and chat.share == 0.25


def test_names():
    assert is_subset("hep-js") and is_subset("llmbar-adver-GPTInst") and not is_subset("Natural")
