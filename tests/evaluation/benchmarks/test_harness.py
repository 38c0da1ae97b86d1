"""lm-eval's tasks over our data and answers: against published verdicts, and what the tasks ask."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import logging
import random
import re
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from selfsteer.errors import ConfigError
from selfsteer.evaluation.benchmarks import harness
from selfsteer.evaluation.benchmarks.gpqa import GPQA_DIAMOND
from selfsteer.evaluation.benchmarks.gsm8k import GSM8K
from selfsteer.evaluation.benchmarks.ifeval import IFEVAL
from selfsteer.evaluation.benchmarks.minerva_math import MATH, MATH500
from selfsteer.evaluation.benchmarks.mmlu import MMLU
from selfsteer.evaluation.benchmarks.mmlu_pro import MMLU_PRO
from selfsteer.evaluation.benchmarks.model_benchmark import EvaluationContext, ModelAnswer
from selfsteer.evaluation.benchmarks.table import model_benchmarks

DATA = Path(__file__).parents[4] / "shared" / "data"
CHANCE = {"1122", "1129", "3617"}
"""Prompts of IFEval whose verdict depends on a seed: a random letter, langdetect's samples."""


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFSTEER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def shared(name: str) -> Path:
    for path in (DATA / name, DATA / f"{name}.gz"):
        if path.is_file():
            return path
    pytest.skip(f"no {DATA / name}")


def lines(name: str) -> list[dict]:
    path = shared(name)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as stream:
        return [json.loads(line) for line in stream]


def context(files, text, *, sample=None, labels=None, seed=0) -> EvaluationContext:
    """A context in which ``text`` answers a question, and ``labels`` gives the log-probs of replies."""

    def answer(questions):
        given = [text(question) for question in questions]
        return [one if isinstance(one, ModelAnswer) else ModelAnswer(str(n), one) for n, one in enumerate(given)]

    return EvaluationContext(files, sample, seed, answer, labels)


def by_prompt(texts: dict[str, str]):
    return lambda question: texts[question.messages[-1]["content"]]


# --- against published verdicts ---


def ifeval_disagreements(name: str) -> tuple[Counter, set[str]]:
    """Return (metric, agrees) -> count over the instructions, and the prompts of those that don't agree."""
    prompts, published = lines("ifeval/input_data.jsonl"), lines(f"ifeval/verdicts/{name}.jsonl")
    answered = lines("ifeval/responses/gpt4_20231107_145030.jsonl") if name.startswith("gpt4") else published
    texts = {row["prompt"]: row["response"] for row in answered}
    known = {row["key"]: row for row in published}
    sample = [place for place, row in enumerate(prompts) if row["prompt"] in texts and row["key"] in known]
    files = {"prompts": shared("ifeval/input_data.jsonl")}
    scores = IFEVAL.evaluate(context(files, by_prompt(texts), sample=sample))
    assert scores.expected == len(sample) == 540
    found, wrong = Counter(), set()
    for item in scores.items:
        if item.metric.startswith("instruction_level"):
            place = int(item.item.partition(":")[2] or 0)
            agrees = known[int(item.cluster)][item.metric.removeprefix("instruction_level_")][place] == item.score
            found[item.metric, agrees] += 1
            wrong |= set() if agrees else {item.cluster}
    return found, wrong


