"""Extending a query set: rows and provenance, drops with reasons, the end without new queries, and resuming."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from selfsteer.backends import Completion
from selfsteer.backends.scripted import ScriptedBackend
from selfsteer.config import growth_from
from selfsteer.errors import BudgetReached, ConfigError, DataError, WorkFailed
from selfsteer.experimental.augment import augment
from selfsteer.loop import generate
from selfsteer.queries import load_queries
from selfsteer.records import Query, read_rows
from tests.backends.chat_server import ChatServer, metered, scripted
from tests.killable import grow_slowly
from tests.run_helpers import contrasts, scripted_recipe, without_reports

SEEDS = [
    {"id": "s1", "prompt": "Why do leaves turn red in autumn, and why do some stay green?"},
    {"id": "s2", "instruction": "Sort these numbers.", "input": "7, 3, 9"},
    {"id": "s3", "question": "Write a short story about a lighthouse keeper and his dog."},
    {"id": "s4", "prompt": "How can I learn to cook rice without burning it?"},
]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return write(tmp_path_factory.mktemp("seeds") / "seeds.jsonl", SEEDS)


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def growth(seeds: Path, *settings: str, method: str = "self-instruct"):
    return growth_from(
        [f"queries.source={seeds}", f"augment.method={method}", "generation.backend=scripted", *settings]
    )


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def grow(folder: Path, seeds: Path, count: int, *settings: str, method: str = "self-instruct", **options):
    output = folder / "grown.jsonl"
    return augment(growth(seeds, *settings, method=method), output, folder / "work", count=count, **options), output


@pytest.fixture
def answers(monkeypatch):
    """Let the scripted backend give the answers of a function of the prompt's text; returns the prompts it got."""
    asked: list[str] = []

    def script(answer):
        def generate(self, prompts, sampling, **options):
            asked.extend(prompt[-1]["content"] for prompt in prompts)
            return [Completion(answer(prompt[-1]["content"]), "stop") for prompt in prompts]

        monkeypatch.setattr(ScriptedBackend, "generate", generate)
        return asked

    return script


# ------------------------------------------------------------------------------------------------------ what it makes
@pytest.mark.parametrize("method", ["self-instruct", "evolve"])
def test_it_grows_as_many_as_are_wanted_and_the_reader_takes_them(tmp_path, seeds, method):
    found, output = grow(tmp_path, seeds, 30, method=method)
    assert found.kept == 30 and found.seeds == 4
    loaded = load_queries(str(output))
    made = rows(output)
    assert [query.id for query in loaded.queries] == [row["id"] for row in made] and loaded.dropped == []
    assert [query.prompt[0]["content"] for query in loaded.queries] == [row["prompt"] for row in made]
    assert {query.source for query in loaded.queries} == {row["source"] for row in made}
    for row in made:  # an id is that which the reader makes of the text
        [query] = load_queries(str(write(tmp_path / "one.jsonl", [row["prompt"]]))).queries
        assert query.id == row["id"]


def test_provenance_names_what_a_query_was_made_of(tmp_path, seeds):
    _, output = grow(tmp_path, seeds, 40, "seed=3", "generation.temperature=0.5", method="evolve")
    made = rows(output)
    known = {row["id"]: 0 for row in SEEDS}
    rounds = set()
    for row in made:
        origin = row["provenance"]
        assert (origin["method"], origin["template"], origin["backend"], origin["model"]) == (
            "evolve", "evolve v1", "scripted", "scripted",
        )  # fmt: skip
        assert origin["seed"] == 3 and origin["sampling"].startswith("temperature 0.5, top_p 0.95")
        assert row["source"] == f"augment:{origin['operation']}"
        [parent] = origin["seeds"]
        assert origin["depth"] == known[parent] + 1 <= 4, "a parent is a seed or a query of an earlier round"
        rounds.add(origin["round"])
        known[row["id"]] = origin["depth"]
    assert {row["provenance"]["operation"] for row in made} == {
        "constrain",
        "deepen",
        "concretise",
        "reason",
        "broaden",
    }
    assert max(known.values()) > 1 and len(rounds) > 1


