"""A writer of its own: which model chooses aspects and writes principles, on what its rows depend, what it may cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from selfsteer.backends.base import Sampling
from selfsteer.backends.scripted import ScriptedBackend
from selfsteer.config import Recipe
from selfsteer.errors import BudgetReached, ConfigError, DataError, ModelError
from selfsteer.export.dataset import export_file
from selfsteer.export.options import ExportOptions
from selfsteer.loop import generate, run
from selfsteer.principles import load_set
from selfsteer.records import HARM_UNKNOWN, SteeredQuery, read_rows
from selfsteer.report import write_report
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store
from selfsteer.stages.context import RunContext
from selfsteer.stages.model_pool import ModelPool, Policy
from selfsteer.stages.principles import written_by
from selfsteer.views import View
from selfsteer.workflows.evaluate_signal import evaluate_signal
from selfsteer.workflows.judge import read_pairs
from selfsteer.workflows.row_source import open_source
from tests.backends.chat_server import ChatServer, Reply, completion, failure, metered
from tests.run_helpers import contrasts, scripted_recipe, small_recipe, without_reports


@pytest.fixture(autouse=True)
def no_reports():
    with without_reports():
        yield


@pytest.fixture
def serve(monkeypatch):
    """Start servers that write by the schema of a request, with usage: 1000 tokens a prompt, 10 an answer."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    servers = []

    def start(answer=None) -> ChatServer:
        servers.append(ChatServer(answer or _written))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def _written(request: dict, count: int) -> Reply:
    form = request.get("response_format")
    sampling = Sampling(99, 0.0, 1.0, json_schema=form["json_schema"]["schema"] if form else None)
    (found,) = ScriptedBackend().generate([request["messages"]], sampling, seed=0)
    return metered(completion(found.text), 1000, 10)


def written_recipe(queries: Path, strategy: str = "guideline", heldout: int = 0, **model) -> Recipe:
    principles = {"set": "brief", "strategy": strategy, **({"model": model} if model else {})}
    filters = {"filters": ["identical", "leak"]}
    return scripted_recipe(queries, heldout, principles=principles, quality=filters)


def endpoint_policy(server: ChatServer, **settings) -> dict:
    endpoint = {"model": "policy", "base_url": server.url, "max_retries": 0} | settings
    return {"generation": {"backend": "endpoint", "max_new_tokens": 18, "endpoint": endpoint}}


def with_writer(recipe: Recipe, **sections) -> Recipe:
    return Recipe.model_validate(recipe.model_dump() | sections)


def principled(run_dir: Path) -> list[SteeredQuery]:
    return list(read_rows(sorted((run_dir / "round-01/principles").glob("*.parquet")), SteeredQuery))


def models_of(server: ChatServer) -> set[str]:
    return {body["model"] for body in server.bodies}


# --- who writes


@pytest.mark.parametrize("strategy", ["per_aspect", "guideline"])
def test_a_weightless_policy_with_a_writer_on_this_machine(tmp_path, queries, tiny_chat_model, strategy):
    """Random weights write no JSON, so every row falls back; that they were asked shows in the choices."""
    recipe = written_recipe(queries, strategy, name=str(tiny_chat_model), device="cpu")
    summary = generate(recipe, tmp_path / "run")
    assert summary["rounds"][0]["writings"] == {"cut": 10}
    rows = principled(tmp_path / "run")
    assert all(row.aspects and row.choice in ("model", "fallback", "cut") for row in rows)
    origin = contrasts(tmp_path / "run")[0].provenance
    assert origin["writer"].startswith(f"{tiny_chat_model} ") and origin["model"] == "scripted"
    assert (origin["strategy"], origin["writing"]) == (strategy, "cut")


def test_a_policy_with_weights_and_a_weightless_writer(tmp_path, queries, tiny_chat_model):
    principles = {"set": "brief", "strategy": "guideline", "model": "scripted"}
    recipe = small_recipe(tiny_chat_model, queries, principles=principles | {"model": {"name": "scripted"}})
    generate(recipe, tmp_path / "run")
    rows = contrasts(tmp_path / "run")
    assert {row.provenance["writing"] for row in rows} == {"ok"} and rows[0].provenance["writer"] == "scripted scripted"
    assert {tuple(row.aspects) for row in rows} == {()} and all(row.positive_token_ids for row in rows)


