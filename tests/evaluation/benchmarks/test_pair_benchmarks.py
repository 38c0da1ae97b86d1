"""RewardBench 2, RM-Bench and JudgeBench: their rows as pairs, and their figures against hand-made scores."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest

from selfsteer.evaluation.benchmarks import BENCHMARKS
from selfsteer.judges import judge_pairs
from selfsteer.judges.answer_cache import Answer, scored_answer
from selfsteer.judges.pair_datasets import load_pairs
from selfsteer.workflows.evaluate_reward import groups, read_sets

KINDS = {"ref": 1, "tied": 2}
"""Right answers of Ties' two kinds of prompt."""


class Scores:
    """A reward model whose reward is the number that a response ends with; ``votes``: it gives votes alone."""

    name, batch_size = "scores", 64

    def __init__(self, votes: bool = False) -> None:
        self.key, self._votes = f"scores {votes}", votes

    def answer(self, shown):
        found = [scored_answer([float(text.split()[-1]) for text in one.responses], "rewards", "here") for one in shown]
        return [Answer(one.vote) for one in found] if self._votes else found


def judged(folder, rows, votes=False):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = read_sets([folder / "rows.jsonl"])
    pairs = [pair for one in sets for pair in one.pairs]
    return sets, judge_pairs(Scores(votes), pairs)


def sections_of(key, judgements):
    return {one.name: one for one in BENCHMARKS[key].sections(judgements)}


def answers(*scores):
    return [f"answer {place} scores {score}" for place, score in enumerate(scores)]


def prompt_row(number, subset, right, wrong):
    chosen = answers(*right)
    return {"id": number, "prompt": f"Question {number}?", "chosen": chosen, "num_correct": len(chosen),
            "rejected": [f"wrong, {one}" for one in answers(*wrong)], "subset": subset}  # fmt: skip


def test_rewardbench_2_is_best_of_four_and_equal_scores_share_the_credit(tmp_path):
    rows = [
        prompt_row("1", "Math", [0.9], [0.1, 0.2, 0.8]),  # 1
        prompt_row("2", "Math", [0.5], [0.6, 0.1, 0.1]),  # beaten: 0
        prompt_row("3", "Math", [0.5], [0.5, 0.5, 0.1]),  # three share the first place: 1/3
        prompt_row("4", "Focus", [0.5], [0.4, 0.4, 0.4]),
    ]
    sets, judgements = judged(tmp_path, rows)
    assert len(judgements) == 12 and sets[0].labelled == 12
    found = sections_of("rewardbench2", judgements)
    assert found["Math"].share == pytest.approx((1 + 0 + 1 / 3) / 3) and found["Math"].state == "partial: 3 of 183"
    assert found["Focus"].share == 1 and found["Safety"].state == "not run"
    assert BENCHMARKS["rewardbench2"].score(list(found.values())) is None


def test_ties_of_rewardbench_2_by_accuracy_and_margins(tmp_path):
    """Two questions by hand. 0: leads 0.5 (ref) and 0.4 (tied), spread 0.1. 1: ref -0.1, tied 0.2, spread 0.3."""
    rows = [
        prompt_row("ref:0", "Ties", [0.9], [0.4, 0.1]),
        prompt_row("tied:0", "Ties", [0.9, 0.8, 0.85], [0.4, 0.1]),
        prompt_row("ref:1", "Ties", [0.4], [0.5]),
        prompt_row("tied:1", "Ties", [0.9, 0.6], [0.4]),
    ]
    sets, judgements = judged(tmp_path, rows)
    assert len(judgements) == 2 + (6 + 3) + 1 + (2 + 1)
    assert sum(len(places) for name, places in groups(sets).items() if name == "rows") == 2 + 6 + 1 + 2
    wide = (math.tanh(0.4 / 0.1 - 1) + math.tanh(-0.1 / 0.3 - 1)) / 2
    wanted = 0.3 * 1 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * wide
    found = sections_of("rewardbench2", judgements)["Ties"]
    assert found.share == pytest.approx(wanted, abs=1e-9) and found.n == 4
    _, by_votes = judged(tmp_path, rows, votes=True)
    assert sections_of("rewardbench2", by_votes)["Ties"].share is None, "votes have no margins"


def test_ties_of_equal_scores_and_of_invalid_answers_have_no_margin(tmp_path):
    """0: all scores equal. 1: the judge fails on one pair of "tied:1". Neither leaves Ties without a score."""
    rows = [prompt_row(f"{kind}:{i}", "Ties", [0.5, 0.5][:n], [0.5]) for i in (0, 1) for kind, n in KINDS.items()]
    _, judgements = judged(tmp_path, rows)
    flat = sections_of("rewardbench2", judgements)["Ties"].share
    assert flat == pytest.approx(0.01 * math.tanh(-1))
    place = next(i for i, one in enumerate(judgements) if one.pair.group.endswith("tied:1"))
    judgements[place] = replace(judgements[place], forward=Answer(0, valid=False, why="too long"))
    broken = sections_of("rewardbench2", judgements)["Ties"].share
    assert broken == pytest.approx(0.01 * (math.tanh(-1) - 1) / 2)


