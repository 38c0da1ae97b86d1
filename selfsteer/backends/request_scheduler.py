"""How requests go to a server: several at a time, repeated after passing errors, and no more where none makes sense.

A server that is crowded (status 429, or a Retry-After) slows down all: they pause together, then half as many are under
way at once, and with every answer a little more of them again.

Retries are our own, not the client's: when to stop, how long to wait and how many to send depend on what all threads
see, and a spending cap counts each try.
"""

from __future__ import annotations

import email.utils
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from selfsteer.backends.base import Failure
from selfsteer.errors import SelfsteerError, SelfsteerWarning

Item = TypeVar("Item")
T = TypeVar("T")

FIRST_PAUSE, LONGEST_BACKOFF = 0.5, 60.0
"""Seconds before the first further try, and before any."""
LONGEST_PAUSE = 3600.0
"""Seconds that a server may ask to wait; one that asks for more ends the work for now."""
_WARNED_PAUSE = 60.0
_IN_A_ROW = 10
"""Failures in a row, at least, before a trial request finds out whether the server answers anything."""
_UNLUCKY = 0.1
"""Weight of a try at a server that is crowded by others of our requests, and answers those."""

_now = time.monotonic


@dataclass(eq=False)
class RequestError(Exception):
    """A try that gave no answer.

    Attributes:
        failure: Why, and what it means for this request and for all others.
        again: A further try may succeed.
        pause: Seconds that the server asks to wait, None where it does not say.
        crowded: The server has too much to do: all wait, and fewer are sent at once.
        unreached: There was no connection at all; it ends the work unless others get answers meanwhile.
        doubtful: Either this request is at fault or all are; a trial request decides.
    """

    failure: Failure
    again: bool = False
    pause: float | None = None
    crowded: bool = False
    unreached: bool = False
    doubtful: bool = False


class _Halted(Exception):
    """No more requests are to be sent."""


Ask = Callable[[Item, Callable[[], None]], T]
"""Sends the request for an item once; calls the given function right before it sends; raises RequestError."""


@dataclass
class _Batch(Generic[Item, T]):
    """Items that are requested together, and their outcomes so far."""

    items: Sequence[Item]
    ask: Ask[Item, T]
    trial: Callable[[Item], Item] | None
    found: list[T | Failure | None]
    places: Iterator[int]
    halted: bool = False
    end: SelfsteerError | None = None
    crash: BaseException | None = None
    trying: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        if self.halted:
            raise _Halted


