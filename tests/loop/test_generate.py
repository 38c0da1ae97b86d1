"""`generate`: the data stages alone, at any size, with servers that fail and cost money."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from selfsteer.backends.endpoint import EndpointBackend
from selfsteer.config import QualitySettings, Recipe
from selfsteer.errors import BudgetReached, ConfigError, DataError, WorkFailed
from selfsteer.loop import generate, run
from selfsteer.records import Response, read_rows
from selfsteer.report import write_report
from selfsteer.runs.progress import Display
from tests.backends.chat_server import ChatServer, Reply, completion, failure, metered, scripted
from tests.run_helpers import contrasts, scripted_recipe, small_recipe, without_reports

KEY = "sk-very-secret-1234567890"


@pytest.fixture(autouse=True)
def no_reports():
    with without_reports():
        yield


@pytest.fixture
def served(monkeypatch):
    """Start servers that answer as a script says, with usage: 100 tokens a prompt, one a word of the answer."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    servers = []

    def serve(answer=scripted) -> ChatServer:
        def counted(request, count) -> Reply:
            reply = answer(request, count)
            if reply.status != 200 or not reply.body["choices"]:
                return reply
            words = len(reply.body["choices"][0]["message"]["content"].split())
            return metered(reply, 100, words)

        servers.append(ChatServer(counted))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def endpoint_recipe(queries: Path, server: ChatServer, **settings) -> Recipe:
    endpoint = {"model": "scripted", "base_url": server.url, "max_retries": 0} | settings
    generation = {"backend": "endpoint", "max_new_tokens": 18, "batch_size": 8, "endpoint": endpoint}
    return scripted_recipe(queries, 0, generation=generation)


def asked_of(server: ChatServer) -> list[str]:
    """The last user turn of each request for a response, as opposed to a choice of aspects."""
    return [body["messages"][-1]["content"] for body in server.bodies if body["temperature"] > 0]


def bill(run_dir: Path) -> int:
    lines = [json.loads(line) for line in (run_dir / "usage.jsonl").read_text().splitlines()]
    return sum(line["prompt_tokens"] + line["completion_tokens"] for line in lines)


def test_it_makes_the_rows_of_a_round_and_measures_nothing(tmp_path, queries):
    summary = generate(scripted_recipe(queries), tmp_path / "run")
    assert summary["policies"] == [] and summary["mode"] == "data-only"
    assert summary["rounds"][0]["quality"]["total"] == 7 and len(contrasts(tmp_path / "run")) == 7
    assert not (tmp_path / "run/round-00").exists(), "held-out queries are split off, and not answered"


def test_few_kept_rows_are_told_each_time_with_what_to_relax(tmp_path):
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(f"Tell me something about number {i} and the river." for i in range(40)))
    generation = {"backend": "scripted", "max_new_tokens": 90}

    def told(ratio):
        recipe = scripted_recipe(
            queries, 0, generation=generation, quality={"filters": [{"length_ratio": {"max_ratio": ratio}}]}
        )
        output = StringIO()
        summary = generate(recipe, tmp_path / "run", display=Display(Console(file=output, width=500)))
        found = summary["rounds"][0]["quality"]
        lines = [line for line in output.getvalue().splitlines() if "only" in line]
        assert lines == [f"quality control, round 1: {found['few_kept']}"] * bool(found["few_kept"])
        return found["few_kept"]

    for _ in range(2):
        assert re.match(
            r"only \d of 40 rows .* 'length_ratio' dropped most .*: raise length_ratio.max_ratio", told(2.1)
        )
    assert told(20.0) == ""


def test_a_run_finds_done_what_was_generated(tmp_path, queries, tiny_chat_model):
    recipe = small_recipe(tiny_chat_model, queries, queries__heldout=0)
    generate(recipe, tmp_path / "run")
    summary = run(recipe, tmp_path / "run")
    reused = {stage["stage"]: stage["reused"] for stage in summary["stages"]}
    assert [name for name, done in reused.items() if not done] == ["train, round 1"]


