"""`selfsteer evaluate model` on toy benchmarks: results, counts, what is missing, resuming."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from selfsteer.backends import request_scheduler
from selfsteer.backends.transformers import TransformersBackend
from selfsteer.backends.vllm import installed_version
from selfsteer.errors import ModelError
from selfsteer.evaluation.benchmarks.evaluated_model import EvaluatedModel, ModelOptions
from selfsteer.evaluation.benchmarks.results import smallest_shown
from selfsteer.evaluation.benchmarks.table import model_benchmarks
from tests.backends.chat_server import ChatServer, completion, failure
from tests.conftest import build_tokenizer
from tests.evaluation.benchmarks import toy

TIMES = {"seconds"}


pytestmark = pytest.mark.usefixtures("toy_benchmarks")


@pytest.fixture
def evaluate(command_line, tmp_path, tiny_chat_model):
    """Run the command with the toys' data; returns exit code, output, errors with single blanks."""
    data = toy.write_data(tmp_path / "data")

    def call(*arguments, model=tiny_chat_model, suite="toy", out="out"):
        options = ["--suite", suite, "--data-dir", data, "--out", tmp_path / out, "--device", "cpu"]
        code, said, errors = command_line("evaluate", "model", model, *options, *arguments)
        return code, " ".join(said.split()), " ".join(errors.split())

    return call


def result_of(out: Path, name: str) -> dict:
    return json.loads((out / "results" / name).read_text())


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMES}
    return value


def test_a_result_says_what_was_measured_on_what(evaluate, tmp_path):
    code, said, errors = evaluate("--json", tmp_path / "all.json")
    assert code == 0, errors
    result = result_of(tmp_path / "out", "tiny-toy.json")
    assert json.loads((tmp_path / "all.json").read_text()) == {"results": [result]}
    assert result["model"]["name"] == "tiny" and len(result["model"]["fingerprint"]) == 16
    assert result["model"]["engine"].startswith("transformers 5")
    found = result["benchmarks"]["toy"]
    assert (found["expected"], found["answered"], found["scored"], found["invalid"]) == (12, 12, 12, {})
    assert (found["incomplete"], found["sample"], found["judge"], found["unverified"]) == (False, None, None, False)
    assert found["data"] == {"questions": model_benchmarks()["toy"].files["questions"][0].sha256}
    rows = pq.read_table(tmp_path / "out/results/tiny-toy.parquet").to_pylist()
    assert [row["item"] for row in rows] == [row["id"] for row in toy.ROWS]
    assert found["length"]["mean"] == pytest.approx(sum(row["length"] for row in rows) / 12)
    assert found["length"]["cut_off"] == sum(row["finish"] == "length" for row in rows) / 12
    assert found["metrics"]["points"]["value"] == pytest.approx(100 * sum(row["score"] for row in rows) / 12)
    # sqrt(2) * (1.96 + 0.84) for a standard error of 1
    shown = f"Toy points {found['metrics']['points']['value']:.2f}"
    assert shown in said and "3.96" in said and "Toy: Toys measure nothing." in said


def test_what_n_can_show_is_not_nothing_where_all_answers_are_wrong():
    whole = {"error": 2.0, "low": 40.0, "high": 48.0}
    assert smallest_shown(whole) == pytest.approx(2.0 * 2**0.5 * 2.8016, abs=1e-3)
    none_of_four = {"error": 0.0, "low": 0.0, "high": 48.99}
    assert smallest_shown(none_of_four) == pytest.approx(49.5, abs=0.1)
    assert smallest_shown({"error": None, "low": None, "high": None}) is None


