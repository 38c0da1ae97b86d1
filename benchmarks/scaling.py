"""A run of many queries on many GPUs, simulated event by event: time, GPU hours, disk, what limits it, what is lost.

    python benchmarks/scaling.py                  # 60 thousand, 1 million, 100 million queries on 1, 8, 64 GPUs
    python benchmarks/scaling.py --check FILE     # the local executor's growth as benchmarks/growth.py measured it

Needs simpy (`pip install simpy`). A worker takes a batch, computes it, and hands it to the process that writes. Both
take the time that `selfsteer estimate` counts with; the writing is measured by benchmarks/growth.py. Workers and nodes
fail at random and start again: a failed worker's batch is repeated, a failed training resumes from its checkpoint. The
model has the shape of Llama 3.1 8B, the rates are those of `estimate` for a GPU that was not measured (an A100's).
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import simpy

from selfsteer.config import load_recipe
from selfsteer.estimate.costs import Costs, Prompts, Sizes
from selfsteer.estimate.model_shape import ModelShape, shape_of
from selfsteer.estimate.throughput import Sample, guessed_rates
from selfsteer.runs.progress import clock, size

WRITING = 1.79e-3
"""Seconds of the writing process for each row, through all data stages (docs/generate.md, a million rows)."""

LIFE = 50_000 * 3600.0
"""Seconds that a GPU works before something ends the job: 419 interruptions in 54 days of 16,384 GPUs
(arXiv 2407.21783, table 5)."""

RESTART = 120.0
"""Seconds until an engine, or a training, is at work again."""

UNITS = 20_000
"""Events of a stage at most: of larger ones several batches are one event, and a failure still loses one batch."""


@dataclass
class Stage:
    """A data stage: batches of so many seconds on one GPU, with so many seconds of the writing process each."""

    batches: int
    seconds: float
    writing: float


@dataclass
class Outcome:
    """What a stage took: seconds, the share of them that the writing process was busy, failures, GPU seconds lost."""

    seconds: float = 0.0
    writer: float = 0.0
    failures: int = 0
    lost: float = 0.0


def simulated(stage: Stage, gpus: int, draw: random.Random, life: float = LIFE) -> Outcome:
    """Return what a data stage takes on ``gpus`` workers."""
    env, found = simpy.Environment(), Outcome()
    writer = simpy.Resource(env, 1)
    merged = max(1, math.ceil(stage.batches / UNITS))
    left = math.ceil(stage.batches / merged)
    busy = 0.0

    def worker() -> Any:
        nonlocal left, busy
        dies = env.now + draw.expovariate(1 / life)
        while left:
            left -= 1
            # The longest response of a batch decides; lengths scatter.
            needs = merged * stage.seconds * draw.lognormvariate(-0.02, 0.2)
            while env.now + needs > dies:
                spent = (dies - env.now) % stage.seconds
                found.failures, found.lost = found.failures + 1, found.lost + spent + RESTART
                needs += spent + RESTART
                dies += RESTART + draw.expovariate(1 / life)
            yield env.timeout(needs)
            with writer.request() as turn:
                yield turn
                yield env.timeout(merged * stage.writing)
                busy += merged * stage.writing

    for _ in range(gpus):
        env.process(worker())
    env.run()
    found.seconds, found.writer = env.now, busy / env.now if env.now else 0.0
    return found


def trained(steps: int, step: float, checkpoint: float, every: int, gpus: int, draw: random.Random) -> Outcome:
    """Return what a training takes, whose steps all GPUs do together."""
    found, done, dies = Outcome(), 0, draw.expovariate(gpus / LIFE)
    while done < steps:
        count = min(every, steps - done)
        needs = count * step + checkpoint
        if found.seconds + needs > dies:
            found.failures, found.lost = found.failures + 1, found.lost + gpus * (dies - found.seconds + RESTART)
            found.seconds = dies + RESTART
            dies = found.seconds + draw.expovariate(gpus / LIFE)
            continue
        found.seconds, done = found.seconds + needs, done + count
    return found


def llama() -> ModelShape:
    """Return the shape of Llama 3.1 8B."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        return shape_of(LlamaForCausalLM(config))


def costs_for(queries: int, shape: ModelShape) -> Costs:
    """Return the costs of one round of recipes/sso-v1.yaml; answers of some 400 tokens, a tenth of the rows kept."""
    recipe = load_recipe("sso-v1", ["rounds=1"])
    rates = guessed_rates(shape, recipe, "cuda", "bfloat16")
    sample = Sample(dict.fromkeys(("positive", "negative", "original"), 1 / 400), 0.1, 0)
    return Costs(recipe, shape, rates, sample, Sizes(queries, 0), Prompts(120, 200, 200, asked=True))


