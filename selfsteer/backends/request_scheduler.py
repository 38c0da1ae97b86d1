"""How requests go to a server: several at a time, again after passing trouble, and no more where none makes sense.

A server that is crowded (status 429, or a Retry-After) slows down all: they pause together, then half as many are under
way at once, and with every answer a little more of them again.
"""

from __future__ import annotations

import email.utils
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, TypeVar

from selfsteer.backends.base import Failure
from selfsteer.errors import SelfsteerError, SelfsteerWarning

Item = TypeVar("Item")
T = TypeVar("T")

FIRST_PAUSE, LONGEST_BACKOFF = 0.5, 60.0
"""Seconds before the first further try, and before any."""
LONGEST_PAUSE = 3600.0
"""Seconds that a server may ask to wait; one that asks for more is left for another time."""
_WORTH_TELLING = 60.0
_IN_A_ROW = 10
"""Failures in a row, at least, before it is looked into whether the server answers anything."""
_UNLUCKY = 0.1
"""What a try counts that met a server which is crowded by others of ours, and answers those."""

_now = time.monotonic


class RequestError(Exception):
    """What came of a try that gave no answer.

    Args:
        error: Why; it says what and where.
        refused: The request itself is at fault.
        ends: So will every further request.
        again: A further try may do.
        pause: Seconds that the server asks to wait, None where it does not say.
        crowded: The server has too much to do: all shall wait, and fewer be under way.
        unreached: There was no connection at all; it ends the work unless others get answers meanwhile.
        doubtful: Either this request is at fault or all are; a trial request tells.
        blocked: The prompt is refused for its content or its length: no reason to doubt the server. As of Failure.
    """

    def __init__(
        self,
        error: SelfsteerError,
        *,
        refused: bool = False,
        ends: bool = False,
        again: bool = False,
        pause: float | None = None,
        crowded: bool = False,
        unreached: bool = False,
        doubtful: bool = False,
        blocked: Literal["", "content", "length"] = "",
    ) -> None:
        super().__init__(error)
        self.failure = Failure(error, refused=refused or bool(blocked), ends=ends, blocked=blocked)
        self.again, self.pause, self.crowded = again, pause, crowded
        self.unreached, self.doubtful = unreached, doubtful


class _Halted(Exception):
    """Nothing more shall be sent."""


Ask = Callable[[Item, Callable[[], None]], T]
"""Sends the request for an item once; calls the given function right before it sends; raises Trouble."""


@dataclass
class _Batch(Generic[Item, T]):
    """Items that are asked for together, and what has come of them."""

    items: Sequence[Item]
    ask: Ask[Item, T]
    trial: Callable[[Item], Item] | None
    found: list[T | Failure | None]
    places: Iterator[int]
    halted: bool = False
    end: SelfsteerError | None = None
    crash: BaseException | None = None
    trying: threading.Lock = field(default_factory=threading.Lock)