def test_the_rows_made_of_grown_queries_and_their_exports_say_where_these_come_from(tmp_path, seeds, command_line):
    _, output = grow(tmp_path, seeds, 8, method="evolve")
    with without_reports():
        generate(scripted_recipe(output, 2, quality={"filters": ["identical"]}), tmp_path / "run")
    grown = {row["id"]: row for row in rows(output)}
    made = contrasts(tmp_path / "run")
    assert len(made) == 6
    for row in made:
        origin = grown[row.id]["provenance"]
        assert row.provenance["source"] == f"augment:{origin['operation']}" == grown[row.id]["source"]
        names = ("model", "weights", "sampling", "template", "depth", "seeds")
        assert {name.removeprefix("query_"): text for name, text in row.provenance.items() if "query_" in name} == {
            name: ", ".join(origin[name]) if name == "seeds" else str(origin[name]) for name in names if origin[name]
        }
        assert row.provenance["model"] == "scripted" and row.provenance["seed"] == "0"
    (heldout,) = (tmp_path / "run/round-01/queries").glob("*heldout.parquet")
    assert {query.provenance["template"] for query in read_rows([heldout], Query)} == {"evolve v1"}
    code, _, errors = command_line("export", tmp_path / "run", "--format", "trl", "--output", tmp_path / "set")
    assert code == 0, errors
    card = (tmp_path / "set/README.md").read_text(encoding="utf-8")
    assert "| query\\_template | evolve v1 |" in card and "| source | augment:" in card
    [shard] = (tmp_path / "set/data").iterdir()
    shown = [json.loads(text) for text in pq.read_table(shard)["provenance"].to_pylist()]
    assert sorted(one["query_seeds"] for one in shown) == sorted(row.provenance["query_seeds"] for row in made)


def test_examples_are_given_and_grown_queries(tmp_path, seeds):
    found, output = grow(
        tmp_path, seeds, 60, "augment.in_context=4", "augment.in_context_grown=2", "augment.per_request=3"
    )
    given = {row["id"] for row in SEEDS}
    first, *_, last = rows(output)
    assert set(first["provenance"]["seeds"]) == given, "there is nothing grown yet"
    assert len(last["provenance"]["seeds"]) == 4 and len(set(last["provenance"]["seeds"]) & given) == 2
    assert found.operations == {"self-instruct": 60}


def test_the_request_shows_the_examples_and_says_how_many(tmp_path, seeds, answers):
    asked = answers(lambda text: "1. Which of the planets has the most moons?")
    with pytest.raises(WorkFailed):
        grow(tmp_path, seeds, 5, "augment.per_request=7")
    assert "numbered list from 1 to 7" in asked[0]
    assert all(text in asked[0] for text in (SEEDS[0]["prompt"], "Sort these numbers.\n\n7, 3, 9"))


def test_markup_in_a_seed_is_never_run(tmp_path, answers):
    seeds = write(tmp_path / "seeds.jsonl", ["{{ 7 * 7 }} {% for %} What does this template print?"])
    asked = answers(lambda text: "<request>What does this print?</request>")
    with pytest.raises(WorkFailed):
        grow(tmp_path, seeds, 2, method="evolve")
    assert "{{ 7 * 7 }} {% for %} What does this template print?" in asked[0]


def test_another_seed_grows_others(tmp_path, seeds):
    texts = set()
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        _, output = grow(tmp_path / str(seed), seeds, 10, f"seed={seed}")
        texts.add(output.read_text())
    assert len(texts) == 2


# ------------------------------------------------------------------------------------------------------ what it drops
ANSWERS = (
    "1. Why do leaves turn red in autumn, and why do some stay green?\n"  # a seed
    "2. Why do leaves turn red in autumn and why do some stay green all year?\n"  # nearly
    "3. Erkläre mir bitte in wenigen Sätzen, warum der Himmel am Abend rot wird und am Mittag blau ist.\n"
    "4. Why me?\n"
    "5. Write a letter to [your landlord] about the heating.\n"
    "6. How many moons does Jupiter have, and which is the largest of them all?\n"  # a benchmark's
    "7. Summarize the following article.\n"
    "8. Which instrument would you choose for a beginner of six years?\n"
    "9. Sure, write one more.\n"
)


