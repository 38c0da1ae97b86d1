"""What trainings in processes of their own cost, and what they give back.

    python benchmarks/scale.py            # the embedded model, 135M
    python benchmarks/scale.py --tiny     # a random model of some thousand weights: the cost of starting alone

A training over the same made-up rows runs inside a process (train.processes=0), as a job of one process, and as jobs of
2 and 4 processes that share two cores. Each line is measured in a process of its own, one thread each; the memory is
that of the process that asked for the training.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from memory import resident_gb

STEPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a random model in place of the embedded one")
    parser.add_argument("--processes", default="0,1,2,4", help="numbers of processes (0: in the process that asks)")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.one is not None:
        print(json.dumps(measured(settings.one, settings.tiny)))
        return
    print("| processes | whole | training itself | start and end | a step | memory held more afterwards |")
    print("|---|---|---|---|---|---|")
    for count in map(int, settings.processes.split(",")):
        command = [sys.executable, __file__, "--one", str(count), *(["--tiny"] if settings.tiny else [])]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "THP_MEM_ALLOC_ENABLE": "1"}
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        if run.returncode:
            raise SystemExit(run.stderr)
        one = json.loads(run.stdout.splitlines()[-1])
        start = one["whole"] - one["training"]
        print(
            f"| {count} | {one['whole']:.1f} s | {one['training']:.1f} s | {start:.1f} s | {one['step']:.2f} s "
            f"| {one['held']:+.2f} GB |",
            flush=True,
        )


def measured(processes: int, tiny: bool) -> dict[str, Any]:
    """Train once and return seconds, and gigabytes that this process holds more afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return _measured(processes, tiny, Path(folder))


def _measured(processes: int, tiny: bool, folder: Path) -> dict[str, Any]:
    from examples import made_examples
    from selfsteer.chat import Chat
    from selfsteer.config import Recipe
    from selfsteer.files import read_json, read_json_lines
    from selfsteer.jobs.launch import launch_of
    from selfsteer.models import resolve
    from selfsteer.models.single_slot import give_back
    from selfsteer.records import Contrast, write_rows
    from selfsteer.runs.progress import Display
    from selfsteer.runs.store import Store
    from selfsteer.stages.context import RunContext
    from selfsteer.stages.model_pool import Policy
    from selfsteer.stages.training import Training, train_in

    model = _tiny(folder / "tiny") if tiny else resolve("smollm2-135m")
    train = {"batch_size": 4, "micro_batch_size": 1, "epochs": STEPS, "precision": "float32", "learning_rate": 1e-6}
    recipe = Recipe.model_validate(
        {"model": {"name": model, "device": "cpu"}, "train": train | {"processes": processes, "save_steps": 1000}}
    )
    own = {"principle_set": "made up", "model": "made up", "sampling": "none"}
    rows = [dataclasses.replace(row, provenance=own) for row in made_examples(Chat.load(model), 4, 32, 64)]
    write_rows(folder / "rows.parquet", Contrast, rows)
    store = Store(folder / "run", Display(quiet=True))
    context = RunContext.from_recipe(recipe, store)
    context.launch = launch_of(recipe.train, "cpu", 4)
    start = Policy(0, model, "start", name="start")
    training = Training("policy", 1, [folder / "rows.parquet"], len(rows), start, start, context.launch.strategy)
    import torch  # as a run has done by then

    torch.zeros(1)
    give_back()
    before, started = resident_gb(), time.perf_counter()
    trained = train_in(context, training, store.workspace("round-01", "0" * 16))
    whole = time.perf_counter() - started
    context.models.free()
    give_back()
    info = read_json(trained / "selfsteer.json")
    steps = read_json_lines(folder / "run" / "metrics.jsonl")
    return {"whole": whole, "training": info["seconds"], "step": info["seconds"] / len(steps),
            "held": resident_gb() - before}  # fmt: skip


def _tiny(folder: Path) -> str:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.conftest import build_model, build_tokenizer

    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    main()