MODELS = ["gpt4_20231107_145030", pytest.param("Meta-Llama-3.1-8B-Instruct-AWQ-INT4", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", MODELS)
def test_ifeval_gives_the_published_verdicts(name):
    found, _ = ifeval_disagreements(name)
    assert found == {("instruction_level_strict", True): 832, ("instruction_level_loose", True): 832}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_by_other_seeds_only_verdicts_that_are_drawn_differ(seed, monkeypatch):
    monkeypatch.setattr(harness, "CHECKER_SEED", seed)
    _, wrong = ifeval_disagreements("gpt4_20231107_145030")
    assert wrong and wrong <= CHANCE


@pytest.mark.parametrize(
    "model, agree, right, numeric",
    [("gpt-4-1106-preview", 1319, 1130, 1172), ("mistralai/Mixtral-8x7B-Instruct-v0.1", 1314, 837, 839)],
)
def test_gsm8k_gives_the_published_labels(model, agree, right, numeric):
    with gzip.open(shared("gsm8k/gsm8k_responses.csv"), "rt", newline="") as stream:
        rows = list(csv.DictReader(stream))
    texts = {f"Q: {row['prompt']}\nA:": row[f"{model}_response"] for row in rows}
    labels = {row["prompt"]: row[model] == "True" for row in rows}
    scores = GSM8K.evaluate(context({"test": shared("gsm8k/test.jsonl")}, by_prompt(texts)))
    questions = [row["question"] for row in lines("gsm8k/test.jsonl")]
    official = [one for one in scores.items if one.metric == "flexible_extract"]
    assert sum(labels[questions[int(one.item)]] == one.score for one in official) == agree
    assert scores.expected == len(official) == 1319
    assert round(scores.metrics["flexible_extract"].value * 13.19) == right
    assert round(scores.metrics["numeric"].value * 13.19) == numeric
    assert next(iter(scores.metrics)) == "flexible_extract"


@pytest.mark.slow
def test_math_verify_finds_boxed_answers_and_no_others():
    rows = lines("math/math500_test.jsonl")
    files = {"test": shared("math/math500_test.jsonl")}
    prompts = [f"Problem:\n{row['problem']}\n\nSolution:" for row in rows]
    boxed = [f"So the answer is $\\boxed{{{row['answer']}}}$." for row in rows]
    own = MATH500.evaluate(context(files, by_prompt(dict(zip(prompts, boxed, strict=True)))))
    assert own.metrics["math_verify"].value == 100 and own.metrics["exact_match"].value == 0
    others = [*boxed[1:], boxed[0]]
    values = [row["answer"].rpartition("=")[2] for row in rows]  # a 5 follows an x=5
    differ = [place for place, value in enumerate(values) if value != values[(place + 1) % 500]]
    texts = dict(zip(prompts, others, strict=True))
    wrong = MATH500.evaluate(context(files, by_prompt(texts), sample=differ))
    assert len(differ) >= 495 and wrong.metrics["math_verify"].value == 0


@pytest.mark.slow
def test_mmlu_pro_reads_the_published_letters():
    rows = {row["question_id"]: row for row in lines("mmlu_pro/outputs_Meta-Llama-3.1-8B-Instruct_5shots.jsonl")}
    files = {"test": shared("mmlu_pro/test.jsonl"), "examples": shared("mmlu_pro/few_shot.jsonl")}
    order = iter([rows[row["question_id"]] for row in _by_task(lines("mmlu_pro/test.jsonl"))])
    scores = MMLU_PRO.evaluate(context(files, lambda question: next(order)["generated_text"]))
    pattern = re.compile(r"answer is \(?([ABCDEFGHIJ])\)?")
    found = {key: pattern.search(row["generated_text"]) for key, row in rows.items()}
    read = {key for key, one in found.items() if one}
    agree = [
        one
        for one in scores.items
        if int(one.item) in read and one.score == (rows[int(one.item)]["pred"] == rows[int(one.item)]["answer"])
    ]
    assert len(agree) == len(read) == 10_984
    assert scores.expected == len(scores.items) == 12_032
    assert scores.metrics["exact_match"].value == pytest.approx(43.36, abs=0.005)
    assert len(scores.details["subsets"]) == 14


def _by_task(rows: list[dict]) -> list[dict]:
    """Return rows in the order in which lm-eval asks: task by task, by name."""
    return sorted(rows, key=lambda row: row["category"].replace(" ", "_"))


# --- what is asked ---


@pytest.mark.parametrize(
    "benchmark, tasks",
    [(GSM8K, 1), (MATH, 7), (MATH500, 1), (MMLU, 57), (MMLU_PRO, 14), (IFEVAL, 1)],
    ids=lambda one: getattr(one, "name", ""),
)
def test_every_question_is_asked(benchmark, tasks):
    facts = model_benchmarks()[benchmark.name]
    files = {name: shared(one[0].path) for name, one in facts.files.items() if not one[0].optional}
    data = benchmark.read(files, True)
    assert len(data.items) == len({item.id for item in data.items}) == facts.n
    assert len(data.tasks) == tasks
    assert facts.load() is benchmark and next(iter(benchmark.metrics)) == facts.official


def test_mmlu_asks_five_examples_as_turns_and_scores_the_letters():
    asked = []

    def labels(pairs):
        asked.extend(pairs)
        return [[-1.0, -2.0, -0.5, -3.0] for _ in pairs]

    files = {"archive": shared("mmlu/mmlu.zip")}
    sample = [14_041, 0, 5, 3]  # of two subjects, in any order
    scores = MMLU.evaluate(context(files, lambda question: "", sample=sample, labels=labels))
    assert [item.item for item in scores.items] == [MMLU.read(files, True).items[place].id for place in sample]
    roles = ["system", *["user", "assistant"] * 5, "user"]
    for messages, replies in asked:
        assert [one["role"] for one in messages] == roles and list(replies) == ["A", "B", "C", "D"]
        assert messages[0]["content"].startswith("The following are multiple choice questions")
        assert messages[-1]["content"].endswith("\nAnswer:") and messages[2]["content"] in "ABCD"
    rows = MMLU.read(files, True).splits
    right = [float(rows[item.subset]["test"][int(item.item.partition("/")[2])]["answer"] == 2) for item in scores.items]
    assert [item.score for item in scores.items] == right and len(asked) == 4


def test_mmlu_asks_a_model_without_log_probs_to_write_the_letter_and_says_so():
    files = {"archive": shared("mmlu/mmlu.zip")}
    scores = MMLU.evaluate(context(files, lambda question: " B", sample=[0, 1, 2]))
    assert {item.score for item in scores.items} <= {0.0, 1.0} and "mmlu_generative" in scores.notes[0]
    assert "mmlu/generative" in scores.versions["task"] or "generative" in scores.versions["task"]


def test_a_question_that_does_not_fit_has_no_score():
    files = {"archive": shared("mmlu/mmlu.zip")}
    scores = MMLU.evaluate(context(files, lambda question: "", sample=[0], labels=lambda pairs: ["too long"]))
    assert [(item.score, item.why) for item in scores.items] == [(None, "too long")] and not scores.metrics


def test_mmlu_pro_asks_worked_examples_of_the_subject():
    asked = []
    files = {"test": shared("mmlu_pro/test.jsonl"), "examples": shared("mmlu_pro/few_shot.jsonl")}
    sample = [7, 4000]
    MMLU_PRO.evaluate(context(files, lambda one: asked.append(one) or "The answer is (A).", sample=sample))
    examples, rows = lines("mmlu_pro/few_shot.jsonl"), lines("mmlu_pro/test.jsonl")
    shown = {question.messages[-1]["content"]: question for question in asked}
    for row in (rows[place] for place in sample):
        (question,) = [one for text, one in shown.items() if text.startswith(f"Question:\n{row['question']}\n")]
        own = [one["solution"] for one in examples if one["category"] == row["category"]]
        assert [one["content"] for one in question.messages if one["role"] == "assistant"] == own and len(own) == 5
        assert question.messages[-1]["content"].endswith("Answer: Let's think step by step.")
        assert question.sampling.stop == ("Question:",) and question.sampling.max_new_tokens == 2048


@pytest.fixture
def made_up_gpqa(tmp_path) -> Path:
    path = tmp_path / "gpqa_diamond.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["Record ID", "Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))])
        writer.writerows(
            [f"r{n}", f"Made up {n}?", f"right {n}", *(f"wrong {n} {m}" for m in (1, 2, 3))] for n in range(8)
        )
    return path


