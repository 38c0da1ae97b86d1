"""Time and memory of one SSO training step (forward, loss, backward; no optimiser step), three ways.

    python benchmarks/train_step.py                        # made-up examples: prompts and responses of 200 tokens
    python benchmarks/train_step.py --examples FILE.jsonl  # instruction, p_system, n_system, chosen, rejected, raw
    python benchmarks/train_step.py --growth               # time and memory against response and prompt length
    python benchmarks/train_step.py --profile --ways c --precisions bfloat16   # which operators take the time of a step

(a) works as the authors' trainer does: six padded sequences, full float32 logits, a reference forward pass each step.
(b) is TRL's DPOTrainer on the same three pairs an example, its reference log-probs precomputed (pip install trl).
(c) is ours. All run in one process, interleaved example by example, on a policy that differs from its reference; the
losses have to agree. Peak memory is that of a process that does nothing else. Report ratios: times on a shared machine
move, and the rate of a plain matrix product, measured between the steps, says how much.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does, before torch allocates

import torch
from measuring import Arithmetic, matmul_rate, needed, peak_gb
from ways import WAYS, Plain, Rows

from examples import made_examples, read_examples
from selfsteer.chat import Chat
from selfsteer.models import load_model, load_tokenizer, resolve, silence_transformers
from selfsteer.records import Contrast

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("flash_attention",),
    "copies, casts": ("aten::copy_",),
    "zeros": ("aten::fill_", "aten::zero_"),
}
"""Kinds of operators in a profile, by a part of their names; every other is a kind of its own."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GROWTH = [(128, n) for n in (128, 256, 512, 1024, 2048)] + [(n, 256) for n in (32, 512, 1024)]
PLAIN_LIMIT = 768
"""Tokens of a sequence up to which (a) is run in --growth: it holds the full logits several times over."""


def main() -> None:
    settings = _arguments()
    silence_transformers()
    if settings.point:
        print(json.dumps(point(settings)))
    elif settings.growth:
        growth(settings)
    elif settings.profile:
        profile(settings)
    else:
        if not settings.memory:
            table(settings)
        memory(settings)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--examples", type=Path, help="a JSON-lines file in the authors' format")
    parser.add_argument("--count", type=int, default=3, help="examples; the first one warms up and is not counted")
    parser.add_argument("--prompt", type=int, default=200, help="tokens of each made-up principle")
    parser.add_argument("--response", type=int, default=200, help="tokens of each made-up response")
    parser.add_argument("--ways", default="abc")
    parser.add_argument("--precisions", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--memory", action="store_true", help="peak memory alone")
    parser.add_argument("--growth", action="store_true", help="against the length of responses and prompts, alone")
    parser.add_argument(
        "--profile", action="store_true", help="the operators of a step of --ways in --precisions, alone"
    )
    parser.add_argument("--point", action="store_true", help="measure --ways once in --precisions and print JSON")
    parser.add_argument("--checkpointing", action="store_true", help="with --point: activation checkpointing")
    return parser.parse_args()


def load_pair(settings: argparse.Namespace, count: int) -> tuple[Any, Any, Any, list[Contrast]]:
    """The policy (of ``--policy`` where there is that option), its reference, the tokenizer and the examples."""
    folder = resolve(settings.model)
    tokenizer = load_tokenizer(folder)
    chat = Chat(tokenizer)
    rows = (
        read_examples(settings.examples, chat, count)
        if settings.examples
        else made_examples(chat, count, settings.prompt, settings.response)
    )
    trained = getattr(settings, "policy", None)
    policy, reference = load_model(trained or folder).train(), load_model(folder)
    if trained:
        return policy, reference, tokenizer, rows
    torch.manual_seed(0)
    with torch.no_grad():  # some steps away from its reference, so that the losses tell something
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01 * parameter.std().item())
    return policy, reference, tokenizer, rows


def table(settings: argparse.Namespace) -> None:
    """Print time, share of the matrix-product rate, memory and agreement, as ratios."""
    policy, reference, tokenizer, rows = load_pair(settings, settings.count)
    print(f"{len(rows) - 1} examples after one that warms up, {torch.get_num_threads()} threads")
    for precision in settings.precisions:
        bf16 = precision == "bfloat16"
        prepared = {}
        for name in settings.ways:
            WAYS[name](policy, reference, rows[:1], tokenizer, bf16).prepare()  # warms up
            started = time.perf_counter()
            WAYS[name](policy, reference, rows[1:], tokenizer, bf16).prepare()
            prepared[name] = (time.perf_counter() - started) / (len(rows) - 1)
        ways = [WAYS[name](policy, reference, rows, tokenizer, bf16) for name in settings.ways]
        for way in ways:
            way.prepare()
        seconds, losses, rates = interleaved(ways, policy, len(rows), DTYPES[precision])
        report(precision, [needed(policy, row) for row in rows[1:]], prepared, seconds, rates)
        agreement(ways, losses)


def interleaved(
    ways: Sequence[Any], policy: Any, count: int, dtype: torch.dtype
) -> tuple[dict[str, list[float]], dict[str, list[float]], list[float]]:
    """Seconds and losses of every way for every example but the first, and the matrix-product rates between them."""
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    losses: dict[str, list[float]] = {name: [] for name in [*seconds, "c unweighted"]}
    rates = []
    for index in range(count):
        rates.append(matmul_rate(dtype))
        for way in ways:
            policy.zero_grad()
            started = time.perf_counter()
            loss = way.step(index)
            seconds[way.name].append(time.perf_counter() - started)
            losses[way.name].append(loss.item())
            if isinstance(way, Rows):
                losses["c unweighted"].append(way.unweighted())
    return {name: values[1:] for name, values in seconds.items()}, losses, rates[1:]


