"""The Ray Data pipeline of a stage: a feed on this machine -> actors that hold a model each -> results.

Imports Ray, so only :mod:`selfsteer.runs.ray_executor` imports it, when it is used.

Ray Data reads from a source that it may read again, and it starts the actors of a pipeline with it. A stage is one
pipeline, so that its models are loaded once; but its batches are planned as it goes. So the source is a generator that
takes them from the feed, an actor beside the driver, which keeps a batch until the driver has its result.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import queue
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from selfsteer.runs.worker import picklable

_TASK_RETRIES = 2
"""Further tries of a batch whose actor died: a batch that kills whoever does it ends the stage."""
_AT_ONCE = 1
"""Batches that an actor is given at once. What waits for an actor that dies is more to repeat."""


class Answer(NamedTuple):
    """A row of the pipeline's output; of ``result`` and ``error``, one is empty.

    Attributes:
        ticket: The batch's number in this pipeline.
        result: A pickled :class:`selfsteer.runs.executor.BatchResult`.
        error: A pickled exception and its traceback as text.
        warned: Pickled (text, category) of each warning.
    """

    ticket: int
    result: bytes
    error: bytes
    warned: bytes


_SCHEMA = pa.schema(
    [("ticket", pa.int64()), ("result", pa.large_binary()), ("error", pa.large_binary()), ("warned", pa.large_binary())]
)


class _Feed:
    """Batches that are planned and have no result yet, and the actors that do them.

    A batch's ticket stays the same however often it is read; the content of one that is done is empty.
    """

    def __init__(self) -> None:
        self._batches: dict[int, bytes] = {}
        self._ended: dict[int, float] = {}
        self._next, self._closed = 0, False
        self._opened: asyncio.Queue[tuple[int | None, bytes]] = asyncio.Queue()
        self._actors: list[Any] = []
        self._changed = asyncio.Condition()

    async def put(self, ticket: int, batch: bytes) -> None:
        async with self._changed:
            self._batches[ticket] = batch
            while self._next in self._batches:  # calls may overtake each other
                self._next += 1
            self._changed.notify_all()

    async def done(self, ticket: int) -> None:
        self._batches.pop(ticket, None)
        self._ended.pop(ticket, None)

    async def ended(self, ticket: int) -> None:
        if ticket in self._batches:
            self._ended[ticket] = time.monotonic()

    async def undelivered(self, seconds: float) -> list[int]:
        """Return the batches that an actor has done so long ago, and of which the driver has no result."""
        return [ticket for ticket, at in self._ended.items() if time.monotonic() - at > seconds]

    async def close(self) -> None:
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def get(self, ticket: int) -> bytes | None:
        """Wait for a batch; None when there are no more."""
        async with self._changed:
            await self._changed.wait_for(lambda: ticket < self._next or self._closed)
            return self._batches.get(ticket, b"") if ticket < self._next else None

    async def started(self, actor: Any) -> None:
        self._actors.append(actor)

    async def opened(self, context: int | None, error: bytes) -> None:
        await self._opened.put((context, error))

    async def first(self) -> tuple[int | None, bytes]:
        """Wait for the first actor that has loaded its model."""
        return await self._opened.get()

    async def actors(self) -> list[Any]:
        """Return the actors that the cluster had room for; they may still load their models."""
        return self._actors


class _Planned(Datasource):
    """The batches of a feed, a row each."""

    def __init__(self, feed: Any) -> None:
        super().__init__()
        self._feed = feed

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """Return the one task that reads them all, in order."""
        feed = self._feed

        def read() -> Iterator[pa.Table]:
            ticket = 0
            while (batch := ray.get(feed.get.remote(ticket))) is not None:
                yield pa.table({"ticket": [ticket], "batch": pa.array([batch], pa.large_binary())})
                ticket += 1

        return [ReadTask(read, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))]


class _Engine:
    """An actor: loads the task's model when it starts, and does batches."""

    def __init__(self, work: bytes, feed: Any) -> None:
        logging.getLogger("ray").setLevel(logging.ERROR)
        self._feed = feed
        ray.get(feed.started.remote(ray.get_runtime_context().current_actor))
        make, self._task = pickle.loads(work)
        self._models, self._opened, context = make(), None, None
        error = b""
        try:
            self._opened = self._task.open(self._models)
            context = self._opened.context
        except Exception as problem:  # noqa: BLE001  # the driver raises it
            error = _told(problem)
        ray.get(feed.opened.remote(context, error))

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [self._do(row["ticket"], row["batch"]) for row in batch.to_pylist()]
        for row in rows:
            self._feed.ended.remote(row.ticket)
        return pa.Table.from_pylist([row._asdict() for row in rows], schema=_SCHEMA)

    def _do(self, ticket: int, batch: bytes) -> Answer:
        if not batch:
            return Answer(ticket, b"", b"", b"")
        number, items = pickle.loads(batch)
        result = error = b""
        with warnings.catch_warnings(record=True) as caught:
            try:
                self._opened = self._opened or self._task.open(self._models)
                result = pickle.dumps(self._opened.do(number, items))
            except Exception as problem:  # noqa: BLE001  # the driver raises it
                error = _told(problem)
                self._opened = None
                self._models.free()  # an engine that failed may not answer again
        told = []
        for one in caught:
            with suppress(pickle.PicklingError, AttributeError):  # a category of a library's own function
                told.append(pickle.dumps((str(one.message), one.category)))
        return Answer(ticket, result, error, pickle.dumps(told) if told else b"")


