"""MT-Bench and Arena-Hard from the command line, with a model and a judge behind a server that a test scripts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from selfsteer.evaluation.benchmarks.judged import CONSTANT
from tests.backends.chat_server import ChatServer, completion

DATA = Path(__file__).parents[3] / "shared/data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")


def replies(body: dict, count: int):
    """The model repeats the end of its last message. The judge rates a constant answer 1 and all others 5, and of two
    answers calls Arena-Hard's longer one better (much better if it is three times as long), MT-Bench's equal."""
    text = body["messages"][-1]["content"]
    if body["model"] in ("model", "other"):
        return completion(text[-200:] if body["model"] == "model" else "Long. " * 999)
    if "Assistant A's Answer|>" in text:
        first, second = text.split("<|The Start of Assistant B's Answer|>")
        _, first = first.split("<|The Start of Assistant A's Answer|>")
        longer, shorter = max(len(first), len(second)), min(len(first), len(second))
        sign = ">>" if longer > 3 * shorter else ">"
        return completion(f"[[A{sign}B]]" if len(first) > len(second) else f"[[B{sign}A]]")
    if "[[C]]" in body["messages"][0]["content"]:
        return completion("My verdict: [[C]]")
    return completion(f"Rating: [[{1 if CONSTANT in text else 5}]]")


@pytest.fixture
def server():
    found = ChatServer(replies)
    yield found
    found.close()


@pytest.fixture
def evaluate(command_line, tmp_path, server):
    def call(suite, *arguments, limit=6, model="model"):
        options = ["--suite", suite, "--data-dir", DATA, "--out", tmp_path, "--limit", limit]
        options += ["--backend", "endpoint", "--base-url", server.url, "--judge-base-url", server.url]
        code, said, errors = command_line("evaluate", "model", model, *options, *arguments)
        path = tmp_path / "results" / f"{model}-{suite.replace(',', '+')}-limit{limit}-seed0.json"
        result = json.loads(path.read_text())["benchmarks"] if path.is_file() else {}
        return code, " ".join(said.split()), " ".join(errors.split()), result

    return call


def test_all_of_them_in_one_command_and_nothing_is_asked_twice(evaluate, server, tmp_path):
    suite = "mt_bench,mt_bench_pairwise,arena_hard_v0.1,arena_hard_v2"
    code, said, errors, found = evaluate(suite, "--judge", "endpoint:judge")
    assert code == 0, errors
    assert {name: (one["expected"], one["scored"]) for name, one in found.items()} == {
        "mt_bench": (12, 12), "mt_bench_pairwise": (12, 12), "arena_hard_v0.1": (6, 6), "arena_hard_v2": (6, 6),
    }  # fmt: skip
    assert next(iter(found["mt_bench"]["metrics"].items()))[1]["value"] == 5
    assert next(iter(found["arena_hard_v2"]["metrics"])) == "style_controlled"
    assert [row["rating"] for row in found["mt_bench"]["details"]["controls"]] == [1, 5, 5]
    assert [row["score"] for row in found["arena_hard_v0.1"]["details"]["controls"]][1:] == [50, 0]
    assert found["mt_bench"]["judge"]["name"] == "judge" and "MT-Bench's own judge" in said
    # The server gives no log-probs, which only the calibration needs.
    assert found["mt_bench"]["judge"]["calibration"] == {
        "line": "judge is not calibrated: the server gives no log-probs"
    }
    controls = "control answers: constant answer 1.00, gpt-4, recorded 5.00, gpt-4, recorded, first half 5.00."
    assert f"MT-Bench: the judge's figures for {controls}" in said
    rows = pq.read_table(next((tmp_path / "results").glob("*.parquet"))).to_pylist()
    assert Counter(row["benchmark"] for row in rows) == {
        "mt_bench": 12, "mt_bench_pairwise": 12, "arena_hard_v0.1": 12, "arena_hard_v2": 12,
    }  # fmt: skip

    def asked():
        return Counter(body["model"] for body in server.bodies if not body.get("logprobs"))

    before = asked()
    assert before["model"] == 12 + 6 + 6  # MT-Bench's two modes share the answers
    assert evaluate(suite, "--judge", "endpoint:judge")[:2] == (0, said)
    assert asked() == before


def test_a_judge_that_only_compares_plays_arena_hard_and_is_refused_by_mt_bench(evaluate, server):
    code, _, errors, _ = evaluate("mt_bench", "--judge", "program:shorter")
    assert code == 2 and "MT-Bench: its judge has to reply in words" in errors and not server.requests
    code, _, errors, found = evaluate("arena_hard_v0.1", "--judge", "program:shorter")
    assert code == 0, errors
    assert found["arena_hard_v0.1"]["judge"]["name"] == "shorter"
    assert found["arena_hard_v0.1"]["details"]["controls"][2]["score"] == 100  # half an answer is shorter


def test_two_models_are_compared_question_by_question(evaluate, command_line, tmp_path):
    """Questions count by their verdicts, which differ between the models."""
    figures = {}
    for model in ("model", "other"):
        code, _, errors, found = evaluate("arena_hard_v2", "--judge", "endpoint:judge", model=model, limit=12)
        assert code == 0, errors
        figures[model] = {name: one["value"] for name, one in found["arena_hard_v2"]["metrics"].items()}
    paths = [tmp_path / "results" / f"{model}-arena_hard_v2-limit12-seed0.json" for model in figures]
    code, _, errors = command_line("compare", *paths, "--json", tmp_path / "compared.json")
    assert code == 0, errors
    [compared] = json.loads((tmp_path / "compared.json").read_text())["benchmarks"]
    for name in ("style_controlled", "score"):
        change = compared["metrics"][name][1]["change"]
        assert change["value"] == pytest.approx(figures["other"][name] - figures["model"][name], abs=0.01)
        assert change["n"] == 12 and change["low"] <= change["value"] <= change["high"]


def test_the_judges_limit_is_that_of_the_command(evaluate, server):
    assert evaluate("mt_bench", "--judge", "endpoint:judge", "--judge-max-tokens", 300, limit=1)[0] == 0
    limits = {(body["model"], body["max_tokens"]) for body in server.bodies if not body.get("logprobs")}
    assert limits == {("model", 1024), ("judge", 300)}


def test_replies_without_a_verdict_are_incomplete(evaluate, server):
    server.answer = lambda body, count: completion("Well.")
    code, _, errors, found = evaluate("arena_hard_v2", "--judge", "endpoint:judge")
    assert code == 1 and "no verdict in the reply 6" in errors
    assert found["arena_hard_v2"]["incomplete"] and found["arena_hard_v2"]["metrics"] == {}