def test_an_endpoint_gives_the_rows_that_its_server_writes(tmp_path, queries, served):
    server = served()
    generate(endpoint_recipe(queries, server), tmp_path / "run")
    rows = contrasts(tmp_path / "run")
    assert len(rows) == 10 and all(row.positive_response.endswith(".") for row in rows)
    assert len(asked_of(server)) == 30
    assert rows[0].provenance["backend"] == "endpoint" and rows[0].provenance["model"] == "scripted"
    assert rows[0].scores is None and rows[0].prompt_token_ids is None
    assert bill(tmp_path / "run") > 0


def test_the_key_is_written_nowhere(tmp_path, queries, served):
    server = served(lambda request, count: scripted(request, count) if count % 9 else failure(400, f"no {KEY}"))
    generate(endpoint_recipe(queries, server), tmp_path / "run")
    assert server.requests[0][1]["authorization"] == f"Bearer {KEY}"
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_the_cap_is_never_exceeded_and_what_was_paid_for_is_kept(tmp_path, queries, served):
    first = served()
    with pytest.raises(BudgetReached) as error:
        generate(endpoint_recipe(queries, first, max_total_tokens=3000), tmp_path / "run")
    assert error.value.exit_code == 1 and "max_total_tokens" in error.value.do
    assert 0 < bill(tmp_path / "run") <= 3000
    paid = {
        (row.id, row.role) for row in read_rows(sorted((tmp_path / "run").rglob("responses/**/*.parquet")), Response)
    }
    assert len(paid) == len(asked_of(first)) > 0

    second = served()
    generate(endpoint_recipe(queries, second, max_total_tokens=100_000), tmp_path / "run")
    assert len(contrasts(tmp_path / "run")) == 10
    assert len(asked_of(first)) + len(asked_of(second)) == 30, "nothing is paid for twice"


def test_connections_are_closed_when_a_stage_fails(tmp_path, queries, served, monkeypatch):
    closed: list[EndpointBackend] = []
    monkeypatch.setattr(EndpointBackend, "close", lambda self: closed.append(self))
    with pytest.raises(BudgetReached):
        generate(endpoint_recipe(queries, served(), max_total_tokens=3000), tmp_path / "run")
    assert len(closed) == 1
    monkeypatch.undo()
    closed[0].close()


def test_it_says_what_is_left_at_the_cap(tmp_path, queries, served):
    script = "import sys; from selfsteer.cli import main; sys.argv = ['selfsteer', *sys.argv[1:]]; main()"
    endpoint = f"{{model: scripted, max_total_tokens: 3000, base_url: '{served().url}'}}"
    settings = f"generation={{backend: endpoint, max_new_tokens: 18, batch_size: 8, endpoint: {endpoint}}}"
    command = [sys.executable, "-c", script, "generate", "scripted", f"queries={queries}", "queries.heldout=0",
               settings, "--run-dir", str(tmp_path / "run")]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1, found.stderr
    assert "are left, the others are on disk" in found.stderr and "Traceback" not in found.stderr
    assert "max_total_tokens" in found.stderr


def test_rows_that_failed_are_asked_again_at_the_end(tmp_path, queries, served):
    seen: set[str] = set()

    def flaky(request, count):
        content = str(request["messages"])
        if "number 3 " in content and content not in seen:
            seen.add(content)
            return failure(500, "try later")
        return scripted(request, count)

    generate(endpoint_recipe(queries, served(flaky), concurrency=1), tmp_path / "run")
    assert len(contrasts(tmp_path / "run")) == 10
    noted = [json.loads(line) for line in (tmp_path / "run/failures.jsonl").read_text().splitlines()]
    assert noted and all("try later" in line["reason"] for line in noted)


