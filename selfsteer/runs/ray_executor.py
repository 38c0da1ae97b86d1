"""``executor: ray``: doing the planned batches of a stage by actors of a Ray cluster, as one Ray Data pipeline.

This process plans and writes, the actors do. It holds the batches that have no result yet, a few for each actor, so its
memory does not grow with the number of rows; and workers need no file of the run directory but weights that the run has
trained.

What fails is done again: by Ray, a batch whose actor died; here, what was under way when a node was lost, by new actors
on the nodes that are left. A result that comes twice is taken once.
"""

from __future__ import annotations

import importlib.util
import logging
import pickle
import queue
import socket
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from selfsteer.errors import ConfigError, SelfsteerError, SelfsteerWarning, WorkFailed
from selfsteer.runs.executor import BatchFunction, BatchResult, BatchTask, InProcess, PlannedBatch
from selfsteer.runs.store import Item, Row

if TYPE_CHECKING:
    from selfsteer.runs.ray_pipeline import Answer, Pipeline

WHERE = "ray.address"
_EXECUTOR = "executor"
_REACHED_SECONDS = 10.0
_POLL_SECONDS = 2.0
_CLOSE_SECONDS = 90.0
_SAID_SECONDS = 30.0
_ROOM_SECONDS = 900.0
"""How long the first actor may wait for room in the cluster, and when this is said. Nodes may have to be started."""
_UNDELIVERED_SECONDS = 5.0
"""Ray 2.60 may lose the result of a batch that it repeated on an actor that it had started again."""
_ENDS = 2
"""Ends of the pipeline over the same batch that end the stage: Ray has tried it on several actors each time."""
_PER_ACTOR = 2
"""Batches under way for each actor: one that it does, and one that waits; so many more for the pipeline as a whole."""
_EXTRA = 4


class Share(NamedTuple):
    """How many actors there are, and what each takes."""

    actors: int
    cpus: int
    gpus: int


class Node(NamedTuple):
    """A node of the cluster: its id, CPUs and GPUs."""

    id: str
    cpus: int
    gpus: int