def test_a_second_run_asks_nothing_and_says_the_same(evaluate, tmp_path, monkeypatch):
    assert evaluate(suite="toy,toy_labels")[0] == 0
    first = (tmp_path / "out/results/tiny-toy+toy_labels.json").read_text()

    def asked(*arguments, **options):
        raise AssertionError("a model was asked")

    monkeypatch.setattr(TransformersBackend, "generate", asked)
    monkeypatch.setattr("selfsteer.evaluation.benchmarks.evaluated_model.label_scores", asked)
    assert evaluate(suite="toy,toy_labels")[0] == 0
    assert (tmp_path / "out/results/tiny-toy+toy_labels.json").read_text() == first


def test_a_sample_has_a_name_of_its_own_and_is_drawn_by_the_seed(evaluate, tmp_path):
    taken = []
    for seed in (0, 0, 1):
        code, said, _ = evaluate("--limit", 5, "--seed", seed)
        assert code == 0 and f"a sample of 5 questions, seed {seed}" in said
        name = f"tiny-toy-limit5-seed{seed}"
        rows = pq.read_table(tmp_path / f"out/results/{name}.parquet").to_pylist()
        taken.append([row["item"] for row in rows])
        assert result_of(tmp_path / "out", f"{name}.json")["benchmarks"]["toy"]["sample"] == {"limit": 5, "seed": seed}
    assert taken[0] == taken[1] != taken[2] and len(taken[0]) == 5
    assert evaluate("--limit", 99)[0] == 0
    assert result_of(tmp_path / "out", "tiny-toy-limit99-seed0.json")["benchmarks"]["toy"]["sample"] is None


def test_all_that_is_missing_is_said_at_once_before_any_model_is_asked(evaluate, tmp_path):
    (tmp_path / "data/toy.jsonl").unlink()
    code, _, errors = evaluate(suite="toys,toy_broken")
    assert code == 2
    assert "4 of 4 benchmarks can't be run:" in errors
    assert errors.count("toy.jsonl is missing; it comes from here") == 4
    assert "Judged toy: it needs a judge; name one with --judge" in errors
    assert "Broken toy: No module named 'no_such_module'; pip install 'selfsteer[bench]'" in errors
    toy.write_data(tmp_path / "data")
    code, _, errors = evaluate("--judge", "program:longer", suite="toys")
    assert code == 2 and "Judged toy: its judge has to reply in words" in errors
    assert "run the others alone: --suite toy,toy_labels" in errors