def round_of(queries: int, gpus: int, shape: ModelShape, speed: float | None) -> dict[str, Any]:
    """Return what one round takes, with an engine that writes ``speed`` tokens a second on a GPU, or estimate's."""
    costs, draw = costs_for(queries, shape), random.Random(0)
    rates, batch = costs.rates, costs.recipe.generation.batch
    assert rates is not None
    split = WRITING / 3
    whole = {name: costs.of(name, heldout=False).seconds or 0.0 for name in ("principles", "responses", "scores")}
    if speed:
        whole["responses"] = queries * sum(costs.responses.values()) / speed
        whole["principles"] = queries * 24 / speed  # the aspects are named in some 24 tokens
    found: dict[str, Outcome] = {}
    for name, seconds in whole.items():
        count = math.ceil((3 if name == "responses" else 1) * queries / batch)
        found[name] = simulated(Stage(count, seconds / count, split * queries / count), gpus, draw)
    train = costs.recipe.train
    steps = costs.steps(train, queries)
    flops = train.batch_size * costs.training_flops(train)
    share = max(1, min(gpus, train.batch_size))  # more GPUs than examples in a step have nothing to do
    step, written = flops / rates.training / share, costs.checkpoint_bytes / rates.disk / share
    found["policy"] = trained(steps, step, written, train.save_steps, share, draw)
    disk = sum(costs.of(name, heldout=False).disk for name in ("principles", "responses", "scores", "contrasts"))
    seconds = sum(one.seconds for one in found.values())
    return {
        "seconds": seconds, "hours": seconds * gpus / 3600, "disk": disk, "stages": found,
        "failures": sum(one.failures for one in found.values()), "lost": sum(one.lost for one in found.values()),
    }  # fmt: skip


def limit(found: dict[str, Outcome]) -> str:
    """Return what takes the longest, and why."""
    name, longest = max(found.items(), key=lambda one: one[1].seconds)
    return f"{name}: the writing process ({longest.writer:.0%} busy)" if longest.writer > 0.9 else name


def show(price: float, speed: float | None) -> None:
    """Print the table."""
    shape = llama()
    print("| queries | GPUs | time of a round | GPU hours | cost | disk | limited by | failures | lost GPU time |")
    print("|---|---|---|---|---|---|---|---|---|")
    for queries in (60_000, 1_000_000, 100_000_000):
        for gpus in (1, 8, 64):
            one = round_of(queries, gpus, shape, speed)
            lost = one["lost"] / 3600 / one["hours"]
            print(
                f"| {queries:,} | {gpus} | {days(one['seconds'])} | {one['hours']:,.0f} | ${one['hours'] * price:,.0f} "
                f"| {size(one['disk'])} | {limit(one['stages'])} | {one['failures']} | {lost:.2%} |",
                flush=True,
            )


def days(seconds: float) -> str:
    """Return a time, in days where it has many."""
    return clock(seconds) if seconds < 48 * 3600 else f"{seconds / 86400:,.1f} days"


def check(file: Path) -> None:
    """Compare the local executor's measured growth with the simulation, whose rates its two smallest runs set."""
    measured = {one["rows"]: one["processor"] for one in json.loads(file.read_text()) if one["command"] == "generate"}
    first, second = sorted(measured)[:2]
    each = (measured[second] - measured[first]) / (second - first)
    start = measured[first] - each * first
    print("| rows | measured, processor | simulated | off by |")
    print("|---|---|---|---|")
    for rows, seconds in sorted(measured.items()):
        count = math.ceil(rows / 16)
        # The scripted backend takes no time: all of it is the writing process's.
        found = simulated(Stage(count, 1e-9, each * rows / count), 1, random.Random(0)).seconds + start
        print(f"| {rows:,} | {seconds:,.1f} s | {found:,.1f} s | {found / seconds - 1:+.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, help="a file that benchmarks/growth.py --json wrote")
    parser.add_argument("--price", type=float, default=2.5, help="dollars of a GPU hour (2.5)")
    parser.add_argument("--speed", type=float, help="tokens a second that an engine writes on a GPU (estimate's)")
    settings = parser.parse_args()
    check(settings.check) if settings.check else show(settings.price, settings.speed)


if __name__ == "__main__":
    main()
