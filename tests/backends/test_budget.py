"""The cap on tokens and money: never exceeded, whoever asks at once; and the bill that survives restarts."""

from __future__ import annotations

import random
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from selfsteer.backends.budget import Budget, Usage, usage_of, worst_prompt
from selfsteer.config import EndpointSettings
from selfsteer.errors import BudgetReached, ModelError, StorageError, WorkFailed


def capped(path=None, max_tokens=None, **settings) -> Budget:
    return Budget(path, EndpointSettings(max_total_tokens=max_tokens, **settings))


def spend(budget: Budget, prompt: int, completion: int, used: tuple[int, int] | None) -> None:
    """One request with this worst case that uses up ``used``."""
    with budget.room(prompt, completion) as count:
        count(None if used is None else Usage(*used))


# --- the cap


def test_a_request_goes_only_if_its_worst_case_fits():
    budget = capped(max_tokens=100)
    spend(budget, 40, 20, (30, 10))
    spend(budget, 40, 20, (30, 10))  # 40 + 60 is just the cap
    assert (*budget.spent, budget.requests) == (60, 20, 2)
    with pytest.raises(BudgetReached) as caught:
        spend(budget, 20, 1, (1, 1))
    error = caught.value
    assert isinstance(error, WorkFailed)
    assert error.what == (
        "the cap of 100 tokens is reached: 2 answers took 80 tokens (60 of prompts, 20 of answers); "
        "the next may take up to 21 tokens"
    )
    assert error.do == "raise generation.endpoint.max_total_tokens; the same command resumes"
    spend(budget, 19, 1, (19, 1))
    assert budget.spent.tokens == 100


def test_money_counts_prompts_and_answers_at_their_own_price():
    """2 a million prompt tokens, 10 a million of answers: 1000 and 500 cost 0.007."""
    budget = capped(max_cost=0.02, price_prompt=2.0, price_completion=10.0)
    spend(budget, 1000, 1000, (1000, 500))
    assert budget.spent_cost == pytest.approx(0.007)
    spend(budget, 1000, 1000, (500, 100))  # 0.007 + 0.012 fits
    assert budget.spent_cost == pytest.approx(0.009)
    with pytest.raises(BudgetReached) as caught:
        spend(budget, 1000, 1000, (1, 1))  # 0.009 + 0.012 does not
    assert "the cap of 0.02 in money is reached" in caught.value.what and "which cost 0.009" in caught.value.what
    assert "the next may take up to 0.012" in caught.value.what
    assert caught.value.do.startswith("raise generation.endpoint.max_cost;")


def test_without_a_cap_everything_goes():
    budget = Budget()
    spend(budget, 10**9, 10**9, (5, 6))
    spend(budget, 10**9, 10**9, None)
    assert (budget.spent.tokens, budget.requests, budget.spent_cost) == (11, 1, 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_eight_threads_never_exceed_the_cap_and_use_it_up(seed):
    budget, source, lock = capped(max_tokens=5000), random.Random(seed), threading.Lock()
    seen = []

    def ask(_):
        with lock:
            worst = source.randint(1, 200), source.randint(1, 100)
            used = source.randint(0, worst[0]), source.randint(0, worst[1])
        with budget.room(*worst) as count:
            time.sleep(0.0005)
            count(Usage(*used))
        with lock:
            seen.append(sum(used))
        assert budget.spent.tokens <= 5000

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(ask, i) for i in range(200)]
        errors = [future.exception() for future in futures]
    assert {type(error) for error in errors} == {type(None), BudgetReached}
    assert sum(seen) == budget.spent.tokens and 5000 - 300 < budget.spent.tokens <= 5000


def test_who_does_not_fit_waits_for_what_others_under_way_give_back():
    budget, order = capped(max_tokens=100), []

    def second():
        with budget.room(50, 0) as count:
            order.append("second goes")
            count(Usage(50, 0))

    with budget.room(60, 0) as count:
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.05)
        order.append("first answered")
        count(Usage(10, 0))
    thread.join(5)
    assert order == ["first answered", "second goes"] and budget.spent.tokens == 60


def test_a_request_that_fails_gives_its_room_back():
    budget = capped(max_tokens=100)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), budget.room(100, 0):
            raise ZeroDivisionError
    spend(budget, 100, 0, (100, 0))
    assert budget.spent.tokens == 100