def connect(address: str | None) -> list[Node]:
    """Join the Ray cluster, or start one on this machine, and return its nodes.

    Args:
        address: "HOST:PORT" of a cluster's head; "local" for a new cluster on this machine; None for Ray's own choice
            (RAY_ADDRESS, else a cluster that runs on this machine, else a new one).

    Raises:
        ConfigError: Ray is not installed, or the cluster can't be reached.
    """
    if importlib.util.find_spec("ray") is None:
        what = "executor: ray needs Ray, which is not installed"
        raise ConfigError(what, where=_EXECUTOR, do="pip install 'selfsteer[ray]', or set executor=local")
    import ray

    if not ray.is_initialized():
        if address and "://" in address:
            what = f"{address} is not HOST:PORT: this process must run on a machine of the cluster"
            do = "start it there (ray job submit does), with ray.address unset"
            raise ConfigError(what, where=WHERE, do=do)
        if address and address not in ("local", "auto"):
            _check_reachable(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            what = f"can't use the Ray cluster: {' '.join(str(error).split())[:300]}"
            raise ConfigError(what, where=WHERE, do=_TO_CHECK) from error
    return nodes()


_TO_CHECK = (
    "check that its head runs (ray status there), that this machine is a node of it, that both have the same "
    "versions of Ray and Python, and that a firewall leaves its ports open; or leave ray.address out for a cluster on "
    "this machine alone"
)


def _check_reachable(address: str) -> None:
    """Raise where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(
            f"{address!r} is not HOST:PORT", where=WHERE, do="give the head's address, e.g. 10.0.0.1:6379"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACHED_SECONDS).close()
    except (OSError, OverflowError) as error:
        what = f"no Ray cluster answers at {address} within {_REACHED_SECONDS:.0f} s: {error}"
        raise ConfigError(what, where=WHERE, do=_TO_CHECK) from error


def nodes() -> list[Node]:
    """Return the nodes that are alive, in the order of their ids."""
    import ray

    found = []
    for one in ray.nodes():
        if one["Alive"]:
            has = one["Resources"]
            found.append(Node(one["NodeID"], int(has.get("CPU", 0)), int(has.get("GPU", 0))))
    return sorted(found)


class RayExecutor:
    """Does planned batches by actors that hold a model each; a pipeline a stage, so models are loaded for each stage.

    Args:
        make: As of :class:`selfsteer.runs.worker_pool.WorkerPool`.
        share: Returns how many actors there shall be on the nodes that are there.
    """

    def __init__(self, make: Callable[[], Any], share: Callable[[list[Node]], Share]) -> None:
        self._make, self._share = make, share
        self._pipeline: Pipeline | None = None
        self._task: Any = None
        self._count, self._cpus, self._gpus, self._nodes = 0, 0, 0, frozenset[str]()
        self._waits_since: float | None = None  # for room; None once an actor has started
        self._said = False
        self._ticket = self._pushed = 0
        self._ends: Counter[tuple[int, int]] = Counter()
        self._warned: set[tuple[str, type[Warning]]] = set()

    def open(self, task: BatchTask[Item, Row], batches: int | None = None) -> int | None:
        """Start actors, at most one for each of ``batches``; return the context of the first that loaded its model.

        Raises:
            WorkFailed: Ray could not start one, or the cluster had no room for one for too long. Also whatever loading
                the model raises.
        """
        import ray

        try:
            self._start(task, batches)
            assert self._pipeline is not None
            first = self._pipeline.feed.first.remote()
            while not ray.wait([first], timeout=_POLL_SECONDS)[0]:
                with suppress(queue.Empty):
                    if isinstance(ended := self._pipeline.results.get_nowait(), BaseException):
                        raise _failed(ended) from ended
                self._check_room()
            context, error = ray.get(first)
            if error:
                raise _error_of(error)
        except BaseException:
            self._stop()
            raise
        return int(context) if context is not None else None

    def run(
        self, work: BatchTask[Item, Row] | BatchFunction[Item, Row], batches: Iterator[PlannedBatch]
    ) -> Iterator[tuple[PlannedBatch, BatchResult[Row]]]:
        """Yield what came of each batch as soon as it is done; a plain function is called in this process."""
        if not isinstance(work, BatchTask):
            yield from InProcess().run(work, batches)
            return
        try:
            yield from self._run(work, batches)
        except BaseException:
            self._stop()
            raise
        self.close()  # no model is needed before the next stage

    def _run(self, task: Any, batches: Iterator[PlannedBatch]) -> Iterator[tuple[PlannedBatch, Any]]:
        waiting: dict[int, PlannedBatch] = {}
        error: Exception | None = None
        planned = False
        self._ends.clear()  # the stages before counted batches with the same numbers
        while True:
            while not planned and error is None and len(waiting) < max(1, self._count) * _PER_ACTOR + _EXTRA:
                try:
                    batch = next(batches)
                except StopIteration:
                    planned = True
                except SelfsteerError as problem:
                    error = problem
                else:
                    self._put(task, batch, waiting)
            if not waiting:
                break
            if planned or error is not None:
                self._push()
            try:
                answer = self._next(task, waiting)
            except WorkFailed as problem:
                raise error or problem from problem
            if answer is None:
                continue
            assert self._pipeline is not None
            self._pipeline.feed.done.remote(answer.ticket)
            if (done := waiting.pop(answer.ticket, None)) is None:
                continue
            self._warn(answer)
            if answer.error:
                error = error or _error_of(answer.error)
            else:
                yield done, pickle.loads(answer.result)
        if error is not None:
            raise error

    def _put(self, task: Any, batch: PlannedBatch, waiting: dict[int, PlannedBatch]) -> None:
        if self._pipeline is None or self._task is not task:
            self._start(task)
        assert self._pipeline is not None
        waiting[self._ticket] = batch
        self._pipeline.put(self._ticket, pickle.dumps((batch.number, batch.items)))
        self._ticket += 1

    def _push(self) -> None:
        """Have the last batch handed on: nothing comes after it that would push it out. Once for each last batch."""
        if self._pushed != self._ticket:
            assert self._pipeline is not None
            self._pipeline.put(self._ticket, b"")
            self._ticket += 1
            self._pushed = self._ticket

    def _next(self, task: Any, waiting: dict[int, PlannedBatch]) -> Answer | None:
        """Return the next answer; None where there is none yet. Starts again where a node is gone.

        An actor of such a node is at first only unavailable, like one that was killed again and again.
        """
        assert self._pipeline is not None
        found: Answer | BaseException | None = None
        with suppress(queue.Empty):
            found = self._pipeline.results.get(timeout=_POLL_SECONDS)
        if isinstance(found, tuple):
            return found
        if found is None:
            self._check_room()
            self._repeat_undelivered(waiting)
        if isinstance(found, BaseException):
            self._ends.update((batch.block, batch.place) for batch in waiting.values())
            if max(self._ends.values()) == _ENDS:
                raise _failed(found) from found
        # An actor of a node that is gone might wait for another node for ever, and so might what it was given.
        if found is not None or self._nodes - {node.id for node in nodes()}:
            self._stop()
            lost = list(waiting.values())
            waiting.clear()
            for batch in lost:
                self._put(task, batch, waiting)
        return None

    def _check_room(self) -> None:
        """Say once, then raise, where others leave no room for any actor: Ray itself would wait without an end."""
        import ray

        assert self._pipeline is not None
        if self._waits_since is None or ray.get(self._pipeline.feed.actors.remote()):
            self._waits_since = None
            return
        waited = time.monotonic() - self._waits_since
        if waited <= _SAID_SECONDS:
            return
        free = ray.available_resources()
        what = (
            f"no actor has started on the Ray cluster: each takes {self._cpus} CPUs and {self._gpus} GPUs of a node "
            f"({free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs of the cluster are free)"
        )
        do = "end other jobs of the cluster (ray status shows what is taken) or add nodes"
        if not self._said:
            self._said = True
            warnings.warn(f"{what}; waiting up to {_ROOM_SECONDS:.0f} s: {do}", SelfsteerWarning, stacklevel=2)
        elif waited > _ROOM_SECONDS:
            do += "; then run the same command again: finished batches are on disk"
            raise WorkFailed(f"{what} after {waited:.0f} s", where=_EXECUTOR, do=do)

    def _repeat_undelivered(self, waiting: dict[int, PlannedBatch]) -> None:
        """Hand in again what an actor has done and Ray did not deliver, which happens where an actor died."""
        import ray

        assert self._pipeline is not None
        feed = self._pipeline.feed
        for ticket in ray.get(feed.undelivered.remote(_UNDELIVERED_SECONDS)):
            feed.done.remote(ticket)
            if ticket in waiting:
                self._put(self._task, waiting.pop(ticket), waiting)

    def _start(self, task: Any, batches: int | None = None) -> None:
        from selfsteer.runs.ray_pipeline import Pipeline

        self._stop()
        there = nodes()
        count, self._cpus, self._gpus = self._share(there)
        self._count = max(1, min(count, batches or count))
        self._nodes, self._task = frozenset(node.id for node in there), task
        self._ticket = self._pushed = 0
        self._waits_since = time.monotonic()
        self._pipeline = Pipeline(self._make, task, self._count, cpus=self._cpus, gpus=self._gpus)

    def _warn(self, answer: Answer) -> None:
        """Warn once of what each actor warns of."""
        for one in pickle.loads(answer.warned) if answer.warned else ():
            text, category = pickle.loads(one)
            if (text, category) not in self._warned:
                self._warned.add((text, category))
                warnings.warn_explicit(text, category, __file__, 0, module="selfsteer.worker")

    def close(self) -> None:
        """End the actors and wait until they are gone. The cluster stays."""
        if self._pipeline is not None:
            self._pipeline.close(_CLOSE_SECONDS)
            self._pipeline = None

    def _stop(self) -> None:
        if self._pipeline is not None:
            self._pipeline.stop()
            self._pipeline = None


class _ActorTraceback(Exception):
    """Where an error was raised, in the actor."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _error_of(pickled: bytes) -> Exception:
    error, where = pickle.loads(pickled)
    if not isinstance(error, SelfsteerError):
        error.__cause__ = _ActorTraceback(where)
    found: Exception = error
    return found


def _failed(error: BaseException) -> WorkFailed:
    reason = next((line for line in str(error).splitlines() if line.strip()), "")
    what = f"the Ray pipeline ended: {type(error).__name__}: {reason.strip()[:300]}"
    do = (
        "if an actor died, its machine may have run out of memory (ray list actors --detail, dmesg there): lower "
        "generation.batch_size or generation.engines; then run the same command again: finished batches are on disk"
    )
    return WorkFailed(what, where=_EXECUTOR, do=do)