def test_wrong_settings_are_said(evaluate, tmp_path, tiny_chat_model, monkeypatch):
    monkeypatch.setattr("selfsteer.backends.vllm.importlib.util.find_spec", lambda name: None)
    assert "Did you mean 'toy'" in evaluate(suite="toyy")[2]
    assert "unknown backend 'vlm'" in evaluate("--backend", "vlm")[2]
    assert "options of a judge, and no judge" in evaluate("--judge-mode", "text")[2]
    assert "needs vLLM, which is not installed" in evaluate("--backend", "vllm")[2]
    monkeypatch.undo()
    # vLLM's builds for CPUs are packages of other names: any installed one stands for them.
    monkeypatch.setattr("selfsteer.backends.vllm.importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr("selfsteer.backends.vllm.packages_distributions", lambda: {"vllm": ["pytest"]})
    assert installed_version() == pytest.__version__
    copy = tmp_path / "tiny"
    shutil.copytree(tiny_chat_model, copy)
    code, _, errors = evaluate(copy)
    assert code == 2 and "two models would be called tiny" in errors


def test_a_row_that_is_missing_from_the_data_never_shrinks_the_benchmark_silently(evaluate, tmp_path):
    toy.write_data(tmp_path / "data", rows=11)
    code, _, errors = evaluate()
    assert code == 2 and "11 rows in place of 12" in errors
    code, said, errors = evaluate("--unverified-data")
    assert code == 1 and "Toy (11 of 12 scored: the benchmark has no score for it 1)" in errors
    assert "Toy points incomplete - 11 of 12" in said and "The data are not verified: the content of toy.jsonl" in said
    code, said, _ = evaluate("--unverified-data", "--allow-incomplete")
    value = result_of(tmp_path / "out", "tiny-toy.json")["benchmarks"]["toy"]["metrics"]["points"]["value"]
    assert code == 0 and f"Toy points {value:.2f}" in said and "of 12: 11" in said


def faulty(words, text="[[7]]"):
    """A server that fails for good where a prompt has one of some words."""

    def answer(body, count):
        asked = body["messages"][-1]["content"].split()
        return failure(500, "out of order") if set(asked) & set(words) else completion(text)

    return answer


@pytest.mark.filterwarnings("always::selfsteer.errors.SelfsteerWarning")
def test_requests_that_fail_are_counted_and_asked_again(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr(request_scheduler.RequestScheduler, "_wait", lambda self, seconds: time.sleep(0.01))
    monkeypatch.setattr(request_scheduler, "_now", iter(range(0, 10**9, 60)).__next__)
    server = ChatServer(faulty({"1", "5", "7", "10"}))
    options = ["--backend", "endpoint", "--base-url", server.url]
    code, _, errors = evaluate(*options, model="some/model")
    assert code == 1 and "did not answer 4 of 12 questions" in errors
    assert "Toy (8 of 12 scored: the request failed 4)" in errors
    found = result_of(tmp_path / "out", "some--model-toy.json")["benchmarks"]["toy"]
    assert (found["expected"], found["answered"], found["scored"]) == (12, 8, 8)
    server.answer, before = faulty(set()), len(server.requests)
    assert evaluate(*options, model="some/model")[0] == 0
    assert len(server.requests) - before == 4
    server.close()


def test_a_judge_that_answers_garbage_is_counted(evaluate, tmp_path):
    model = ChatServer(lambda body, count: completion(body["messages"][-1]["content"]))
    server = ChatServer(lambda body, count: completion("[[7]]" if count % 4 else "splendid"))
    options = ["--judge", "endpoint:judge", "--judge-base-url", server.url, "--backend", "endpoint"]
    options += ["--base-url", model.url]
    for _ in range(2):
        code, _, errors = evaluate(*options, model="m", suite="toy_judged")
        assert code == 1 and "no rating in the reply 3" in errors
    found = result_of(tmp_path / "out", "m-toy_judged.json")["benchmarks"]["toy_judged"]
    assert (found["answered"], found["scored"], found["invalid"]) == (12, 9, {"no rating in the reply": 3})
    assert found["judge"]["name"] == "judge" and found["judge"]["key"]
    assert len(model.requests) == len(server.requests) == 12
    for one in (model, server):
        one.close()


def test_a_backend_without_scores_offers_none(evaluate):
    server = ChatServer(lambda body, count: completion("x"))
    model = EvaluatedModel("m", ModelOptions("endpoint", base_url=server.url))
    assert not model.has_scores and model.identity["engine"] == f"endpoint {server.url}"
    server.close()


def test_a_system_prompt_goes_before_every_question_and_is_kept_in_the_result(evaluate, tmp_path, monkeypatch):
    asked, generate = [], TransformersBackend.generate

    def listening(self, prompts, *arguments, **options):
        asked.extend(prompts)
        return generate(self, prompts, *arguments, **options)

    monkeypatch.setattr(TransformersBackend, "generate", listening)
    assert evaluate()[0] == evaluate("--system-prompt", "Answer in one word.")[0] == 0
    plain, steered = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    assert len(steered) == toy.N, "other prompts are other answers"
    key = [{"role": "system", "content": "Answer in one word."}]
    assert sorted(map(str, steered)) == sorted(str(key + prompt) for prompt in plain)
    other, own = sorted(
        (json.loads(path.read_text())["model"] for path in (tmp_path / "out/results").glob("*.json")), key=len
    )
    assert "system_prompt" not in other and own["system_prompt"] == "Answer in one word."
    assert own["name"].startswith(f"{other['name']}-system-")


def test_a_base_model_gets_the_texts_as_they_are(evaluate, tmp_path, tiny_chat_model):
    assert evaluate("--no-chat-template")[0] == 0
    result = result_of(tmp_path / "out", "tiny-toy.json")
    assert result["model"]["template"] == "none"
    model = EvaluatedModel(str(tiny_chat_model), ModelOptions(chat_template=False))
    examples = [
        {"role": "system", "content": "Sums."},
        {"role": "user", "content": "Q: 1+1\nA:"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Q: 2+2\nA:"},
    ]
    text = model.chat.tokenizer.decode(model.chat.encode(examples))
    assert text == "Sums.\n\nQ: 1+1\nA: 2\n\nQ: 2+2\nA:"


def test_a_base_model_needs_no_chat_template_and_gets_one_bos_where_its_tokenizer_adds_one(tmp_path, tiny_chat_model):
    from tokenizers.processors import TemplateProcessing

    base = tmp_path / "base"
    shutil.copytree(tiny_chat_model, base)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    tokenizer.bos_token = "<|im_start|>"
    start = ("<|im_start|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<|im_start|> $A", special_tokens=[start])
    (base / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(base)
    chat = EvaluatedModel(str(base), ModelOptions(chat_template=False)).chat
    assert chat.tokenizer.decode(chat.encode([{"role": "user", "content": "Q:"}])) == "<|im_start|>Q:"
    with pytest.raises(ModelError, match="chat template"):
        EvaluatedModel(str(base), ModelOptions())


def test_a_run_directory_stands_for_its_policy(evaluate, tmp_path, tiny_chat_model):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("name: x\n")
    code, _, errors = evaluate(model=run)
    assert code == 2 and "the run has no policy" in errors
    (run / "policy").symlink_to(tiny_chat_model)
    assert evaluate(model=run)[0] == 0
    result = result_of(tmp_path / "out", "run-toy.json")
    assert evaluate()[0] == 0
    assert result["model"]["fingerprint"] == result_of(tmp_path / "out", "tiny-toy.json")["model"]["fingerprint"]


def test_an_adapter_is_named_with_its_base(tmp_path, tiny_chat_model, evaluate):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_chat_model)
    adapted = get_peft_model(base, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_chat_model)
    adapted.save_pretrained(tmp_path / "adapter")
    for path in tiny_chat_model.glob("*token*"):
        shutil.copy(path, tmp_path / "adapter")
    for path in tiny_chat_model.glob("chat_template*"):
        shutil.copy(path, tmp_path / "adapter")
    code, _, errors = evaluate(model=tmp_path / "adapter")
    assert code == 0, errors
    assert result_of(tmp_path / "out", "adapter-toy.json")["model"]["adapter"] == "tiny"


@pytest.mark.slow
def test_killed_where_it_generates_judges_or_scores_it_ends_with_the_same_result(tmp_path, tiny_chat_model):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killable_command"])

    def go(work: Path, place: str, times: int) -> int:
        toy.write_data(work / "data")
        judge = ["--judge", str(tiny_chat_model), "--device", "cpu", "--batch-size", "4", "--allow-incomplete"]
        options = ["--suite", "toys", "--data-dir", "data", "--out", "out", *judge]
        started = context.Event()
        arguments = (["evaluate", "model", str(tiny_chat_model), *options], work, started, place, times)
        process = context.Process(target=toy.command_until, args=arguments)
        process.start()
        process.join(300)
        return process.exitcode

    results = []
    for place, times in [("", 0), ("generation", 3), ("judging", 1), ("scoring", 2)]:
        work = tmp_path / f"{place}-work"
        (work / "here").mkdir(parents=True)
        if place:
            assert go(work / "here", place, times) == -9
            assert not (work / "here/out/results").exists()
        assert go(work / "here", "", 0) == 0, (work / "said").read_text()
        results.append(without_times(result_of(work / "here/out", "tiny-toys.json")))
    assert all(one == results[0] for one in results)
