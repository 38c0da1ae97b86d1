"""Every command that writes, killed at random moments: the same command then ends with the same results.

SELFSTEER_KILLS is the number of moments of each command (2). With SELFSTEER_KILLS_TABLE=FILE a line of a table is added
to that file for each.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfsteer.config import dump_recipe
from selfsteer.files import read_json_lines, sha256_file
from selfsteer.models import load_tokenizer
from selfsteer.records import Contrast, write_rows
from tests.example_rows import contrast
from tests.reward.tiny import reward_model
from tests.reward_runs import reward_values, write_pairs
from tests.run_helpers import scripted_recipe, small_recipe, write_queries

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SELFSTEER_KILLS", "2"))
TABLE = os.environ.get("SELFSTEER_KILLS_TABLE")
JUDGE = ["--judge", "program:longer"]
FILTERS = "quality.filters=[identical, {duplicates: {similarity: 0.9}}]"

PROGRESS = ("ledger.jsonl", "summary.json", "selfsteer.json", "usage.jsonl", "sweep.json", "results.json", "errors.log")
"""Files of times, of the command as it was called, and of what was redone."""
TIMES = {"seconds", "time", "created", "stamp", "peak_memory", "tokens_per_second", "machine"}


@dataclass(frozen=True)
class Case:
    """A command, and what it needs.

    Attributes:
        prepare: Writes into the folder what the command reads.
        before: Commands that are run first.
    """

    prepare: Callable[[Path, Path], object]
    command: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()


def _run(folder: Path, model: Path) -> None:
    recipe = small_recipe(model, write_queries(folder), train__epochs=1)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")


def _scripted(folder: Path, model: Path, count: int = 500) -> None:
    queries = folder / "queries.txt"
    queries.write_text("\n".join(f"What is number {n} good for, and why {n}?" for n in range(count)), encoding="utf-8")
    recipe = scripted_recipe(queries, 8, quality={"filters": ["identical"]})
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")


def _rows(folder: Path, model: Path) -> None:
    rows = [contrast(f"q{n}", positive_response=f"One {n}.", prompt=_user(f"Number {n}?")) for n in range(4000)]
    write_rows(folder / "rows.parquet", Contrast, rows)


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _sweep(folder: Path, model: Path) -> None:
    _scripted(folder, model, 150)
    variants = {"strict": {}, "loose": {"quality": {"filters": ["leak"]}}}
    whole = {"name": "tried", "recipe": "recipe.yaml", "variants": variants}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")


def _reward(folder: Path, model: Path) -> None:
    pairs, held = write_pairs(folder / "pairs.jsonl", 24), write_pairs(folder / "held.jsonl", 8, start=24)
    values = reward_values(model, pairs, held)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def _scorer(folder: Path, model: Path) -> None:
    tokenizer = load_tokenizer(str(model))
    reward_model(tokenizer).save_pretrained(folder / "rm")
    tokenizer.save_pretrained(folder / "rm")
    write_pairs(folder / "pairs.jsonl", 600)


def _pairs(folder: Path, model: Path) -> None:
    write_pairs(folder / "pairs.jsonl", 4000)


def _seeds(folder: Path, model: Path) -> None:
    rows = [
        {"prompt": f"How do {what} make {other}?"} for what in ("bees", "rivers", "men") for other in ("wax", "sand")
    ]
    (folder / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


GENERATE = ("generate", "recipe.yaml", "--run-dir", "run")
CASES = {
    "run": Case(_run, ("run", "recipe.yaml", "--run-dir", "run")),
    "generate": Case(_scripted, GENERATE),
    "filter RUN": Case(_scripted, ("filter", "run", FILTERS), (GENERATE,)),
    "filter FILE": Case(_rows, ("filter", "rows.parquet", FILTERS, "--output", "out.parquet")),
    "export, a file": Case(_rows, ("export", "rows.parquet", "--format", "trl", "--output", "out.jsonl")),
    "export, llama-factory": Case(
        _rows, ("export", "rows.parquet", "--format", "llama-factory", "--output", "out.jsonl", "--overwrite")
    ),
    "export, a folder again": Case(
        _rows,
        ("export", "rows.parquet", "--format", "trl", "--output", "out", "--overwrite"),
        (("export", "rows.parquet", "--format", "contrast", "--output", "out"),),
    ),
    "sweep": Case(_sweep, ("sweep", "sweep.yaml", "--run-dir", "out")),
    "reward": Case(_reward, ("reward", "recipe.yaml", "--run-dir", "out")),
    "judge": Case(_pairs, ("judge", "pairs.jsonl", *JUDGE, "--answers", "answers", "--json", "out.json")),
    "judge RUN": Case(_scripted, ("judge", "run", *JUDGE, "--answers", "answers", "--json", "out.json"), (GENERATE,)),
    "augment": Case(
        _seeds, ("augment", "seeds.jsonl", "generation.backend=scripted", "--output", "grown.jsonl", "--count", "150")
    ),
    "score": Case(_scorer, ("score", "rm", "pairs.jsonl", "--output", "out.jsonl", "--device", "cpu")),
    "evaluate signal": Case(_scripted, ("evaluate", "signal", "run", *JUDGE), (GENERATE,)),
    "evaluate reward": Case(
        _scorer,
        ("evaluate", "reward", "pairs.jsonl", "--judge", "reward:rm", "--answers", "answers", "--json", "out.json"),
    ),
    "report": Case(_scripted, ("report", "run"), (GENERATE,)),
}


class Place:
    """One folder, always of the same name, in which a command is run in processes that are forked warm."""

    def __init__(self, processes: Any, case: Case, folder: Path, model: Path) -> None:
        self.processes, self.case, self.work, self.fresh = processes, case, folder / "work", folder / "fresh"
        self.said = folder / "said"
        self.work.mkdir()
        case.prepare(self.work, model)
        for command in case.before:
            assert self.go(command) == 0, self.said.read_text()
        shutil.copytree(self.work, self.fresh, symlinks=True)

    def restore(self) -> None:
        shutil.rmtree(self.work)
        shutil.copytree(self.fresh, self.work, symlinks=True)

    def go(self, command: tuple[str, ...] = (), *, after: float | None = None, number: int = signal.SIGKILL) -> int:
        """Run the command and return its exit code; after so many seconds it gets a signal."""
        from tests.killable_command import command as target

        started = self.processes.Event()
        arguments = (list(command or self.case.command), self.work, started)
        process = self.processes.Process(target=target, args=arguments)
        process.start()
        assert started.wait(120)
        if after is not None:
            time.sleep(after)
            if process.is_alive():
                os.kill(process.pid, number)
        process.join(300)
        assert process.exitcode is not None
        return process.exitcode

    def results(self) -> dict[str, Any]:
        """Return what the command is for, by file: what it should give again whatever happened in between."""
        found: dict[str, Any] = {}
        for path in sorted(self.work.rglob("*")):
            name = str(path.relative_to(self.work))
            if not path.is_file() or path.name in PROGRESS or "checkpoints-" in name:
                continue
            if path.parent.name in ("answers", "judgements") and path.suffix == ".jsonl":
                # A line is a batch, and batches are cut differently after a kill.
                found[name] = {key: one for line in read_json_lines(path) for key, one in line["answers"].items()}
            elif path.suffix == ".jsonl" and path.name == "metrics.jsonl":
                found[name] = [_without_times(line) for line in read_json_lines(path)]
            elif path.suffix == ".json":
                found[name] = _without_times(json.loads(path.read_text(encoding="utf-8")))
            elif path.suffix in (".parquet", ".safetensors", ".jsonl"):
                found[name] = sha256_file(path)
        return found

    def left(self) -> list[str]:
        """Return the names of temporary files and folders."""
        signs = (".tmp", ".old", ".part", ".pieces")
        return [str(path.relative_to(self.work)) for path in self.work.rglob("*") if path.name.endswith(signs)]

    def end(self) -> None:
        """Run the command to its end; one that was done already may say that its output exists."""
        code = self.go()
        said = " ".join(self.said.read_text().split())
        assert code == 0 or "already exists" in said, said


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(one) for key, one in value.items() if key not in TIMES}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killable_command"])
    return context


@pytest.mark.parametrize("name", CASES)
def test_killed_at_random_moments_it_ends_with_the_same_results(processes, tmp_path, tiny_chat_model, name):
    place = Place(processes, CASES[name], tmp_path, tiny_chat_model)
    wholes, durations = [], []
    for _ in range(2):  # the first one also reads files and code that are in memory afterwards
        place.restore()
        before = time.monotonic()
        place.end()
        durations.append(time.monotonic() - before)
        wholes.append(place.results())
    whole, seconds = wholes[0], min(durations)
    assert whole and wholes[1] == whole and not place.left()
    moments = random.Random(name)
    counts = {"landed": 0, "terminated": 0}
    for number in [signal.SIGKILL] * KILLS + [signal.SIGTERM] * -(-KILLS // 5):
        place.restore()
        code = place.go(after=moments.uniform(0.02, seconds), number=number)
        if number == signal.SIGTERM and code == 143:
            assert "interrupted" in place.said.read_text()
            counts["terminated"] += 1
        else:
            assert code in (0, -signal.SIGKILL), place.said.read_text()
            counts["landed"] += code == -signal.SIGKILL
        place.end()
        assert place.results() == whole
        assert place.left() == []
    if TABLE:
        with Path(TABLE).open("a", encoding="utf-8") as file:
            kills, ends = f"{counts['landed']} of {KILLS}", f"{counts['terminated']} of {-(-KILLS // 5)}"
            file.write(f"| {name} | {seconds:.1f} s | {kills} | {ends} | all | nothing |\n")
