"""How long processes wait for each other where rows differ in length: dealt as they come, and balanced by tokens.

    python benchmarks/balance.py

Tokens of a row are drawn from a lognormal distribution (median 1100, sigma 0.6: 95 % between 340 and 3560). The time of
a process is taken to be its tokens. Under FSDP2 and ZeRO-3 processes meet at every layer, so the longest micro-batch
counts; under DDP and ZeRO-2 they meet once a step.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from selfsteer.policy.balance import deal

STEPS = 200


def waits(batches: Sequence[Sequence[int]], processes: int) -> tuple[float, float]:
    """Return the share of the processes' time that they wait in a step, meeting at each micro-batch or once."""
    loads = [sum(batch) for batch in batches]
    each = sum(processes * max(loads[start : start + processes]) for start in range(0, len(loads), processes))
    once = processes * max(sum(loads[process::processes]) for process in range(processes))
    return 1 - sum(loads) / each, 1 - sum(loads) / once


def main() -> None:
    """Print the mean over many steps of each setting."""
    print("batch  processes  micro   waits at each micro-batch   waits once a step")
    print("                          as they come   balanced     as they come   balanced")
    draw = random.Random(0)
    for batch, processes, micro in ((32, 2, 1), (32, 8, 1), (32, 8, 2), (256, 8, 1), (256, 8, 2), (256, 64, 2)):
        sums = [0.0] * 4
        for _ in range(STEPS):
            tokens = [int(draw.lognormvariate(7, 0.6)) for _ in range(batch)]
            usual = [tokens[start : start + micro] for start in range(0, batch, micro)]
            found = (*waits(usual, processes), *waits(deal(tokens, tokens, processes, micro), processes))
            sums = [total + value / STEPS for total, value in zip(sums, found, strict=True)]
        each, once, each_balanced, once_balanced = (f"{value:.1%}" for value in sums)
        print(f"{batch:5} {processes:10} {micro:6} {each:>15} {each_balanced:>10} {once:>16} {once_balanced:>10}")


if __name__ == "__main__":
    main()