def test_rows_that_fail_to_the_last_stop_the_run_or_are_left_out(tmp_path, queries, served):
    def broken(request, count):
        return failure(500, "no") if "number 3 " in str(request["messages"]) else scripted(request, count)

    recipe = endpoint_recipe(queries, served(broken), concurrency=1)
    with pytest.raises(WorkFailed, match="1 requests still fail"):
        generate(recipe, tmp_path / "run")
    dropping = endpoint_recipe(queries, served(broken), concurrency=1, failed="drop")
    summary = generate(dropping, tmp_path / "run")
    assert len(contrasts(tmp_path / "run")) == 9
    (drop,) = summary["rounds"][0]["queries"]["dropped"]
    assert "500" in drop["reason"] and summary["rounds"][0]["queries"]["left_out"] == 1


def test_a_query_that_the_server_refuses_is_left_out_and_named(tmp_path, queries, served):
    def picky(request, count):
        bad = "number 3 " in str(request["messages"]) and request["temperature"] > 0
        return failure(400, "content filter") if bad else scripted(request, count)

    summary = generate(endpoint_recipe(queries, served(picky)), tmp_path / "run")
    assert len(contrasts(tmp_path / "run")) == 9
    (drop,) = summary["rounds"][0]["queries"]["dropped"]
    assert "content filter" in drop["reason"]


def test_a_blocked_query_is_named_and_paid_for_once(tmp_path, queries, served, capfd):
    """Another request fails, so the run stops; the same command asks for that one alone."""
    broken = [True]

    def answer(request, count):
        asked = request["messages"][-1]["content"]
        if "number 3 " in asked:
            return Reply({"choices": []})
        return failure(500, "busy") if broken[0] and "number 5 " in asked else scripted(request, count)

    recipe = endpoint_recipe(queries, served(answer), concurrency=1)
    with pytest.raises(WorkFailed, match="still fail"):
        generate(recipe, tmp_path / "run")
    broken[0], again = False, served(answer)
    summary = generate(endpoint_recipe(queries, again, concurrency=1), tmp_path / "run", display=Display())
    assert not any("number 3 " in str(body["messages"]) for body in again.bodies)
    assert summary["rounds"][0]["queries"]["left_out"] == 1
    [dropped] = summary["rounds"][0]["queries"]["dropped"]
    assert "content filter blocks it" in dropped["reason"]
    said = capfd.readouterr().err
    assert f"1 left out ({dropped['reason']} (1 rows, first at {dropped['where']}); see " in said


@pytest.mark.parametrize(
    ("reply", "what", "do"),
    [
        (failure(400, "the tenant must be set"), "the tenant must be set", "change the settings or the prompts"),
        (failure(400, "maximum context length is 10 tokens"), "too long", "generation.max_new_tokens"),
        (Reply({"choices": []}), "content filter", "another server or model"),
    ],
)
@pytest.mark.parametrize("strategy", ["fixed", "guideline"])
def test_where_every_request_is_refused_the_reason_is_said_with_what_helps(
    tmp_path, queries, served, reply, what, do, strategy
):
    recipe = endpoint_recipe(queries, served(lambda request, count: reply))
    few = recipe.model_copy(
        update={
            "queries": recipe.queries.model_copy(update={"limit": 3, "heldout": 0}),
            "principles": recipe.principles.model_copy(update={"set": "quality", "strategy": strategy}),
            "quality": QualitySettings(filters=[]),
        }
    )
    with pytest.raises(DataError, match=what) as found:
        generate(few, tmp_path / "run")
    assert do in found.value.do and "and 2 more" in found.value.where
    assert ("max_length" in found.value.do or "max_new_tokens" in found.value.do) == (what == "too long")


