"""A judge against recorded preferences: figures worked by hand, and judges whose figures are known."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from selfsteer.confidence_intervals import wilson
from selfsteer.evaluation.benchmarks import alpaca
from selfsteer.evaluation.benchmarks.alpaca_judge import ComparisonPrompt
from selfsteer.evaluation.benchmarks.judge_calibration import (
    RECORDED,
    Calibration,
    against_people,
    agreement,
    beside_published,
    calibrate_judge,
)
from selfsteer.evaluation.benchmarks.model_benchmark import EvaluationContext
from selfsteer.judges import Pair
from tests.chat_templates import user
from tests.evaluation.benchmarks.alpaca_data import DATA, GAMED, needs_data

ANNOTATIONS = DATA / "FuseChat-Llama-3.1-8B-Instruct" / "weighted_alpaca_eval_gpt4_turbo" / "annotations.json.gz"
PROMPT = DATA / "judge_prompts" / "alpaca_eval_clf.txt"


class Judge:
    """Gives p(m) by a function of the prompt's last message."""

    key = name = "judge"

    def __init__(self, share: Any) -> None:
        self.share = share

    def label_probabilities(self, prompts: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        found = [self.share(prompt[-1]["content"]) for prompt in prompts]
        return [one if isinstance(one, str) else (one, 1 - one) for one in found]

    def replies(self, *_: Any) -> Any:
        raise AssertionError("no reply is needed")


def context_of(share: Any, prompt: Any = PROMPT, **files: Any) -> EvaluationContext:
    files = {"prompt": prompt, **files}
    return EvaluationContext(files, None, 0, answer=lambda _: [], label_logprobs=None, judge=Judge(share))


def test_agreement_worked_by_hand():
    """Five rows: a recorded tie, which has no winner, and three of four winners found; AUC 5 of 6 with a tie of two."""
    recorded, judged = [1.9, 1.2, 1.5, 1.8, 1.1], [1.7, 1.3, 1.4, 1.3, 1.2]
    found = agreement(judged, recorded, [10, -10, 0, 20, -20])
    assert found.n == 5 and found.accuracy == 0.75 and found.interval == wilson(3, 4)
    # The model won 1.9 and 1.8: judged 1.7 and 1.3, against 1.3, 1.4 and 1.2 of the others.
    assert found.auc == pytest.approx((3 + 1.5) / 6)
    ranks = np.array([[5, 2, 3, 4, 1], [5, 2.5, 4, 2.5, 1]])
    assert found.spearman == pytest.approx(np.corrcoef(ranks)[0, 1])
    lengths = np.array([10, -10, 0, 20, -20]) / math.sqrt(250)
    slope = (lengths * 100 * (np.array(judged) - 1)).sum() / (lengths**2).sum()
    assert found.length_slope == pytest.approx(slope)


def test_rows_without_a_preference_and_judges_that_do_not_vary():
    assert agreement([None, None], [1.2, 1.8], [1, 2]) is None
    found = agreement([1.5, None, 1.5], [1.2, 1.8, 1.9], [3, 3, 3])
    assert (found.n, found.accuracy, found.spearman, found.length_slope) == (2, 0.0, None, None)
    assert agreement([1.9], [1.5], [3]).accuracy is None, "a recorded tie alone has no winner"


def test_the_line_says_what_is_missing():
    nothing = Calibration("m", 3, None, None, None, None, {"judge: blocked": 3})
    assert nothing.line() == "m: no preference on 3 recorded comparisons"
    found = agreement([1.9, 1.2], [1.9, 1.2], [5, -5])
    line = Calibration("m", 3, found, found, 0.5, 7.0, {"x": 1}).line()
    assert line.startswith("m on 2 of 3 recorded preferences of GPT-4 turbo, both orders: sign 100 %")
    assert "AUC 1.00" in line and "first place 50 %" in line and "(GPT-4: +7.0)" in line


def recorded_shares() -> dict[str, float]:
    """The recorded judge's share of the output shown first, by the prompt that shows both in either order."""
    prompt = ComparisonPrompt(PROMPT)
    shares = {}
    with gzip.open(ANNOTATIONS, "rt", encoding="utf-8") as stream:
        for row in json.load(stream):
            both, share = (row["output_1"], row["output_2"]), 2 - row["preference"]
            shares[prompt.messages(row["instruction"], *both)[-1]["content"]] = share
            shares[prompt.messages(row["instruction"], *both[::-1])[-1]["content"]] = 1 - share
    return shares


@needs_data
def test_the_recorded_judge_agrees_with_itself_and_gives_the_published_win_rate(monkeypatch):
    monkeypatch.setattr(alpaca, "RESAMPLES", 5)
    shares = recorded_shares()
    files = {RECORDED: ANNOTATIONS, "baseline": DATA / "gpt4_1106_preview" / "model_outputs.json", "gamed": GAMED}
    context = context_of(lambda content: shares[content], **files)
    found, compared, preferred = calibrate_judge(context)
    for one in (found.official, found.both):
        assert (one.n, one.accuracy, one.auc) == (805, 1.0, 1.0) and one.spearman == pytest.approx(1.0)
        assert one.length_slope == pytest.approx(found.recorded_slope)
    assert found.invalid == {} and 0.4 < found.first_place < 0.6
    (row,) = beside_published(context, None, (compared, preferred))
    assert row["published"] == {"win_rate": 63.3, "length_controlled": 65.4}
    assert row["judge"]["win_rate"]["value"] == pytest.approx(63.3316, abs=1e-3)
    assert row["judge"]["length_controlled"]["value"] == pytest.approx(65.3862, abs=1e-3)


@needs_data
def test_a_judge_of_the_first_place_knows_nothing_over_both_orders():
    context = context_of(lambda content: 0.9, **{RECORDED: ANNOTATIONS})
    found, _, _ = calibrate_judge(context, 100)
    assert found.expected == 100 and found.first_place == 1.0
    assert found.both.accuracy == 0 and found.both.spearman is None and found.both.auc == 0.5


@needs_data
def test_garbage_is_counted():
    found, _, _ = calibrate_judge(
        context_of(lambda content: "blocked" if len(content) % 20 == 0 else 0.6, **{RECORDED: ANNOTATIONS}), 200
    )
    missing = found.expected - found.both.n
    assert missing > 0 and found.invalid == {"judge: blocked": missing}


def test_people_are_agreed_with_by_subset_and_ties_are_not_right(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("<|im_start|>user\n{instruction}|{output_1}|{output_2}<|im_end|>")
    pairs = [
        Pair(f"{place}", user(f"q{place}"), "good", "bad", label=1 if place % 2 == 0 else -1, subset="ab"[place // 4])
        for place in range(8)
    ]
    pairs += [Pair("tied", user("q"), "good", "bad", label=0, subset="a")]

    def share(content: str) -> float:
        _, first, _ = content.split("|")
        return 0.8 if first == "good" else 0.2

    rows = against_people(pairs, context_of(share, path))
    assert [(row["subset"], row["n"], row["both"]["accuracy"], row["first_place"]) for row in rows] == [
        ("a", 4, 0.5, 0.5), ("b", 4, 0.5, 0.5),
    ]  # fmt: skip
    assert [row["both"]["accuracy"] for row in against_people(pairs, context_of(lambda content: 0.7, path))] == [0, 0]
    assert [row["n"] for row in against_people(pairs, context_of(share, path), 3)] == [3, 3]