class RequestScheduler:
    """The requests to one server. Safe to use from several threads.

    Args:
        concurrency: Requests under way at once, at most.
        max_retries: Further tries after passing errors.
    """

    def __init__(self, concurrency: int, max_retries: int) -> None:
        self._most, self._max_retries = concurrency, max_retries
        self._changed = threading.Condition()
        self._under_way, self._allowed = 0, float(concurrency)
        self._not_before = self._narrowed = 0.0
        self._in_a_row, self._warned = 0, False
        self.answers = 0

    def each(
        self, items: Sequence[Item], ask: Ask[Item, T], *, trial: Callable[[Item], Item] | None = None
    ) -> list[T | Failure]:
        """Return the outcome of each item, in order.

        After a failure that ends the work nothing more is sent; requests under way are waited for, and all others get
        the same failure. An interrupt (Ctrl-C) waits for nothing.

        ``trial`` makes a harmless item of the same form. One such is requested where many fail in a row, to find out
        whether those are at fault or the server is. None: the first failure ends the work, unless the server blocks
        that prompt alone.
        """
        found: list[T | Failure | None] = [None] * len(items)
        batch = _Batch(items, ask, trial, found, iter(range(len(items))))
        # Daemons, as the end of the program must not wait for a server that may still answer.
        count = min(self._most, len(items))
        workers = [threading.Thread(target=self._work, args=(batch,), daemon=True) for _ in range(count)]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:
            self._halt(batch)
        if batch.crash is not None:
            raise batch.crash
        # An item without an outcome (never started, or stopped between two tries) is left only where the work ended.
        return [Failure(batch.end, ends=True) if one is None else one for one in found]  # type: ignore[arg-type]

    def _work(self, batch: _Batch[Item, T]) -> None:
        """Do items until there are none left, or no more are to be sent."""
        try:
            while not batch.halted and (place := next(batch.places, None)) is not None:
                batch.found[place] = self._outcome(batch, batch.items[place])
        except _Halted:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by each(), in the caller's thread
            batch.crash = error
            self._halt(batch)

    def _outcome(self, batch: _Batch[Item, T], item: Item) -> T | Failure:
        found = self._patiently(batch, item)
        if not isinstance(found, RequestError):
            return found
        with self._changed:
            self._in_a_row += 1
        if found.failure.ends or (batch.trial is None and not found.failure.blocked):
            return self._end(batch, found.failure)
        if batch.trial is None or not self._suspicious(found):
            return found.failure
        with batch.trying:  # one at a time: while this one waited, another trial may have answered
            return self._tried(batch, batch.trial(item), found) if self._suspicious(found) else found.failure

    def _suspicious(self, error: RequestError) -> bool:
        """Whether the server may be at fault."""
        return error.doubtful or self._in_a_row >= max(_IN_A_ROW, 3 * self._most)

    def _tried(self, batch: _Batch[Item, T], trial: Item, failed: RequestError) -> Failure:
        """Return the failure: the request's own if a trial gets its answer, else the end of the work."""
        count = self._in_a_row
        found = self._patiently(batch, trial)
        if not isinstance(found, RequestError):
            return failed.failure
        error = found.failure.error
        if not (found.failure.ends or found.doubtful):
            what = f"{count} requests in a row got no answer, a harmless one neither: {error.what}"
            error = type(error)(what, where=error.where, do=error.do)
        return self._end(batch, Failure(error))

    def _end(self, batch: _Batch[Item, T], failure: Failure) -> Failure:
        """Send nothing more; return the failure as one that ends the work."""
        batch.end = batch.end or failure.error
        self._halt(batch)
        return replace(failure, ends=True)

    def _patiently(self, batch: _Batch[Item, T], item: Item) -> T | RequestError:
        """Request an item until there is an answer or no try left; return the answer or the last error."""
        tries, not_before, at_first = 0.0, 0.0, self.answers
        while True:
            answers = self.answers
            try:
                with self._turn(batch, not_before):
                    began = _now()
                    found = batch.ask(item, batch.check)
            except RequestError as error:
                unlucky = error.crowded and (self.answers > answers or self._under_way > 0)
                tries += _UNLUCKY if unlucky else 1.0
                if not error.again or tries > self._max_retries:
                    if error.unreached and self.answers == at_first:
                        error.failure = replace(error.failure, ends=True)
                    return error
                not_before = _now() + self._pause_after(error, int(tries))
                if error.crowded:
                    with self._changed:
                        self._not_before = max(self._not_before, not_before)
                        if began >= self._narrowed:  # halved once for all that were under way when it got crowded
                            self._narrowed, self._allowed = _now(), max(1.0, self._allowed / 2)
            else:
                with self._changed:
                    self.answers, self._in_a_row = self.answers + 1, 0
                    self._allowed = min(float(self._most), self._allowed + 1 / self._allowed)
                    self._changed.notify_all()
                return found

    @contextmanager
    def _turn(self, batch: _Batch[Item, T], not_before: float) -> Iterator[None]:
        """Wait until a request may be sent, and count it as under way."""
        with self._changed:
            while True:
                batch.check()
                left = max(not_before, self._not_before) - _now()
                if left > 0:
                    self._wait(left)
                elif self._under_way < int(self._allowed):
                    break
                else:
                    self._wait(None)
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _wait(self, seconds: float | None) -> None:
        self._changed.wait(seconds)

    def _halt(self, batch: _Batch[Item, T]) -> None:
        """Wake all threads that wait for a turn: there will be none."""
        with self._changed:
            batch.halted = True
            self._changed.notify_all()

    def _pause_after(self, error: RequestError, tries: int) -> float:
        """Return the seconds until the next try: at least as many as the server asks for."""
        if error.pause is None:
            return backoff(tries)
        if error.pause >= _WARNED_PAUSE and not self._warned:
            self._warned = True
            what = f"the server asks to wait {error.pause:.0f} s before the next request; the work resumes then"
            warnings.warn(f"{what} ({error.failure.error.what})", SelfsteerWarning, stacklevel=2)
        return error.pause + random.uniform(0.0, min(0.1 * error.pause, 5.0))


def backoff(tries: int) -> float:
    """Return the seconds to wait after ``tries`` tries: twice as many each time, and never quite the same."""
    return random.uniform(0.5, 1.0) * min(LONGEST_BACKOFF, FIRST_PAUSE * 2.0 ** min(max(tries - 1, 0), 60))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer's headers ask to wait, as a number or as a date; None where they don't."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        with suppress(ValueError, OverflowError, OSError):
            try:
                seconds = float(value) * unit
            except ValueError:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            if seconds > 0:  # false for NaN too
                return seconds
    return None
