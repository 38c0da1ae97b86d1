"""Rows dealt to processes by tokens: the same rows in each step, and less waiting."""

from __future__ import annotations

import random

import pytest
from accelerate.data_loader import SeedableRandomSampler

from selfsteer.policy.balance import BalancedSampler, deal


def waiting(batches: list[list[int]], tokens: list[int], processes: int) -> float:
    """Share of the processes' time that they wait, where each micro-batch lasts as long as its longest."""
    loads = [sum(tokens[row] for row in batch) for batch in batches]
    together = [loads[start : start + processes] for start in range(0, len(loads), processes)]
    return 1 - sum(loads) / sum(processes * max(group) for group in together)


@pytest.mark.parametrize("processes", [2, 3, 8])
@pytest.mark.parametrize("micro", [1, 2, 3])
def test_a_step_keeps_its_rows_and_the_sizes_of_its_micro_batches(processes, micro):
    for rows in range(1, 4 * processes * micro):
        draw = random.Random(rows)
        tokens = [draw.randint(50, 4000) for _ in range(rows)]
        order = draw.sample(range(100, 100 + rows), rows)
        batches = deal(order, tokens, processes, micro)
        assert sorted(row for batch in batches for row in batch) == sorted(order)
        sizes = [len(batch) for batch in batches]
        assert all(size == micro for size in sizes[:-1]) and 1 <= sizes[-1] <= micro
        assert batches == deal(order, tokens, processes, micro)


def test_processes_wait_less_than_where_rows_are_dealt_as_they_come():
    draw = random.Random(0)
    rows = list(range(256))
    tokens = [int(draw.lognormvariate(7, 0.6)) for _ in rows]
    for micro in (1, 2):
        as_they_come = [rows[start : start + micro] for start in range(0, len(rows), micro)]
        assert waiting(as_they_come, tokens, 8) > 0.3
        assert waiting(deal(rows, tokens, 8, micro), tokens, 8) < 0.1


def test_the_totals_of_a_step_are_even_too():
    batches = deal([0, 1, 2, 3], [10, 9, 2, 1], processes=2, micro=1)
    assert batches == [[0], [1], [3], [2]]  # 10 + 1 and 9 + 2


def test_each_pass_has_the_steps_of_one_process():
    """Step by step the same rows as in accelerate's own order, which changes from pass to pass."""
    data = list(range(23))
    tokens = [(7 * row) % 23 + 1 for row in data]
    sampler = BalancedSampler(SeedableRandomSampler(data, data_seed=5), tokens, 2, 2, 2)
    plain = SeedableRandomSampler(data, data_seed=5)
    assert len(sampler) == 23
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        plain.set_epoch(epoch)
        balanced, usual = list(sampler), list(plain)
        assert balanced != usual
        for start in range(0, 23, 8):
            assert set(balanced[start : start + 8]) == set(usual[start : start + 8])
