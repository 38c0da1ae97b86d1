"""IFBench's checkers: against the verdicts that its repository publishes."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from selfsteer.evaluation.benchmarks.ifbench import IFBENCH, NO_NLTK_DATA, verdicts
from selfsteer.evaluation.benchmarks.model_benchmark import EvaluationContext, ModelAnswer
from selfsteer.evaluation.benchmarks.table import model_benchmarks

DATA = Path(__file__).parents[4] / "shared" / "data" / "ifbench"


def lines(name: str) -> list[dict]:
    if not DATA.is_dir():
        pytest.skip(f"no {DATA}")
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt") as stream:
        return [json.loads(line) for line in stream]


def test_no_verdict_differs_from_the_published_one():
    rows = {row["prompt"].strip(): row for row in lines("IFBench_test")}
    torn = next(row for row in rows.values() if row["key"] == "274")
    found = Counter()
    for strict, loose in zip(lines("eval_results_strict"), lines("eval_results_loose"), strict=True):
        # In one published row several prompts became one text, which ends with prompt 274.
        row = rows.get(strict["prompt"].strip()) or torn
        assert row["instruction_id_list"] == strict["instruction_id_list"]
        published = zip(strict["follow_instruction_list"], loose["follow_instruction_list"], strict=True)
        for own, both in zip(verdicts(row, strict["response"]), published, strict=True):
            found[own.why or ("equal" if (own.strict, own.loose) == both else "other")] += 1
    assert found.total() == 335 and found.keys() <= {"equal", NO_NLTK_DATA}
    assert found["equal"] >= 317


def row(*names: str, **settings) -> dict:
    return {"key": "k", "prompt": "p", "instruction_id_list": list(names), "kwargs": [settings for _ in names]}


def test_an_unknown_instruction_is_not_left_out():
    unknown, known = verdicts(row("no:such", "format:no_whitespace"), "word")
    assert unknown.strict is None and unknown.why == "no checker for no:such"
    assert known.strict is True and known.loose is True


def test_an_answer_is_checked_as_it_is():
    (verdict,) = verdicts(row("custom:csv_city"), "ID,Country,City,Year,Count\n" + "1,a,b,2000,3\n" * 7 + "\n")
    assert (verdict.strict, verdict.loose) == (False, True)  # without the blank line it is followed


def test_nothing_is_followed_by_no_answer():
    assert [(one.strict, one.loose) for one in verdicts(row("format:no_whitespace"), " ")] == [(False, False)]


def scores(tmp_path, rows, answers, sample=None):
    path = tmp_path / "IFBench_test.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    given = iter(answers)
    return IFBENCH.evaluate(
        EvaluationContext({"prompts": path}, sample, 0, lambda asked: [next(given) for _ in asked], None)
    )


def test_prompts_are_right_wrong_or_unscored(tmp_path):
    rows = [
        row("format:no_whitespace") | {"key": "right"},
        row("format:no_whitespace", "no:such") | {"key": "wrong"},  # one that is not followed decides
        row("format:no_whitespace", "no:such") | {"key": "unknown"},
        row("format:no_whitespace") | {"key": "failed"},
    ]
    answers = [ModelAnswer("a", "one"), ModelAnswer("b", "two words"), ModelAnswer("c", "one")]
    state = random.getstate()
    found = scores(tmp_path, rows, [*answers, ModelAnswer("d", "", error="too long")])
    assert random.getstate() == state
    official = {one.item: (one.score, one.why) for one in found.items if one.metric == "prompt_level_loose"}
    assert official == {
        "right": (1.0, ""), "wrong": (0.0, ""), "failed": (None, "too long"),
        "unknown": (None, "no checker for no:such"),
    }  # fmt: skip
    assert found.expected == 4 and found.metrics["prompt_level_loose"].value == 50
    facts = model_benchmarks()["ifbench"]
    assert facts.load() is IFBENCH and next(iter(found.metrics)) == facts.official