def test_a_choice_that_fell_back_for_every_query_is_said(tmp_path, queries, served, capfd):
    """The server's model thinks until it is cut off; with room for its thoughts it chooses."""

    def answer(request, count):
        if request["temperature"] > 0:
            return scripted(request, count)
        return completion("", "length") if request["max_tokens"] < 300 else completion("Accuracy, Safety")

    def made(name, **principles):
        recipe = endpoint_recipe(queries, served(answer))
        own = {
            "principles": recipe.principles.model_copy(update={"set": "quality", **principles}),
            "quality": QualitySettings(filters=[]),
        }
        summary = generate(recipe.model_copy(update=own), tmp_path / name, display=Display())
        page = write_report(tmp_path / name).read_text("utf-8")
        return summary["rounds"][0], capfd.readouterr().err, page

    round_, told, page = made("cut", thinking_max_tokens=0)
    count = round_["choices"]["cut"]
    words = f"{count} of {count} choices of aspects fell back to the set's default (100 %): its answer was cut off"
    assert f"warning: {words}" in told and words in page.replace("&#39;", "'") and "thinking_max_tokens" in told
    round_, told, page = made("room", thinking_max_tokens=400)
    assert round_["choices"] == {"model": count} and "fell back" not in told + page


@pytest.mark.parametrize("backend", ["scripted", "endpoint"])
def test_filters_by_log_probs_are_refused_before_anything_is_paid_for(tmp_path, queries, served, backend):
    server = served()
    recipe = endpoint_recipe(queries, server) if backend == "endpoint" else scripted_recipe(queries)
    values = recipe.model_dump() | {"quality": {"filters": ["identical", "preference_order"]}}
    with pytest.raises(ConfigError, match="preference_order use log-probs"):
        generate(Recipe.model_validate(values), tmp_path / "run")
    assert server.requests == [] and not (tmp_path / "run").exists()


def test_thoughts_that_a_server_gives_apart_are_kept_apart(tmp_path, queries, served):
    def thinking(request, count):
        reply = scripted(request, count)
        reply.body["choices"][0]["message"]["reasoning_content"] = "Let me see."
        return reply

    generate(endpoint_recipe(queries, served(thinking)), tmp_path / "run")
    rows = contrasts(tmp_path / "run")
    assert {row.positive_thinking for row in rows} == {"Let me see."}
    assert not any("Let me see" in row.positive_response for row in rows)


def peak_megabytes(folder: Path, count: int) -> float:
    """Generate with so many queries in a process of its own; return its largest resident memory.

    Read from /proc: ``ru_maxrss`` also counts what the process that started it held at that moment, here pytest.
    """
    queries = folder / f"{count}.txt"
    with queries.open("w", encoding="utf-8") as file:
        file.writelines(f"Question number {number}, about rivers and boats?\n" for number in range(count))
    script = (
        "import sys; from pathlib import Path; from selfsteer.cli import main\n"
        "sys.argv = ['selfsteer', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally: print('peak', Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    command = [sys.executable, "-c", script, "generate", "scripted", f"queries={queries}", "queries.heldout=0",
               "generation.batch_size=512", "generation.max_new_tokens=16", "--run-dir", str(folder / f"run-{count}"),
               "--quiet"]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr
    return int(found.stdout.rpartition("peak")[2]) / 1024


def test_memory_does_not_grow_with_the_number_of_queries(tmp_path):
    few, many = peak_megabytes(tmp_path, 2_000), peak_megabytes(tmp_path, 50_000)
    assert many < 600
    assert many < few + 60, "some megabytes for caches of a fixed size"


@pytest.mark.slow
def test_a_million_queries_stream_through(tmp_path):
    assert peak_megabytes(tmp_path, 1_000_000) < 1500


def test_progress_counts_every_stage_from_the_first_on(queries, tmp_path):
    output = StringIO()
    recipe = scripted_recipe(queries, judge={"name": "program:shorter"})
    with without_reports():
        summary = run(recipe, tmp_path / "run", display=Display(Console(file=output, width=500)))
    counts = re.findall(r"^\[(\d+)/(\d+)\].*: done", output.getvalue(), re.MULTILINE)
    stages = len(summary["stages"])
    assert counts == [(str(number), str(stages)) for number in range(1, stages + 1)], "the judge's stage is one of them"
