"""`generate` killed with SIGKILL at random moments ends with the same rows, and repeats a batch a kill at most."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest

from selfsteer.records import Contrast, Response, SteeredQuery, read_rows
from tests.killable import generate_slowly
from tests.run_helpers import scripted_recipe

KILLS = 20
STAGES = {"principles": SteeredQuery, "responses": Response, "scores": Contrast, "contrasts": Contrast}


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killable"])
    return context


class Generating:
    """One run directory, and the processes that work in it one after another."""

    def __init__(self, processes, folder: Path, queries: Path) -> None:
        self.processes, self.run_dir, self.log = processes, folder / "run", folder / "log"
        # Two aspects of seven: the backend is asked for these too.
        recipe = scripted_recipe(queries, 8, principles={"set": "quality"}, quality={"filters": ["identical", "leak"]})
        self.values = recipe.model_dump() | {"generation": recipe.generation.model_dump() | {"batch_size": 64}}

    def go(self, *, kill_after: float | None = None) -> int:
        """Start a process; kill it after so many seconds. Returns its exit code."""
        started = self.processes.Event()
        arguments = (self.values, self.run_dir, self.log, started)
        process = self.processes.Process(target=generate_slowly, args=arguments)
        process.start()
        assert started.wait(60)
        if kill_after is not None:
            time.sleep(kill_after)
            process.kill()
        process.join(120)
        assert process.exitcode is not None
        return process.exitcode

    @property
    def asked(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def rows(self, stage: str) -> list:
        return list(read_rows(sorted(self.run_dir.glob(f"round-01/{stage}/*.parquet")), STAGES[stage]))

    @property
    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.run_dir)) for path in self.run_dir.rglob("*") if path.is_file())


def test_killed_at_twenty_random_moments(processes, tmp_path):
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(f"Question number {number}?" for number in range(1200)), encoding="utf-8")
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = (Generating(processes, tmp_path / name, queries) for name in ("whole", "killed"))
    before = time.monotonic()
    assert whole.go() == 0
    seconds = time.monotonic() - before

    moments = random.Random(20)
    cut_short = 0
    while cut_short < KILLS:
        code = killed.go(kill_after=moments.uniform(0, 2.2 * seconds / KILLS))
        assert code in (0, -signal.SIGKILL), "a resumed run must not fail"
        if code == 0:
            break
        cut_short += 1
    assert cut_short >= KILLS / 2, "the kills must fall into the work"
    assert killed.go() == 0

    assert killed.asked <= whole.asked + cut_short, "each kill may repeat the batch in flight, and no more"
    for stage in STAGES:
        assert killed.rows(stage) == whole.rows(stage), stage
    assert killed.files == whole.files, "nothing of a killed process stays behind"
    again = killed.asked
    assert killed.go() == 0 and killed.asked == again, "and then there is nothing left to do"
