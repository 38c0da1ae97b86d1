"""What the Ray executor costs a row: the same scripted rows by this process, and by 1 and 2 actors of a local cluster.

    .venv-ray/bin/python benchmarks/ray_overhead.py --rows 4000     # make ray sets the environment up

Each line is a run in a process of its own, of queries, principles, responses (three a row), scores and filters. The
memory is that of the process with the command, at its peak; the cluster's start is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000,4000", help="numbers of rows")
    parser.add_argument("--actors", default="0,1,2", help="numbers of actors (0: the local executor)")
    parser.add_argument("--batch", type=int, default=128, help="requests in a batch")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.one:
        print(json.dumps(measured(*map(int, settings.one.split(",")))))
        return
    print("| rows | executor | whole | per row | memory of the command's process |")
    print("|---|---|---|---|---|")
    for rows in map(int, settings.rows.split(",")):
        for actors in map(int, settings.actors.split(",")):
            command = [sys.executable, __file__, "--one", f"{rows},{actors},{settings.batch}"]
            run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            if run.returncode:
                raise SystemExit(run.stderr)
            one = json.loads(run.stdout.splitlines()[-1])
            name = f"ray, {actors} actors" if actors else "local"
            each = 1000 * one["seconds"] / rows
            print(f"| {rows:,} | {name} | {one['seconds']:.1f} s | {each:.2f} ms | {one['gb']:.2f} GB |", flush=True)


def measured(rows: int, actors: int, batch: int) -> dict[str, float]:
    """Generate once and return seconds, and gigabytes at the peak."""
    from selfsteer.config import Recipe
    from selfsteer.loop import generate
    from selfsteer.runs.ray_executor import connect

    if actors:
        connect("local")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "queries.txt"
        source.write_text("".join(f"Why is number {number} not number {number + 1}?\n" for number in range(rows)))
        generation = {"backend": "scripted", "max_new_tokens": 64, "batch_size": batch}
        values = {
            "mode": "data-only", "queries": {"source": str(source), "heldout": 0}, "principles": {"set": "brief"},
            "quality": {"filters": ["identical", "direction", "leak"]},
            "generation": generation | ({"engines": actors} if actors else {}),
        }  # fmt: skip
        recipe = Recipe.model_validate(values | ({"executor": "ray", "ray": {"address": "local"}} if actors else {}))
        started = time.perf_counter()
        generate(recipe, Path(folder) / "run")
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


if __name__ == "__main__":
    main()