def test_each_drop_has_its_reason_and_is_kept(tmp_path, answers):
    long_seeds = write(tmp_path / "seeds.jsonl", [row | {"pad": 1} for row in SEEDS])
    bench = write(
        tmp_path / "bench.jsonl", [{"question": "How many moons does Jupiter have, and which is the largest?"}]
    )
    answers(lambda text: ANSWERS)
    found, output = grow(tmp_path, long_seeds, 1, f"queries.decontaminate=[{bench}]", "queries.decontaminate_ngram=8")
    assert [row["prompt"] for row in rows(output)] == ["Which instrument would you choose for a beginner of six years?"]
    dropped = rows(tmp_path / "work/dropped.jsonl")
    first = {row["check"]: row for row in dropped[:8]}
    assert list(first) == [
        "duplicate", "near_duplicate", "language", "too_short", "placeholder", "contaminated", "incomplete", "meta",
    ]  # fmt: skip
    assert first["duplicate"]["of"] == first["near_duplicate"]["of"] == "s1"
    assert first["contaminated"]["benchmark"] == str(bench) and first["contaminated"]["row"] == f"{bench}:1"
    assert all(row["reason"] and row["provenance"]["method"] == "self-instruct" for row in dropped)
    # The three other requests of the first round gave the same, so that all nine were repetitions or worse.
    assert sum(found.dropped.values()) == len(dropped) == 4 * 9 - 1
    assert found.dropped["duplicate"] == 4 + 3


LONG = " ".join(
    f"The {place} ward has {place} beds and word{place} nurses who work at night." for place in range(2, 20)
)


def original(prompt: str) -> str:
    """The query that a request for evolving shows."""
    return prompt.partition("<original>\n")[2].partition("\n</original>")[0]


def test_a_long_query_is_evolved_though_most_of_it_stays(tmp_path, answers):
    """Each form is nearly the same as all it was made of, by what the near duplicates of others are told."""
    steps = [" Use at most fifty words.", " Name one concrete risk first.", " Then compare two hospitals abroad."]
    seeds = write(tmp_path / "seeds.jsonl", [{"id": "s", "prompt": f"What is wrong here? {LONG}"}])

    def answer(prompt):
        text = original(prompt)
        return f"<request>{text}{steps[sum(step in text for step in steps)]}</request>"

    answers(answer)
    _, output = grow(tmp_path, seeds, 3, "augment.max_depth=3", "generation.batch_size=1", method="evolve")
    first, second, third = rows(output)
    assert [row["provenance"]["seeds"] for row in (first, second, third)] == [["s"], [first["id"]], [second["id"]]]
    assert third["prompt"] == f"What is wrong here? {LONG}{''.join(steps)}"


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("{}", "duplicate"),
        ("{}  ", "duplicate"),
        ("Please! {}", "near_duplicate"),
        ('"{}" Thank you.', "near_duplicate"),
        ("{} Use no table.", "near_duplicate"),
        ("{} Use no more than one table.", None),
    ],
)
def test_what_hardly_changes_a_long_query_repeats_it(tmp_path, answers, change, check):
    seeds = write(tmp_path / "seeds.jsonl", [{"id": "s", "prompt": f"What is wrong here? {LONG}"}])
    answers(lambda prompt: f"<request>{change.format(original(prompt))}</request>")
    settings = ["augment.patience=1", "augment.max_depth=1", "generation.batch_size=1"]
    if check is None:
        assert grow(tmp_path, seeds, 1, *settings, method="evolve")[0].kept == 1
    else:
        with pytest.raises(WorkFailed):
            grow(tmp_path, seeds, 1, *settings, method="evolve")
        [dropped] = rows(tmp_path / "work/dropped.jsonl")
        assert (dropped["check"], dropped["of"]) == (check, "s")


def test_forms_of_one_query_are_compared_with_each_other(tmp_path, answers):
    seeds = write(tmp_path / "seeds.jsonl", [{"id": "s", "prompt": f"What is wrong here? {LONG}"}])
    steps = iter([" Use at most fifty words.", " Name one concrete risk first."])
    answers(lambda prompt: f"<request>{original(prompt)}{next(steps)}</request>")
    settings = ["augment.patience=1", "augment.max_depth=1", "generation.batch_size=1"]
    with pytest.raises(WorkFailed, match="only 1 of 2"):
        grow(tmp_path, seeds, 2, *settings, method="evolve")
    [kept], [dropped] = rows(tmp_path / "grown.jsonl"), rows(tmp_path / "work/dropped.jsonl")
    assert (dropped["check"], dropped["of"]) == ("near_duplicate", kept["id"])