class RequestScheduler:
    """The requests to one server. Safe to use from several threads.

    Args:
        concurrency: Requests under way at once, at most.
        max_retries: Further tries after passing trouble.
    """

    def __init__(self, concurrency: int, max_retries: int) -> None:
        self._most, self._max_retries = concurrency, max_retries
        self._changed = threading.Condition()
        self._under_way, self._allowed = 0, float(concurrency)
        self._not_before = self._narrowed = 0.0
        self._in_a_row, self._told = 0, False
        self.answers = 0
        """Requests that got their answer."""

    def each(
        self, items: Sequence[Item], ask: Ask[Item, T], *, trial: Callable[[Item], Item] | None = None
    ) -> list[T | Failure]:
        """Return what came of each item, in order.

        After a failure that ends the work nothing more is sent; what is under way is waited for, and all the others get
        the same failure. An interrupt (Ctrl-C) waits for nothing.

        Args:
            items: What to ask for.
            ask: Asks once.
            trial: From an item to a harmless one of the same form. One such is asked for where many fail in a row: it
                tells whether those are at fault or the server is. None: the first failure ends the work, unless the
                server blocks that prompt alone.
        """
        found: list[T | Failure | None] = [None] * len(items)
        batch = _Batch(items, ask, trial, found, iter(range(len(items))))
        # Daemons, as the end of the program must not wait for what a server may still say.
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
        # What nobody took up, or was given up between two tries, is there only where the work has ended.
        return [Failure(batch.end, ends=True) if one is None else one for one in found]  # type: ignore[arg-type]

    def _work(self, batch: _Batch[Item, T]) -> None:
        """Do items until there are none left, or nothing more shall be sent."""
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
        with batch.trying:  # one at a time: those that waited may know by then
            return self._tried(batch, batch.trial(item), found) if self._suspicious(found) else found.failure

    def _suspicious(self, trouble: RequestError) -> bool:
        """Whether it may be the server that is at fault."""
        return trouble.doubtful or self._in_a_row >= max(_IN_A_ROW, 3 * self._most)

    def _tried(self, batch: _Batch[Item, T], trial: Item, trouble: RequestError) -> Failure:
        """Return the failure: the request's own if a trial gets its answer, else the end of the work."""
        failed = self._in_a_row
        found = self._patiently(batch, trial)
        if not isinstance(found, RequestError):
            return trouble.failure
        error = found.failure.error
        if not (found.failure.ends or found.doubtful):
            what = f"{failed} requests in a row got no answer, a harmless one neither: {error.what}"
            error = type(error)(what, where=error.where, do=error.do)
        return self._end(batch, Failure(error))

    def _end(self, batch: _Batch[Item, T], failure: Failure) -> Failure:
        """Send nothing more; return the failure as one that ends the work."""
        batch.end = batch.end or failure.error
        self._halt(batch)
        return replace(failure, ends=True)

    def _patiently(self, batch: _Batch[Item, T], item: Item) -> T | RequestError:
        """Ask for an item until there is an answer or no try left; return the answer or the last trouble."""
        tries, not_before, at_first = 0.0, 0.0, self.answers
        while True:
            answers = self.answers
            try:
                with self._turn(batch, not_before):
                    began = _now()
                    found = batch.ask(item, lambda: self._check(batch))
            except RequestError as trouble:
                unlucky = trouble.crowded and (self.answers > answers or self._under_way > 0)
                tries += _UNLUCKY if unlucky else 1.0
                if not trouble.again or tries > self._max_retries:
                    if trouble.unreached and self.answers == at_first:
                        trouble.failure = replace(trouble.failure, ends=True)
                    return trouble
                pause = self._pause_after(trouble, int(tries))
                not_before = _now() + pause
                if trouble.crowded:
                    self._slow_down(not_before, began)
            else:
                self._got_through()
                return found

    @contextmanager
    def _turn(self, batch: _Batch[Item, T], not_before: float) -> Iterator[None]:
        """Wait until a request may go, and count it as under way."""
        with self._changed:
            while True:
                self._check(batch)
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

    def _check(self, batch: _Batch[Item, T]) -> None:
        if batch.halted:
            raise _Halted

    def _halt(self, batch: _Batch[Item, T]) -> None:
        """Wake whoever waits for a turn: there will be none."""
        with self._changed:
            batch.halted = True
            self._changed.notify_all()

    def _got_through(self) -> None:
        with self._changed:
            self.answers, self._in_a_row = self.answers + 1, 0
            self._allowed = min(float(self._most), self._allowed + 1 / self._allowed)
            self._changed.notify_all()

    def _slow_down(self, not_before: float, began: float) -> None:
        """Let all wait, and halve how many may be under way: once for all that were when it got crowded."""
        with self._changed:
            self._not_before = max(self._not_before, not_before)
            if began >= self._narrowed:
                self._narrowed, self._allowed = _now(), max(1.0, self._allowed / 2)

    def _pause_after(self, trouble: RequestError, tries: int) -> float:
        """Return the seconds until the next try: at least as many as the server asks for."""
        if trouble.pause is None:
            return backoff(tries)
        if trouble.pause >= _WORTH_TELLING and not self._told:
            self._told = True
            what = f"the server asks to wait {trouble.pause:.0f} s before the next request; the work goes on then"
            warnings.warn(f"{what} ({trouble.failure.error.what})", SelfsteerWarning, stacklevel=2)
        return trouble.pause + random.uniform(0.0, min(0.1 * trouble.pause, 5.0))


def backoff(tries: int) -> float:
    """Return the seconds to wait after ``tries`` tries: twice as many each time, and never quite the same."""
    return random.uniform(0.5, 1.0) * min(LONGEST_BACKOFF, FIRST_PAUSE * 2.0 ** min(max(tries - 1, 0), 60))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer's headers ask to wait: a number of them, or a date. None where they don't."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        said = headers.get(name, "").strip()
        seconds = _number(said, unit) or _seconds_until(said)
        if seconds is not None and seconds > 0:
            return seconds
    return None


def _number(said: str, unit: float) -> float | None:
    try:
        seconds = float(said) * unit
    except ValueError:
        return None
    return seconds if seconds > 0 else None  # NaN is neither


def _seconds_until(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, OverflowError, OSError):
        return None
