"""Time and memory of a run, stage by stage: what is held when a stage begins, at its peak and when it has ended.

    python benchmarks/stages.py recipes/rounds.yaml [key=value ...] --run-dir runs/measured

Memory is the resident memory of the process in 10^9 bytes (Linux). A model that is let go of shows where the next stage
begins with less than the last one's peak; what stays are libraries, and memory that the allocator keeps for later.
Time is wall time and processor time, of all threads. What a run directory holds already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does, before torch allocates

from memory import forget_peak, peak_gb, resident_gb

import selfsteer
from selfsteer.runs.events import StageEvent


class Watch:
    """Notes what each stage took; the stage itself knows nothing of it."""

    def __init__(self) -> None:
        self.stages: list[dict[str, object]] = []
        self._begun = (0.0, 0.0, 0.0)

    def on_begin(self, event: StageEvent) -> None:
        """Look at the clock and at what is held."""
        forget_peak()
        self._begun = time.perf_counter(), time.process_time(), resident_gb()

    def on_end(self, event: StageEvent) -> None:
        """Note what came of it."""
        if event.reused:
            return
        wall, processor, before = self._begun
        self.stages.append(
            {
                "stage": event.title or event.stage,
                "seconds": time.perf_counter() - wall,
                "processor_seconds": time.process_time() - processor,
                "begin_gb": before,
                "peak_gb": peak_gb(),
                "end_gb": resident_gb(),
            }
        )


def table(stages: list[dict[str, object]]) -> str:
    """Return the stages as a table in Markdown."""
    head = ["| stage | s | processor s | GB at its begin | peak | at its end |", "|---|---|---|---|---|---|"]
    line = "| {stage} | {seconds:.0f} | {processor_seconds:.0f} | {begin_gb:.2f} | {peak_gb:.2f} | {end_gb:.2f} |"
    return "\n".join([*head, *(line.format(**stage) for stage in stages)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe file, or the name of a shipped one")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    given = parser.parse_intermixed_args()
    watch, started, processor = Watch(), time.perf_counter(), time.process_time()
    selfsteer.run(given.recipe, given.settings, run_dir=given.run_dir, callbacks=[watch])
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    print(table(watch.stages), f"\nall of it: {seconds:.0f} s, {processor:.0f} s of processor time")
    if given.json:
        found = {"stages": watch.stages, "seconds": seconds, "processor_seconds": processor}
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
