"""How requests go out: pauses, further tries, who waits for whom, what ends the work. Plain functions, no server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from selfsteer.backends import Failure
from selfsteer.backends import request_scheduler as scheduler
from selfsteer.backends.request_scheduler import RequestError, RequestScheduler, backoff, retry_after
from selfsteer.errors import WorkFailed
from tests.backends.chat_server import ChatServer, failure


def busy(what: str = "busy", **more) -> RequestError:
    return RequestError(Failure(WorkFailed(what)), again=True, **more)


# --- how long


def test_pauses_double_up_to_a_minute_and_no_two_are_the_same():
    for tries, longest in [(0, 0.5), (1, 0.5), (2, 1.0), (5, 8.0), (8, 60.0), (5000, 60.0)]:
        found = {backoff(tries) for _ in range(50)}
        assert len(found) > 40 and longest / 2 <= min(found) and max(found) <= longest


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:01:30 GMT"}, 90.0),
        ({"retry-after": "Wed, 31 Dec 2025 23:59:00 GMT"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_the_pause_that_a_server_asks_for(monkeypatch, headers, seconds):
    monkeypatch.setattr(scheduler.time, "time", lambda: 1767225600.0)  # 2026-01-01 00:00:00 GMT
    assert retry_after(headers) == seconds


# --- what comes of each item


def test_outcomes_are_in_the_order_of_their_items_and_nothing_is_asked_twice():
    asked = []

    def ask(item, ready):
        ready()
        asked.append(item)
        time.sleep(0.001 * (item % 3))
        return item * 2

    assert RequestScheduler(4, 0).each(list(range(40)), ask) == [item * 2 for item in range(40)]
    assert sorted(asked) == list(range(40))


def test_no_items_no_outcomes():
    assert RequestScheduler(4, 0).each([], lambda item, ready: item) == []


def test_what_is_no_trouble_is_raised_where_the_work_was_asked_for():
    def ask(item, ready):
        raise ZeroDivisionError("a bug")

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        RequestScheduler(4, 3).each(list(range(100)), ask)
    assert threading.active_count() == before


def test_after_the_end_even_what_waits_for_its_next_try_is_given_up(monkeypatch):
    """Item 0 would wait a minute; item 1 ends the work meanwhile."""
    monkeypatch.setattr(scheduler, "FIRST_PAUSE", 60.0)
    failed_once = threading.Event()

    def ask(item, ready):
        ready()
        if item == 0:
            failed_once.set()
            raise busy()
        failed_once.wait()
        raise RequestError(Failure(WorkFailed("gone"), ends=True))

    started = time.monotonic()
    found = RequestScheduler(2, 5).each([0, 1, 2], ask, trial=lambda item: item)
    assert [(one.error.what, one.ends) for one in found] == [("gone", True)] * 3
    assert time.monotonic() - started < 5


def test_nothing_is_sent_that_got_its_room_only_after_the_end():
    """Item 0 has its turn, but waits for room (a budget's) until item 1 has ended the work."""
    ended, sent = threading.Event(), []

    def ask(item, ready):
        if item == 0:
            ended.wait()
            time.sleep(0.05)
        ready()
        sent.append(item)
        ended.set()
        raise RequestError(Failure(WorkFailed("gone"), ends=True))

    assert all(one.ends for one in RequestScheduler(2, 5).each([0, 1], ask, trial=lambda item: item))
    assert sent == [1]


def test_without_a_connection_the_work_ends_unless_others_get_answers(monkeypatch):
    monkeypatch.setattr(scheduler, "FIRST_PAUSE", 0.001)
    alone, two = RequestScheduler(2, 1), RequestScheduler(2, 1)

    def ask(item, ready):
        if item == "bad":
            deadline = time.monotonic() + 10
            while not two.answers and time.monotonic() < deadline:
                time.sleep(0.005)
            raise busy("unreached", unreached=True)
        return item

    bad, good = two.each(["bad", "good"], ask, trial=lambda item: item)
    assert isinstance(bad, Failure) and not bad.ends and good == "good"
    (bad,) = alone.each(["bad"], ask, trial=lambda item: item)
    assert bad.ends


def test_one_trial_serves_all_who_wait_for_it():
    trials = []

    def ask(item, ready):
        if item == "trial":
            trials.append(item)
            time.sleep(0.02)
            return item
        raise RequestError(Failure(WorkFailed("dead")))

    found = RequestScheduler(8, 0).each(list(range(100)), ask, trial=lambda item: "trial")
    assert not any(one.ends for one in found)
    assert 1 <= len(trials) <= 4  # one for each 24 in a row


def test_a_crowded_server_gets_half_as_many_at_once_and_slowly_more_again(monkeypatch):
    monkeypatch.setattr(scheduler, "FIRST_PAUSE", 0.02)
    lock, most, under_way, asked = threading.Lock(), [], [], []
    together = threading.Barrier(8)

    def ask(item, ready):
        with lock:
            asked.append(item)
            under_way.append(item)
            most.append(len(under_way))
            crowded = len(asked) <= 8
        if crowded:
            together.wait(5)
        time.sleep(0.02)
        with lock:
            under_way.remove(item)
        if crowded:
            raise busy(crowded=True)
        return item

    found = RequestScheduler(8, 3).each(list(range(60)), ask, trial=lambda item: item)
    assert found == list(range(60))
    assert max(most[:8]) == 8 and 3 <= max(most[8:12]) <= 4
    assert 5 <= max(most[12:]) <= 8


def test_a_server_that_takes_two_at_a_time_answers_all_without_failures(monkeypatch):
    """Each answer takes longer than all pauses of a request, so that its own tries alone would not do."""
    monkeypatch.setattr(scheduler, "FIRST_PAUSE", 0.002)
    slots, asked = threading.Semaphore(2), []

    def ask(item, ready):
        asked.append(item)
        if not slots.acquire(blocking=False):
            raise busy(crowded=True)
        time.sleep(0.02)
        slots.release()
        return item

    assert RequestScheduler(16, 2).each(list(range(50)), ask, trial=lambda item: item) == list(range(50))
    assert 60 < len(asked) < 250  # it was crowded, and hammered all the same it was not


def test_where_all_meet_a_crowded_server_the_tries_count(monkeypatch):
    monkeypatch.setattr(scheduler, "FIRST_PAUSE", 0.0005)
    asked = []

    def ask(item, ready):
        asked.append(item)
        raise busy(crowded=True)

    found = RequestScheduler(4, 2).each(list(range(1000)), ask, trial=lambda item: item)
    assert all(isinstance(one, Failure) for one in found) and found[-1].ends
    assert len(asked) < 150


# --- Ctrl-C


def test_an_interrupt_waits_for_no_pause_and_for_no_answer():
    """Two requests hang, two wait a minute for their next try; the interrupt comes after 0.2 s."""
    release = threading.Event()

    def ask(item, ready):
        ready()
        if item < 2:
            release.wait(30)
            return item
        raise busy(pause=59.0)

    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        RequestScheduler(4, 5).each(list(range(100)), ask, trial=lambda item: item)
    assert time.monotonic() - started < 3
    release.set()


def test_the_program_ends_at_an_interrupt_though_requests_hang():
    hang = threading.Event()
    server = ChatServer(lambda body, count: failure(500, "late") if hang.wait(20) else None)
    code = (
        "from selfsteer.backends import Sampling\n"
        "from selfsteer.backends.endpoint import EndpointBackend\n"
        "from selfsteer.config import EndpointSettings\n"
        f"backend = EndpointBackend(EndpointSettings(model='m', base_url={server.url!r}))\n"
        "backend.generate([[{'role': 'user', 'content': 'x'}]] * 20, Sampling(5, 0.0, 1.0), seed=0)\n"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        while len(server.requests) < 8 and program.poll() is None:
            time.sleep(0.02)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=10)
    finally:
        program.kill()
        hang.set()
        server.close()
    assert said.rstrip().endswith("KeyboardInterrupt") and len(server.requests) == 8