def test_what_can_not_be_read_is_counted_and_kept(tmp_path, seeds, answers):
    answers(lambda text: "I'd rather not.")
    with pytest.raises(WorkFailed, match="unreadable"):
        grow(tmp_path, seeds, 5)
    assert {(row["check"], row["reason"], row["prompt"]) for row in rows(tmp_path / "work/dropped.jsonl")} == {
        ("unreadable", "no numbered list", "I'd rather not.")
    }


def test_checks_can_be_switched_off_and_languages_named(tmp_path, seeds, answers):
    answers(lambda text: ANSWERS)
    off = ["queries.near_duplicates=null", "queries.min_chars=null", "queries.languages=any"]
    found, _ = grow(tmp_path, seeds, 4, *off)
    assert not {"near_duplicate", "too_short", "language"} & found.dropped.keys() and found.languages is None
    (tmp_path / "de").mkdir()
    found, output = grow(tmp_path / "de", seeds, 1, "queries.languages=[de]", "queries.min_chars=30")
    assert found.languages == ["de"] and rows(output)[0]["prompt"].startswith("Erkläre")


def test_seeds_that_can_not_serve_are_counted(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    source = write(tmp_path / "seeds.jsonl", [*SEEDS, {"messages": turns}, "x" * 2001, "", SEEDS[0]["prompt"]])
    found, _ = grow(tmp_path, source, 5)
    assert found.seeds == 4
    assert found.unused_seeds == {"several messages": 1, "longer than max_chars": 1, "empty or repeated": 2}
    with pytest.raises(DataError, match="no usable seed: several messages 1"):
        grow(tmp_path, write(tmp_path / "turns.jsonl", [{"messages": turns}]), 6)


# ------------------------------------------------------------------------------------------------- where it stops
def test_it_stops_where_nothing_new_comes_and_keeps_what_came(tmp_path, seeds, answers):
    asked = answers(lambda text: "1. Which of the planets has the most moons?\n2. How deep is the sea near Japan?")
    with pytest.raises(WorkFailed, match="only 2 of 9 queries: the last 3 rounds gave almost none") as caught:
        grow(tmp_path, seeds, 9)
    assert caught.value.exit_code == 1 and "duplicate" in caught.value.what
    assert len(rows(tmp_path / "grown.jsonl")) == 2
    assert len(asked) == 4 + 8 + 16 + 16, "the first round brings two, the next three nothing"
    with pytest.raises(WorkFailed, match="only 2 of 9"):
        grow(tmp_path, seeds, 9)
    assert len(asked) == 44, "a second call asks for nothing"


def test_giving_up_leaves_a_larger_file_as_it_was(tmp_path, seeds, monkeypatch):
    _, output = grow(tmp_path, seeds, 20)
    before = output.read_bytes()
    with pytest.raises(WorkFailed, match=r"only 0 of 20 .*work/kept\.jsonl; .*grown\.jsonl is kept"):
        grow(tmp_path, seeds, 20, "queries.min_chars=1900")
    assert output.read_bytes() == before and rows(tmp_path / "work/kept.jsonl") == []
    monkeypatch.setattr(ScriptedBackend, "generate", lambda *a, **k: pytest.fail("asked again"))
    assert grow(tmp_path, seeds, 20)[0].kept == 20, "it is known for what it was, and nothing is done"


def test_giving_up_with_more_than_before_is_written(tmp_path, seeds, answers):
    texts = ["1. Which of the planets has the most moons?", "2. How deep is the sea near Japan?", "3. Who built Rome?"]
    for count in (1, 3, 2):
        answers(lambda text, count=count: "\n".join(texts[:count]))
        with pytest.raises(WorkFailed, match=f"only {count} of 9"):
            grow(tmp_path, seeds, 9, f"seed={count}")
        assert len(rows(tmp_path / "work/kept.jsonl")) == count
        assert len(rows(tmp_path / "grown.jsonl")) == max(count, {2: 3}.get(count, 0))


def test_more_patience_tries_longer(tmp_path, seeds, answers):
    asked = answers(lambda text: "no")
    with pytest.raises(WorkFailed, match="last 1 rounds"):
        grow(tmp_path, seeds, 9, "augment.patience=1")
    assert len(asked) == 4


def test_a_round_with_the_prompts_of_an_earlier_one_is_asked_anew(tmp_path, answers):
    seeds = write(tmp_path / "one.jsonl", SEEDS[:1])
    asked = answers(lambda text: "1. Why?")
    with pytest.raises(WorkFailed, match="too_short 12"):
        grow(tmp_path, seeds, 1, "generation.batch_size=4")
    assert len(asked) == 3 * 4 and len(set(asked)) == 1


# ------------------------------------------------------------------------------------------------------- going on
def test_a_second_call_does_nothing_and_a_higher_count_goes_on(tmp_path, seeds, monkeypatch):
    calls = []
    asked = ScriptedBackend.generate
    monkeypatch.setattr(ScriptedBackend, "generate", lambda *a, **k: calls.append(1) or asked(*a, **k))
    first, output = grow(tmp_path, seeds, 20, method="evolve")
    before = output.read_bytes()
    rounds = len(calls)
    stamp = output.stat().st_mtime_ns
    again, _ = grow(tmp_path, seeds, 20, method="evolve")
    assert again == first and output.stat().st_mtime_ns == stamp and len(calls) == rounds
    grow(tmp_path, seeds, 60, method="evolve")
    assert output.read_bytes().startswith(before) and len(rows(output)) == 60
    (tmp_path / "apart").mkdir()
    calls.clear()
    _, whole = grow(tmp_path / "apart", seeds, 60, method="evolve")
    assert whole.read_bytes() == output.read_bytes(), "the same as if so many had been wanted at once"


def test_a_lost_output_is_written_again_from_the_answers(tmp_path, seeds, monkeypatch):
    _, output = grow(tmp_path, seeds, 20)
    before = output.read_bytes()
    output.unlink()
    monkeypatch.setattr(ScriptedBackend, "generate", lambda *a, **k: pytest.fail("asked again"))
    grow(tmp_path, seeds, 20)
    assert output.read_bytes() == before


def test_a_changed_seed_file_or_setting_is_grown_anew(tmp_path, seeds):
    _, output = grow(tmp_path, seeds, 10)
    before = output.read_bytes()
    assert grow(tmp_path, seeds, 10, "generation.batch_size=1")[0].rounds > 1
    grow(tmp_path, seeds, 10, "generation.max_new_tokens=500")
    other = write(tmp_path / "other.jsonl", SEEDS[:2])
    grow(tmp_path, other, 10)
    assert output.read_bytes() != before


def test_a_file_of_somebody_else_is_not_replaced(tmp_path, seeds):
    output = write(tmp_path / "grown.jsonl", ["precious"])
    with pytest.raises(ConfigError, match="not written by this command") as caught:
        grow(tmp_path, seeds, 3)
    assert caught.value.where == str(output) and "precious" in output.read_text()
    grow(tmp_path, seeds, 3, overwrite=True)
    assert len(rows(output)) == 3
    output.write_text("mine now\n")
    with pytest.raises(ConfigError, match="changed since"):
        grow(tmp_path, seeds, 4)


@pytest.mark.parametrize("place", ["seeds", "folder", "benchmark", "run directory", "its own"])
def test_what_is_read_is_never_written(tmp_path, place):
    (tmp_path / "data").mkdir()
    source = write(tmp_path / "data/seeds.jsonl", SEEDS)
    bench = write(tmp_path / "bench.jsonl", ["Who built the lighthouse of Alexandria?"])
    dropped = write(tmp_path / "dropped.jsonl", SEEDS)
    seeds, output, work, told = {
        "seeds": (source, tmp_path / "data/../data/seeds.jsonl", "work", "seeds.jsonl"),
        "folder": (source.parent, source.parent / "grown.jsonl", "work", "grown.jsonl"),
        "benchmark": (source, bench, "work", "bench.jsonl"),
        "run directory": (dropped, tmp_path / "grown.jsonl", ".", "dropped.jsonl"),
        "its own": (source, tmp_path / "work/kept.jsonl", "work", "--output"),
    }[place]
    settings = growth(seeds, f"queries.decontaminate=[{bench}]")
    with pytest.raises(ConfigError, match=r"queries are read from there|file of the run directory") as caught:
        augment(settings, output, tmp_path / work, count=3, overwrite=True)
    assert caught.value.where.endswith(told)
    assert rows(source) == rows(dropped) == SEEDS and sorted(path.name for path in source.parent.iterdir()) == [
        "seeds.jsonl"
    ]


@pytest.mark.parametrize("method", [pytest.param("self-instruct", marks=pytest.mark.slow), "evolve"])
def test_killed_at_random_moments_it_ends_with_the_same_rows(tmp_path, seeds, method):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.killable"])
    values = growth(seeds, "generation.batch_size=4", method=method).model_dump(exclude_unset=True)

    def go(folder: Path, kill_after: float | None = None) -> int:
        started = processes.Event()
        arguments = (values, folder / "grown.jsonl", folder / "work", 80, folder / "log", started)
        folder.mkdir(exist_ok=True)
        process = processes.Process(target=grow_slowly, args=arguments)
        process.start()
        assert started.wait(60)
        if kill_after is not None:
            time.sleep(kill_after)
            process.kill()
        process.join(120)
        return process.exitcode

    began = time.monotonic()
    assert go(tmp_path / "whole") == 0
    seconds = time.monotonic() - began
    moments, kills = random.Random(7), 0
    while kills < 4:
        code = go(tmp_path / "killed", moments.uniform(0.1, 0.6) * seconds)
        assert code in (0, -signal.SIGKILL)
        if code == 0:
            break
        kills += 1
    assert kills and go(tmp_path / "killed") == 0
    for name in ("grown.jsonl", "work/dropped.jsonl", "work/augment.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    asked = [len((tmp_path / name / "log").read_text().splitlines()) for name in ("whole", "killed")]
    assert asked[0] <= asked[1] <= asked[0] + kills, "a kill repeats one batch at most"
    for folder in (tmp_path / "killed", tmp_path / "killed/work"):
        assert not list(folder.glob(".*.tmp"))


# --------------------------------------------------------------------------------------------------------- endpoints
def test_a_server_grows_queries_and_its_cap_holds(tmp_path, seeds, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    server = ChatServer(lambda request, count: metered(scripted(request, count), 100, 50))
    try:
        settings = [
            "generation={backend: endpoint, max_new_tokens: 150}", "generation.endpoint.model=scripted",
            f"generation.endpoint.base_url={server.url}", "generation.endpoint.max_total_tokens=4000",
        ]  # fmt: skip
        with pytest.raises(BudgetReached):
            grow(tmp_path, seeds, 1000, *settings)
        assert not (tmp_path / "grown.jsonl").exists()
        found, output = grow(tmp_path, seeds, 10, *settings)
        assert found.kept == 10 and rows(output)[0]["provenance"]["backend"] == "endpoint"
    finally:
        server.close()


# ------------------------------------------------------------------------------------------------------ wrong settings
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("augment.metod=evolve", "unknown key 'augment.metod'"),
        ("augment.method=breed", "wrong value for 'augment.method'"),
        ("augment.operations=[constrain]", "operations is about evolve, and method is self-instruct"),
        ("augment.in_context_grown=8", "leaves no room for seeds"),
        ("generation.thinking=response", "thoughts are not part of a query"),
        ("generation.roles.original.temperature=0", "queries have no roles"),
        ("queries.heldout=3", "unknown key 'queries.heldout'"),
        ("queries.min_chars=3000", "min_chars 3000 is more than max_chars 2000"),
        ("queries.decontaminate_ngram=8", "needs benchmarks: set decontaminate"),
        ("queries.decontaminate=[{sorce: a}]", "unknown key 'queries.decontaminate.0.sorce'"),
        ("queries.near_duplicates=0", "more than 0"),
        ("queries.languages=seed", "wrong value for 'queries.languages': it takes 'seeds' or 'any'"),
        ("train.beta=1", "unknown key 'train'"),
    ],
)
def test_wrong_settings_are_told(seeds, setting, words):
    with pytest.raises(ConfigError) as caught:
        growth(seeds, setting)
    assert words in caught.value.what and setting in caught.value.where


def test_an_output_is_json_lines(tmp_path, seeds):
    with pytest.raises(ConfigError, match=r"grown\.csv"):
        augment(growth(seeds), tmp_path / "grown.csv", tmp_path / "work", count=3)


def test_the_command_prints_a_table_without_torch(tmp_path, seeds):
    code = (
        "import sys; sys.argv = ['selfsteer', *sys.argv[1:]]\n"
        "import selfsteer.cli\n"
        "selfsteer.cli.main() if 0 else selfsteer.cli.app(standalone_mode=False)\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    output = tmp_path / "grown.jsonl"
    command = ["augment", str(seeds), "--output", str(output), "--count", "12", "generation.backend=scripted"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "kept" in done.stdout and "12" in done.stdout and str(tmp_path / "grown.jsonl.run") in done.stdout
    assert len(rows(output)) == 12