def _told(error: Exception) -> bytes:
    return pickle.dumps((picklable(error), traceback.format_exc()))


class Pipeline:
    """One execution of the pipeline; it runs until :meth:`close` or :meth:`stop`.

    Args:
        make, task: As of :class:`selfsteer.runs.worker_pool.WorkerPool`.
        count: The number of actors.
        cpus, gpus: What each takes.
    """

    def __init__(self, make: Callable[[], Any], task: Any, count: int, *, cpus: int, gpus: int) -> None:
        # A worker that is lost takes neither the source nor the feed with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.feed: Any = (
            ray.remote(_Feed).options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here).remote()
        )
        context = DataContext.get_current()
        before = context.target_max_block_size, context.enable_progress_bars
        # A block of the source is a batch: it is handed on at once, and Ray Data's back-pressure counts batches.
        context.target_max_block_size, context.enable_progress_bars = 1, False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what ends it is raised
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of arguments for tasks and actors that have no other name in Ray 2.60
                planned = ray.data.read_datasource(
                    _Planned(self.feed), override_num_blocks=1,
                    ray_remote_args={"num_cpus": 0, "scheduling_strategy": here},
                )  # fmt: skip
                self._rows = planned.map_batches(
                    _Engine, batch_size=1, batch_format="pyarrow",
                    compute=ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=_AT_ONCE),
                    fn_constructor_args=(pickle.dumps((make, task)), self.feed),
                    num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=_TASK_RETRIES,
                )  # fmt: skip
        finally:
            context.target_max_block_size, context.enable_progress_bars = before
        self.results: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        """What came, then the error that ended the pipeline, EOFError if none did. Never longer than what was put."""
        self._thread = threading.Thread(target=self._consume, daemon=True)
        self._thread.start()

    def _consume(self) -> None:
        try:
            for block in self._rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                for row in block.to_pylist():
                    self.results.put(Answer(**row))
            self.results.put(EOFError("it has no more results"))
        except BaseException as error:  # noqa: BLE001  # it is raised where the results are read
            self.results.put(error)

    def put(self, ticket: int, batch: bytes) -> None:
        """Hand in a batch; an empty one pushes out the one before, which Ray Data holds back until another comes."""
        self.feed.put.remote(ticket, batch)

    def close(self, seconds: float) -> None:
        """End it when all batches are done, and wait until the actors are gone."""
        self.feed.close.remote()
        self._thread.join(seconds)
        self.stop()

    def stop(self) -> None:
        """End it at once, whatever is under way."""
        with suppress(ray.exceptions.RayError):
            for actor in ray.get(self.feed.actors.remote(), timeout=10):
                ray.kill(actor)
        ray.kill(self.feed)
        self._thread.join(10)