def test_a_whole_rewardbench_2_has_a_score(tmp_path):
    sizes = {"Factuality": 475, "Precise IF": 160, "Math": 183, "Safety": 450, "Focus": 495}
    rows = [prompt_row(f"{name}-{i}", name, [i % 2], [0.5] * 3) for name, n in sizes.items() for i in range(n)]
    rows += [prompt_row(f"{kind}:{i}", "Ties", [1.0, 0.9][: 1 + (kind == "tied")], [0.2]) for kind in ("ref", "tied")
             for i in range(51)]  # fmt: skip
    _, judgements = judged(tmp_path, rows)
    found = sections_of("rewardbench2", judgements)
    assert all(one.whole for one in found.values())
    ties = 1 + 0.01 * math.tanh(0.7 / 0.1 - 1)
    halves = [sum(i % 2 for i in range(n)) / n for n in sizes.values()]
    assert BENCHMARKS["rewardbench2"].score(list(found.values())) == pytest.approx((sum(halves) + ties) / 6)


def style_row(domain, chosen, rejected):
    return {"id": f"{domain}-1", "prompt": f"{domain}?", "chosen": answers(*chosen), "domain": domain,
            "rejected": [f"wrong, {one}" for one in answers(*rejected)]}  # fmt: skip


def test_rm_bench_is_hard_where_the_worse_answer_has_the_richer_style(tmp_path):
    """The judge likes style alone, 1 to 3: easy pairs are right, hard ones wrong, normal ones ties."""
    rows = [style_row(domain, (1, 2, 3), (1, 2, 3)) for domain in ("chat", "code", "math", "safety-refuse")]
    rows.append(style_row("safety-response", (4, 5, 6), (1, 2, 3)))  # right in all nine
    _, judgements = judged(tmp_path, rows)
    assert len(judgements) == 45 and all(one.pair.label for one in judgements)
    found = sections_of("rm_bench", judgements)
    assert found["Chat"].share == pytest.approx(1 / 3) and found["Safety"].share == pytest.approx((1 / 3 + 1) / 2)
    assert [found[name].share for name in ("Hard", "Normal", "Easy")] == pytest.approx([0.125, 0.125, 1])
    assert found["Chat"].n == 9 and found["Chat"].expected == 129 * 9 and not found["Chat"].whole


def judgebench_rows(n):
    sources = itertools.cycle(("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench"))
    for i, source in zip(range(n), sources, strict=False):
        label = "A>B" if i % 8 < 6 else "B>A"
        yield {"pair_id": i, "source": source, "question": f"Q {i}", "response_A": "x 1", "response_B": "y 0",
               "label": label}  # fmt: skip


def test_judgebench_by_source(tmp_path):
    _, judgements = judged(tmp_path, judgebench_rows(350))
    found = sections_of("judgebench", judgements)
    assert [one.n for one in found.values()] == [88, 88, 87, 87]
    right = sum(row["label"] == "A>B" for row in judgebench_rows(350))
    assert BENCHMARKS["judgebench"].score(list(found.values())) == pytest.approx(right / 350)
    assert found["Knowledge"].share == 1 and found["Coding"].share == pytest.approx(44 / 87)
    _, some = judged(tmp_path, judgebench_rows(40))
    assert BENCHMARKS["judgebench"].score(list(sections_of("judgebench", some).values())) is None


def test_a_limit_draws_rows_with_all_of_their_pairs(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(prompt_row(str(i), "Math", [0.9], [0.1, 0.2, 0.3])) + "\n" for i in range(20)))
    pairs = load_pairs(file, limit=5).pairs
    assert len(pairs) == 15 and len({pair.group for pair in pairs}) == 5
    labels = [pair.label for pair in load_pairs(file).pairs]
    assert 10 < labels.count(1) < 50, "the better answer is the first one by chance"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"question": "q", "response_A": "a", "response_B": "b", "label": "A>C"}, "expected one of A>B, B>A, A=B"),
        ({"chosen": ["a"], "rejected": ["b", "c"]}, "no prompt beside the lists 'chosen' and 'rejected'"),
        ({"prompt": "q", "chosen": ["a", 1], "rejected": ["b"]}, "'chosen'"),
    ],
)
def test_a_row_that_is_none_says_why(tmp_path, row, why):
    good = prompt_row("1", "Math", [1], [0])
    (tmp_path / "rows.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    (dropped,) = load_pairs(tmp_path / "rows.jsonl").dropped
    assert why in dropped.reason


def test_the_command_prints_the_benchmarks(tmp_path, monkeypatch, command_line):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))
    rows = [
        prompt_row("1", "Math", [0.9], [0.1, 0.2, 0.8]),
        style_row("chat", (1, 2, 3), (1, 2, 3)),
        *judgebench_rows(8),
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, shown, said = command_line(
        "evaluate", "reward", tmp_path / "rows.jsonl", "--judge", "program:longer", "--json", tmp_path / "out.json"
    )
    assert code == 0, said
    assert all(title in shown for title in ("RewardBench 2", "RM-Bench", "JudgeBench", "not run: not all sections"))
    found = json.loads((tmp_path / "out.json").read_text())["judges"][0]
    assert {"rewardbench2", "rm_bench", "judgebench"} <= found.keys() and "rewardbench" not in found