def test_what_turned_out_longer_than_its_worst_case_is_reckoned_with_from_then_on():
    """A hosted model's own system message of 30 tokens more than allowed for: each next one may have it as well."""
    budget = capped(max_tokens=200)
    spend(budget, 50, 10, (80, 10))
    spend(budget, 50, 10, (80, 5))  # 90 + 90 fits, the surplus counts once
    with pytest.raises(BudgetReached, match="the next may take up to 31 tokens"):
        spend(budget, 1, 0, (1, 0))  # 175 + 31
    spend(capped(max_tokens=206), 1, 0, (1, 0))


def test_a_cap_can_not_be_kept_without_usage():
    budget = capped(max_tokens=1000)
    spend(budget, 1, 1, None)
    with pytest.raises(ModelError, match="no usage in it"):
        spend(budget, 1, 1, (1, 1))


def test_the_worst_case_of_a_prompt_is_a_token_a_byte_and_something_for_the_template():
    bare = worst_prompt([{"role": "user", "content": ""}])
    assert 0 < bare < 200
    assert worst_prompt([{"role": "user", "content": "añ \U0001f600"}]) == bare + 8
    assert worst_prompt([{"role": "user", "content": "bad \ud83d"}]) == bare + 5
    assert worst_prompt([{"role": "system", "content": "x"}, {"role": "user", "content": ""}]) > bare + 1


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        {},
        {"prompt_tokens": 5},
        {"prompt_tokens": None, "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": "5", "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
    ],
)
def test_usage_that_makes_no_sense_is_none(said):
    assert usage_of(said) is None
    assert usage_of({"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}) == (5, 0)


# --- the bill


def test_spending_survives_restarts(tmp_path):
    path = tmp_path / "run" / "usage.jsonl"
    spend(Budget(path), 10, 10, (7, 3))
    spend(Budget(path), 10, 10, (1, 2))
    assert path.read_text() == (
        '{"completion_tokens": 3, "prompt_tokens": 7}\n{"completion_tokens": 2, "prompt_tokens": 1}\n'
    )
    again = capped(path, max_tokens=20, price_prompt=1e6, price_completion=2e6)
    assert (*again.spent, again.requests, again.spent_cost) == (8, 5, 2, 18.0)
    with pytest.raises(BudgetReached, match="2 answers took 13 tokens"):
        spend(again, 8, 0, (8, 0))


@pytest.mark.parametrize("torn", [b'{"prompt_tokens":5,"compl', b"{", b"\xff\x00"])
def test_a_torn_last_line_spoils_only_itself(tmp_path, torn):
    path = tmp_path / "usage.jsonl"
    path.write_bytes(b'{"prompt_tokens":7,"completion_tokens":3}\n' + torn)
    budget = Budget(path)
    assert budget.spent.tokens == 10
    spend(budget, 10, 10, (1, 1))
    spend(budget, 10, 10, (2, 2))
    assert (Budget(path).spent.tokens, Budget(path).requests) == (16, 3)


def test_threads_write_whole_lines(tmp_path):
    budget = Budget(tmp_path / "usage.jsonl")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: spend(budget, 10, 10, (i, 1)), range(200)))
    again = Budget(tmp_path / "usage.jsonl")
    assert (*again.spent, again.requests) == (19900, 200, 200)


def test_a_full_disk_is_told_and_the_bill_stays_readable(tmp_path):
    """A limit on the size of files tears the third line; there is no way to fill a disk for a test."""
    path = tmp_path / "usage.jsonl"
    budget, line = Budget(path), '{"completion_tokens": 1, "prompt_tokens": 1}\n'
    spend(budget, 1, 1, (1, 1))
    spend(budget, 1, 1, (1, 1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(line) * 2 + 10, before[1]))
    try:
        with pytest.raises(StorageError, match="can't write"):
            spend(budget, 1, 1, (1, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == line * 2 + line[:10]
    spend(budget, 1, 1, (4, 4))
    assert Budget(path).spent.tokens == 12 and budget.spent.tokens == 14


def test_a_bill_of_a_million_lines_is_added_up_without_holding_it(tmp_path):
    """Scaled down to what a test may take: memory does not grow with the file."""
    import tracemalloc

    path = tmp_path / "usage.jsonl"
    path.write_text('{"prompt_tokens":7,"completion_tokens":3}\n' * 20000)  # 840 kB
    tracemalloc.start()
    budget = Budget(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert budget.spent.tokens == 200000 and peak < 400_000
