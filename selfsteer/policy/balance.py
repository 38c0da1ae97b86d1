"""Deals the rows of each optimiser step to several processes so that none of them waits long for another."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler


class BalancedSampler(Sampler[int]):
    """The order that one process takes, changed inside each optimiser step alone.

    accelerate cuts an order into micro-batches and gives them to the processes in turn. Here the rows of a step change
    places, so that at each micro-batch all processes compute about as many tokens. The step's rows stay the same ones,
    and so does the number of rows of each micro-batch.

    Args:
        order: The rows' order: accelerate's sampler.
        tokens: Tokens that each row takes.
        processes, micro, accumulate: Number of processes, rows of a micro-batch, micro-batches of a process in a step.
    """

    def __init__(
        self, order: SeedableRandomSampler, tokens: Sequence[int], processes: int, micro: int, accumulate: int
    ) -> None:
        self._order, self._tokens = order, tokens
        self._processes, self._micro, self._accumulate = processes, micro, accumulate

    def __len__(self) -> int:
        return len(self._order)

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this pass over the rows; accelerate calls it."""
        self._order.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        rows = iter(self._order)
        while step := list(islice(rows, self._processes * self._micro * self._accumulate)):
            for batch in deal(step, [self._tokens[row] for row in step], self._processes, self._micro):
                yield from batch


def deal(rows: Sequence[Any], tokens: Sequence[int], processes: int, micro: int) -> list[list[Any]]:
    """Return the rows of a step as micro-batches, in the order in which the processes take them in turn.

    All have ``micro`` rows but the last, which has what remains. The longest rows go first, each to the micro-batch
    with the fewest tokens (so that none is made of the longest rows, which would raise peak memory); then micro-batches
    of about equal tokens are taken together, the largest by the process with the fewest tokens so far.
    """
    sizes = [min(micro, len(rows) - start) for start in range(0, len(rows), micro)]
    batches: list[list[int]] = [[] for _ in sizes]
    totals = [0] * len(sizes)
    open_batches = [(0, place) for place in range(len(sizes))]
    for row in sorted(range(len(rows)), key=lambda row: -tokens[row]):
        _, place = heapq.heappop(open_batches)
        batches[place].append(row)
        totals[place] += tokens[row]
        if len(batches[place]) < sizes[place]:
            heapq.heappush(open_batches, (totals[place], place))
    whole = [place for place, size in enumerate(sizes) if size == micro]
    whole.sort(key=lambda place: -totals[place])
    order, loads = [], [0] * processes
    for start in range(0, len(whole), processes):
        together = whole[start : start + processes]
        # The last ones may be fewer than the processes: the first processes take them.
        takers = sorted(range(len(together)), key=lambda process: loads[process])
        taken = dict(zip(takers, together, strict=True))
        for process in range(len(together)):
            loads[process] += totals[taken[process]]
            order.append(taken[process])
    order += range(len(whole), len(sizes))  # the incomplete one
    return [[rows[row] for row in batches[place]] for place in order]