def _letter_of(word: str):
    def answer(question):
        choices = question.messages[-1]["content"].splitlines()[1:]
        (found,) = [line for line in choices if f") {word}" in line][:1]
        return f"Step by step. The answer is {found[:3]}."

    return answer


def test_gpqa_scores_the_choice_that_it_showed(made_up_gpqa):
    files = {"questions": made_up_gpqa}
    right = GPQA_DIAMOND.evaluate(context(files, _letter_of("right")))
    assert [item.score for item in right.items] == [1.0] * 16 and right.expected == 8
    assert {item.item for item in right.items} == {f"r{n}" for n in range(8)}
    wrong = GPQA_DIAMOND.evaluate(context(files, _letter_of("wrong")))
    assert {item.score for item in wrong.items} == {0.0}


def test_gpqa_shuffles_by_the_seed(made_up_gpqa):
    def prompts(seed: int) -> list[str]:
        asked = []
        files = {"questions": made_up_gpqa}
        GPQA_DIAMOND.evaluate(context(files, lambda one: asked.append(one) or "", seed=seed))
        return [one.messages[-1]["content"] for one in asked]

    assert prompts(0) == prompts(0) != prompts(1)


def test_answers_that_failed_have_no_score_but_are_expected():
    failed = ModelAnswer("k", "", error="the server is gone")
    answers = iter(["The answer is 18.", failed, "70000"])
    files = {"test": shared("gsm8k/test.jsonl")}
    scores = GSM8K.evaluate(context(files, lambda question: next(answers), sample=[0, 1, 2]))
    official = [item for item in scores.items if item.metric == "flexible_extract"]
    assert [item.score for item in official] == [1.0, None, 1.0] and official[1].why == "the server is gone"
    assert scores.expected == 3 and scores.metrics["flexible_extract"].value == 100


def test_gsm8k_asks_eight_examples_as_turns_with_the_tasks_stop_strings():
    asked = []
    files = {"test": shared("gsm8k/test.jsonl")}
    GSM8K.evaluate(context(files, lambda question: asked.append(question) or "", sample=[5]))
    assert [one["role"] for one in asked[0].messages] == [*["user", "assistant"] * 8, "user"]
    assert asked[0].sampling.stop == ("Q:", "</s>", "<|im_end|>") and asked[0].sampling.temperature == 0


def test_the_process_is_as_before():
    def handler(*_):
        raise AssertionError

    before = signal.signal(signal.SIGALRM, handler)
    random.seed(5)
    expected, level = random.Random(5).random(), logging.getLogger("lm_eval").level
    files = {"test": shared("math/math500_test.jsonl")}
    MATH500.evaluate(context(files, lambda question: "x", sample=[0]))
    assert random.random() == expected and logging.getLogger("lm_eval").level == level
    assert signal.signal(signal.SIGALRM, before) is handler


# --- a missing extra ---


def test_without_lm_eval_one_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, harness.__name__)
    with pytest.raises(ConfigError) as caught:
        importlib.import_module(harness.__name__)
    assert "lm-eval" in caught.value.what and "selfsteer[bench]" in caught.value.do


def test_another_antlr_is_known_before_a_model_is_asked(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "4.13.2")
    monkeypatch.delitem(sys.modules, "lm_eval.tasks.minerva_math.utils", raising=False)
    with pytest.raises(ConfigError, match="math tasks") as caught:
        harness.check_math()
    assert "antlr4-python3-runtime" in caught.value.what and "selfsteer[bench]" in caught.value.do
