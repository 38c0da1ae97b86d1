"""The queries stage with checks: what is left out, that held-out queries are not, and what the stage depends on."""

from __future__ import annotations

import json
import random
import tracemalloc

import pytest

from selfsteer.config import QuerySettings
from selfsteer.errors import DataError
from selfsteer.loop import generate
from selfsteer.records import Query, read_rows
from selfsteer.runs.ledger import Ledger
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Workspace
from selfsteer.stages.queries import query_files, split_queries
from tests.run_helpers import scripted_recipe, without_reports

QUESTIONS = [f"Question {i}: what happens to the river {i} when it meets the sea number {i}?" for i in range(20)]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


class Split:
    """What the stage wrote for a list of queries and some settings."""

    def __init__(self, folder, rows, seed=0, **settings):
        source = lines(folder / "queries.jsonl", rows)
        space = Workspace(folder, "queries", "key", Display(quiet=True))
        made = QuerySettings.model_validate({"source": source, "heldout": 0} | settings)
        files, result = split_queries(space, made, seed)
        self.info = result.info
        self.left_out = [json.loads(line) for line in space.path("left-out.jsonl").read_text().splitlines()]
        self.train, self.heldout = (
            [query.prompt[-1]["content"] for query in read_rows(query_files(files, split, self.info["heldout"]), Query)]
            for split in ("train", "heldout")
        )


def test_contaminated_queries_are_left_out_with_benchmark_and_words(tmp_path):
    bench = lines(tmp_path / "bench.jsonl", [{"question": QUESTIONS[3]}, {"question": "What is two and two?"}])
    rows = [
        *QUESTIONS[:6],
        {"id": "planted", "prompt": f"Answer this. {QUESTIONS[3].upper()} Thanks."},
        "What is two and two",
    ]
    found = Split(tmp_path, rows, decontaminate=[bench], decontaminate_ngram=13)
    assert found.train == [*QUESTIONS[:3], *QUESTIONS[4:6]]
    assert [(line["check"], line["row"]) for line in found.left_out] == [
        ("contaminated", f"{bench}:1"), ("contaminated", f"{bench}:1"), ("contaminated", f"{bench}:2"),
    ]  # fmt: skip
    assert found.left_out[1]["where"] == "planted"
    assert found.left_out[1]["words"] == "question 3 what happens to the river 3 when it meets the sea"
    assert found.left_out[1]["words"] in found.left_out[1]["reason"] and found.left_out[1]["benchmark"] == bench
    assert found.info["faults"] == {"contaminated": 3} and found.info["contaminated"] == {bench: 3}
    assert found.info["left_out"] == 3 and found.info["read"] == 8


@pytest.mark.parametrize("apart", [False, True])
def test_held_out_queries_are_checked_by_nothing(tmp_path, apart):
    bench = lines(tmp_path / "bench.jsonl", QUESTIONS)
    heldout = lines(tmp_path / "heldout.jsonl", QUESTIONS[:4]) if apart else 4
    with pytest.raises(DataError, match=r"the checks leave no query to train on \(contaminated \d+\)"):
        Split(tmp_path, QUESTIONS, heldout=heldout, decontaminate=[bench])
    found = Split(tmp_path, [*QUESTIONS, "Fine?"], heldout=heldout, decontaminate=[bench], max_chars=500)
    # "Fine?" may be the one that is drawn; then all the others are contaminated.
    assert found.train == ["Fine?"] and len(found.heldout) == 4
    assert set(found.heldout) < set(QUESTIONS)


def test_length_and_language_leave_out_too(tmp_path):
    german = "Erkläre mir bitte in wenigen Sätzen, warum der Himmel am Abend rot wird und am Mittag blau ist."
    english = "Explain to me in a few sentences why the sky turns red in the evening while it is blue at noon."
    found = Split(tmp_path, [german, english, "Hm?", "x" * 200], min_chars=5, max_chars=150, languages=["en"])
    assert found.train == [english]
    assert found.info["faults"] == {"language": 1, "too_short": 1, "too_long": 1}


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_among_training_queries_and_of_held_out_ones(tmp_path, seed):
    source = random.Random(1)
    first = [" ".join(source.sample([f"word{number}" for number in range(300)], 20)) for _ in range(6)]
    texts = [text for one in first for text in (one, f"{one} indeed")]
    found = Split(tmp_path, texts, seed=seed, heldout=2, near_duplicates=0.8)
    near = {one: texts[place ^ 1] for place, one in enumerate(texts)}
    pairs = len({min(one, near[one]) for one in found.heldout})
    assert not {near[one] for one in found.heldout} & set(found.train), "nothing near to what is held out is trained on"
    assert len(found.train) == len(first) - pairs and found.info["faults"] == {"near_duplicate": 10 - len(found.train)}


def test_near_duplicates_of_a_held_out_source(tmp_path):
    heldout = lines(tmp_path / "heldout.jsonl", [QUESTIONS[5].replace("happens", "happened")])
    found = Split(tmp_path, [QUESTIONS[5], "Fine?"], heldout=heldout, near_duplicates=0.7)
    assert found.train == ["Fine?"] and found.info["faults"] == {"near_duplicate": 1}


def test_the_stage_depends_on_the_benchmarks(tmp_path):
    queries, bench = tmp_path / "queries.jsonl", tmp_path / "bench.jsonl"
    lines(queries, QUESTIONS), lines(bench, ["something else"])
    recipe = scripted_recipe(queries, 2)
    settings = recipe.queries.model_dump() | {"decontaminate": [str(bench)]}
    recipe = type(recipe).model_validate(recipe.model_dump() | {"queries": settings})

    def trained() -> list[str]:
        with without_reports():
            generate(recipe, tmp_path / "run")
        return [entry.key for entry in Ledger(tmp_path / "run").entries() if entry.stage == "queries"]

    assert len(set(trained())) == len(trained()) == 1, "a second run finds it done"
    lines(bench, QUESTIONS[:10])
    assert len(set(trained())) == 2
    summary = json.loads((tmp_path / "run/summary.json").read_text())["rounds"][0]["queries"]
    assert 8 <= summary["left_out"] <= 10 and "shares words with the benchmark" in summary["dropped"][0]["reason"]


def test_memory_does_not_grow_with_the_queries(tmp_path):
    bench = lines(tmp_path / "bench.jsonl", QUESTIONS)
    space = Workspace(tmp_path, "queries", "key", Display(quiet=True))
    peaks = []
    for count in (600, 3000):
        source = lines(tmp_path / f"{count}.jsonl", [f"{i} {'so' * 500}" for i in range(count)])
        made = QuerySettings(source=source, heldout=0, decontaminate=[{"source": bench}], min_chars=3)
        tracemalloc.start()
        split_queries(space, made, 0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 1_000_000, "2,400 queries more, of 1,000 characters each"