def test_nobody_knows_whether_a_guideline_asks_for_harm(tmp_path, queries):
    summary = generate(written_recipe(queries), tmp_path / "run")
    rows = contrasts(tmp_path / "run")
    assert {row.negative_harmful for row in rows} == {HARM_UNKNOWN}
    assert summary["rounds"][0]["quality"]["harmful"] == {"unknown": len(rows)}
    with pytest.raises(DataError, match="may have been asked to do harm"):
        export_file(rows, ExportOptions("trl", View.NEGATIVE_STRICT), tmp_path / "a.jsonl", where="the run")


def test_a_server_writes_and_its_answers_are_on_the_bill(tmp_path, queries, serve):
    server = serve()
    recipe = written_recipe(queries, "per_aspect", name="endpoint:big", base_url=server.url)
    generate(recipe, tmp_path / "run")
    assert {row.writing for row in principled(tmp_path / "run")} == {"ok"}
    assert models_of(server) == {"big"} and len(server.requests) == 20, "a choice and a pair for each query"
    lines = [json.loads(line) for line in (tmp_path / "run/usage.jsonl").read_text().splitlines()]
    assert lines == [{"prompt_tokens": 1000, "completion_tokens": 10, "model": "big"}] * 20


def test_the_writers_cap_stops_the_run_and_says_which_to_raise(tmp_path, queries, serve):
    server = serve()
    settings = {"name": "endpoint:big", "base_url": server.url, "concurrency": 1, "max_total_tokens": 9000}
    with pytest.raises(BudgetReached, match="cap of 9000 tokens") as caught:
        generate(written_recipe(queries, **settings), tmp_path / "run")
    assert "principles.model.max_total_tokens" in caught.value.do
    asked = len(server.requests)
    assert 0 < asked < 10
    generate(written_recipe(queries, **settings | {"max_total_tokens": 10**6}), tmp_path / "run")
    assert len(server.requests) == 10, "what was paid for is kept"


def test_beside_an_endpoint_as_policy_the_writer_has_its_server_and_its_caps(tmp_path, queries, serve):
    server = serve()
    policy = endpoint_policy(server, max_total_tokens=4000, concurrency=1)
    recipe = with_writer(written_recipe(queries, name="endpoint:big"), **policy)
    with pytest.raises(BudgetReached) as caught:
        generate(recipe, tmp_path / "run")
    assert models_of(server) == {"big"} and "generation.endpoint.max_total_tokens" in caught.value.do
    generate(with_writer(recipe, **endpoint_policy(server)), tmp_path / "run")
    assert models_of(server) == {"big", "policy"}
    bill = [json.loads(line)["model"] for line in (tmp_path / "run/usage.jsonl").read_text().splitlines()]
    assert (bill.count("big"), bill.count("policy")) == (10, 30)


def test_queries_that_the_writers_server_gives_nothing_for_may_be_left_out(tmp_path, queries, serve):
    def answer(body, count):
        return failure(500, "no") if "number 3 " in body["messages"][-1]["content"] else _written(body, count)

    server = serve(answer)
    settings = {"name": "endpoint:big", "base_url": server.url, "max_retries": 0, "failed": "drop"}
    summary = generate(written_recipe(queries, **settings), tmp_path / "run")
    assert summary["rounds"][0]["queries"]["left_out"] == 1 and len(principled(tmp_path / "run")) == 9


def test_a_writer_that_can_not_be_asked_is_refused_before_anything_is_done(tmp_path, queries, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ModelError, match="no base_url"):
        generate(written_recipe(queries, name="endpoint:big"), tmp_path / "run")
    with pytest.raises(ConfigError, match="'nowhere'") as caught:
        generate(written_recipe(queries, name="smollm2-135m", device="nowhere"), tmp_path / "run")
    assert caught.value.where == "principles.model.device"
    assert not (tmp_path / "run").exists()


# --- what the rows depend on


def depends(recipe: Recipe, policy: Policy, tmp_path: Path) -> dict:
    store = Store(tmp_path, Display(quiet=True))
    return written_by(RunContext(recipe, load_set("brief"), store, ModelPool(recipe, tmp_path)), policy)


