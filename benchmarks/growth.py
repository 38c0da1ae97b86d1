"""Time, memory and files of the commands that read or write all rows, against the number of rows.

    python benchmarks/growth.py                 # 20,000 and 200,000 rows
    python benchmarks/growth.py --long          # 1,000,000 as well
    python benchmarks/growth.py --rows 2000     # other numbers

Each command runs in a process of its own, as users start it, with the scripted backend, batches of 16 and one thread.
That backend gives no log-probs: after `generate`, seeded random ones are written into the stored rows, so that filters
by averages and the figures of `evaluate signal` have something to do. On a shared machine look at processor time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfsteer.records import PROMPTS, ROLES, Contrast, read_rows, write_rows

ROWS = "20000,200000"
LONG = "20000,200000,1000000"
FILTERS = "[identical, near_onpolicy, steering_gap, {duplicates: {similarity: 0.9}}]"
"""Two whose thresholds are averages over the set, and near duplicates."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a command took; seconds of wall and processor time, peak resident memory in 10^6 bytes."""

    rows: int
    command: str
    wall: float
    processor: float
    peak_mb: float
    files: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=ROWS, help=f"numbers of rows ({ROWS})")
    parser.add_argument("--long", action="store_true", help=f"the same as --rows {LONG}")
    parser.add_argument("--folder", type=Path, help="where to work, in place of the temporary folder")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    settings = parser.parse_args()
    print(f"{_processor()}, {os.cpu_count()} cores; scripted backend, batches of 16, one thread\n")
    print("| command | rows | wall | processor | per 1,000 rows | peak memory | files |")
    print("|---|---|---|---|---|---|---|")
    found = []
    for rows in map(int, (LONG if settings.long else settings.rows).split(",")):
        with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
            for cost in costs(rows, Path(folder)):
                found.append(cost)
                times = f"{cost.wall:.1f} s | {cost.processor:.1f} s | {cost.processor / rows * 1000:.2f} s"
                print(f"| {cost.command} | {rows:,} | {times} | {cost.peak_mb:,.0f} MB | {cost.files:,} |", flush=True)
    if settings.json:
        settings.json.write_text(json.dumps(list(map(dataclasses.asdict, found)), indent=1) + "\n", encoding="utf-8")


def costs(rows: int, folder: Path) -> Iterator[Cost]:
    """Yield what each command takes on so many rows."""
    queries, run = folder / "queries.jsonl", folder / "run"
    with queries.open("w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(json.dumps({"prompt": f"Why does river number {number} never run dry in summer?"}) + "\n")
    recipe = ["scripted", f"queries={queries}", "queries.heldout=0", "generation.batch_size=16", "--run-dir", str(run)]
    yield _cost("generate", rows, ["generate", *recipe], run)
    yield _cost("generate, found done", rows, ["generate", *recipe], run)
    add_scores(run)
    pairs, stored, kept = folder / "pairs.jsonl", folder / "rows", folder / "kept"
    yield _cost("export, a file", rows, ["export", str(run), "--format", "trl", "--output", str(pairs)], pairs)
    export = ["export", str(run), "--format", "contrast", "--output", str(stored)]
    yield _cost("export, a folder", rows, export, stored)
    filtering = ["filter", str(stored), f"quality.filters={FILTERS}", "--output", str(kept)]
    yield _cost("filter by averages, near duplicates", rows, filtering, kept)
    yield _cost("report", rows, ["report", str(run)], run / "report.html")
    yield _cost("evaluate signal", rows, ["evaluate", "signal", str(run)], run / "signal.json")
    judged = ["--judge", "program:longer"]
    yield _cost("evaluate signal, with a judge", rows, ["evaluate", "signal", str(run), *judged], run / "judgements")
    answers = ["--answers", str(folder / "answers")]
    yield _cost("judge RUN", rows, ["judge", str(run), *judged, *answers], folder / "answers")


def _cost(name: str, rows: int, arguments: Sequence[str], output: Path) -> Cost:
    """Run a command of selfsteer and return what it took; ``output`` is where its files are counted."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "selfsteer.cli", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stderr
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)  # of this process alone, as getrusage would add up all so far
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"{name} ended with {os.waitstatus_to_exitcode(status)}: {said}")
    files = sum(path.is_file() for path in output.rglob("*")) if output.is_dir() else 1
    return Cost(rows, name, wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6, files)


def add_scores(run: Path) -> None:
    """Give the stored rows of a run random log-probs."""
    draw = random.Random(0)
    for path in sorted((run / "round-01" / "contrasts").glob("*.parquet")):
        rows = [dataclasses.replace(row, scores=_scores(draw)) for row in read_rows([path], Contrast)]
        write_rows(path, Contrast, rows)


def _scores(draw: random.Random) -> dict[str, Any]:
    return {f"{role}_response": {prompt: draw.gauss(-1, 0.3) for prompt in PROMPTS} for role in ROLES}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