def report(
    precision: str,
    floors: Sequence[Arithmetic],
    prepared: dict[str, float],
    seconds: dict[str, list[float]],
    rates: Sequence[float],
) -> None:
    """One line a way: seconds an example, what is done once a round included, against the floor and the others."""
    rate = statistics.median(rates)
    flops = statistics.mean(one.training + one.forward for one in floors)
    once = statistics.mean(one.forward for one in floors)
    total = {name: statistics.mean(values) + prepared[name] for name, values in seconds.items()}
    print(f"\n{precision}: matrix product {rate / 1e9:.0f} GFLOP/s, {flops / 1e12:.2f} TFLOP an example at least")
    print(f"  floor {flops / rate:6.2f} s an example, {once / rate:.2f} s of it the reference")
    for name, value in total.items():
        others = ", ".join(f"{total[o] / value:.2f} times as fast as ({o})" for o in total if o < name)
        share = f"{value / (flops / rate):.2f} times the floor, {flops / value / rate:.0%} of the rate"
        print(f"  ({name})   {value:6.2f} s an example, {prepared[name]:.2f} s of it once a round: {share}; {others}")


def agreement(ways: Sequence[Any], losses: dict[str, list[float]]) -> None:
    """Print the largest relative differences of the losses; (b) has no weight, so its own counterpart of (c) is met."""
    for name, own in (("a", "c"), ("b", "c unweighted")):
        if losses.get(name) and losses.get(own):
            worst = max(abs(x - y) / abs(x) for x, y in zip(losses[name], losses[own], strict=True))
            shown = ", ".join(f"{x:.6f} = {y:.6f}" for x, y in zip(losses[name][:2], losses[own][:2], strict=True))
            print(f"  losses ({name}) = ({own}): largest relative difference {worst:.1e} ({shown}, ...)")


def memory(settings: argparse.Namespace) -> None:
    """Peak memory of each way in a process of its own; (c) with activation checkpointing as well, timed apart."""
    print("\npeak memory of one process, GB, and seconds a step")
    for precision in settings.precisions:
        found = {name: _point(settings, name, precision) for name in settings.ways}
        if "c" in found:
            found["c, activation checkpointing"] = _point(settings, "c", precision, "--checkpointing")
        base = found.get("a", next(iter(found.values())))["peak_gb"]
        for name, one in found.items():
            print(
                f"  {precision} ({name}): {one['peak_gb']:.2f} GB, {one['peak_gb'] / base:.2f} of the first; "
                f"{one['seconds']:.1f} s"
            )


def growth(settings: argparse.Namespace) -> None:
    """Time and memory of a step against the length of responses, and against that of prompts."""
    for precision in settings.precisions:
        print(f"\n{precision}: made-up principles and responses of so many tokens")
        for prompt, response in GROWTH:
            lengths = ["--prompt", str(prompt), "--response", str(response)]
            cells = []
            for name in settings.ways:
                if name != "b" and (name != "a" or prompt + response <= PLAIN_LIMIT):
                    one = _point(settings, name, precision, *lengths)
                    cells.append(f"({name}) {one['seconds']:6.2f} s {one['peak_gb']:5.2f} GB")
            print(f"  principle {prompt:4d}, responses {response:4d}: {'   '.join(cells)}", flush=True)


def profile(settings: argparse.Namespace) -> None:
    """Print the share of each kind of operator, and of the largest others, in the time of a step."""
    policy, reference, tokenizer, rows = load_pair(settings, 3)
    for precision in settings.precisions:
        for name in settings.ways:
            way = WAYS[name](policy, reference, rows, tokenizer, precision == "bfloat16")
            way.prepare()
            for index in range(2):
                policy.zero_grad()
                way.step(index)
            policy.zero_grad()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
                way.step(2)
            events = found.key_averages()
            total = sum(event.self_cpu_time_total for event in events)
            print(f"\n{precision} ({name}): {total / 1e6:.2f} s")
            kinds: dict[str, list[float]] = {}
            for event in events:
                kind = next((kind for kind, words in KINDS.items() if any(w in event.key for w in words)), event.key)
                share, calls = kinds.get(kind, (0.0, 0))
                kinds[kind] = [share + event.self_cpu_time_total / total, calls + event.count]
            for kind, (share, calls) in sorted(kinds.items(), key=lambda item: -item[1][0])[:16]:
                print(f"  {kind:40s}{share:6.1%} in {calls:5.0f} calls")


def _point(settings: argparse.Namespace, way: str, precision: str, *more: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--point", "--ways", way, "--precisions", precision, "--model", settings.model]
    if settings.examples:
        command += ["--examples", str(settings.examples)]
    found = subprocess.run([*command, *more], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return result


def point(settings: argparse.Namespace) -> dict[str, float]:
    """Seconds of the second of two steps on one example, and the peak memory of the process."""
    policy, reference, tokenizer, rows = load_pair(settings, 1)
    way = WAYS[settings.ways](policy, reference, rows, tokenizer, settings.precisions[0] == "bfloat16")
    way.prepare()
    if not isinstance(way, Plain):  # (a) alone keeps its reference model
        way.reference = reference = None
    if settings.checkpointing:
        policy.gradient_checkpointing_enable()
    for _ in range(2):
        policy.zero_grad()
        started = time.perf_counter()
        way.step(0)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_gb": peak_gb()}


if __name__ == "__main__":
    main()