def test_what_a_writer_of_its_own_writes_does_not_depend_on_the_policys_weights(tmp_path, queries, tiny_chat_model):
    recipe = small_recipe(tiny_chat_model, queries, principles={"strategy": "guideline", "model": {"name": "scripted"}})
    path = str(tiny_chat_model)
    one, other = Policy(0, path, "aaaa"), Policy(0, path, "bbbb")
    assert depends(recipe, one, tmp_path) == depends(recipe, other, tmp_path)
    own = small_recipe(tiny_chat_model, queries, principles={"strategy": "guideline"})
    assert depends(own, one, tmp_path) != depends(own, other, tmp_path)


def test_what_a_writer_here_writes_depends_on_its_template_and_its_engine(tmp_path, queries, tiny_chat_model):
    model = Path(shutil.copytree(tiny_chat_model, tmp_path / "model"))

    def found(**generation) -> dict:
        model_settings = {"strategy": "guideline", "model": {"name": str(model)}}
        recipe = small_recipe(tiny_chat_model, queries, principles=model_settings, generation=generation)
        return depends(recipe, Policy(0, str(tiny_chat_model), "aaaa"), tmp_path)

    before, in_vllm = found(), found(backend="vllm", vllm={"enforce_eager": True})
    assert found(backend="vllm") == in_vllm != found(backend="vllm", vllm={"max_model_len": 99})
    (model / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert found() != before


def stages_done(summary: dict) -> list[str]:
    return [stage["stage"].split(",")[0] for stage in summary["stages"] if not stage["reused"]]


def test_another_strategy_or_writer_writes_anew_and_another_address_does_not(tmp_path, queries, serve):
    one, other = serve(), serve()
    recipe = written_recipe(queries, name="endpoint:big", base_url=one.url)
    generate(recipe, tmp_path / "run")
    moved = written_recipe(queries, name="endpoint:big", base_url=other.url, timeout=9.0)
    assert stages_done(generate(moved, tmp_path / "run")) == []
    bigger = written_recipe(queries, name="endpoint:bigger", base_url=one.url)
    assert "write principles" in stages_done(generate(bigger, tmp_path / "run"))
    aspects = written_recipe(queries, "per_aspect", name="endpoint:big", base_url=one.url)
    assert "write principles" in stages_done(generate(aspects, tmp_path / "run"))


# --- what comes after


def test_a_set_travels_with_every_row_and_so_does_how_it_was_used(tmp_path, queries):
    generate(written_recipe(queries), tmp_path / "run")
    brief = load_set("brief")
    for row in contrasts(tmp_path / "run"):
        assert row.provenance["principle_set"] == f"brief v1 {brief.fingerprint}"
        assert row.provenance["templates"] == "choose_aspects v1, steer v2, write_guideline v1"


def test_the_sets_direction_says_nothing_of_guidelines(tmp_path, queries):
    """The set `brief` would have a program compare lengths."""
    summary = run(written_recipe(queries, heldout=3), tmp_path / "run")
    assert summary["policies"][0]["direction"] is None
    per_aspect = run(written_recipe(queries, "per_aspect", heldout=3), tmp_path / "other")
    assert per_aspect["policies"][0]["direction"] is not None


def test_all_that_reads_a_run_reads_one_without_aspects(tmp_path, queries):
    run_dir = tmp_path / "run"
    run(written_recipe(queries, heldout=3), run_dir)
    (part,) = evaluate_signal(run_dir, overrides={"name": "program:shorter"})["parts"]
    assert part["aspects"] == [] and [group["name"] for group in part["principles"]] == ["written for the query (ok)"]
    pairs, _ = read_pairs([run_dir], by="aspects")
    assert pairs and all(pair.criterion.startswith("keeping to this guideline: Give a short answer") for pair in pairs)
    export_file(open_source(run_dir).rows, ExportOptions("trl"), tmp_path / "pairs.jsonl", where="run")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == len(pairs) and {tuple(row["aspects"]) for row in rows} == {()}
    page = write_report(run_dir).read_text()
    assert "Where the principles come from" in page and "written as asked" in page
