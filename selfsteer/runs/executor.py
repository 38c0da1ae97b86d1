"""Doing the planned batches of a stage: in this process, or elsewhere by what implements :class:`Executor`.

A batch has its own seed, and its rows depend on nothing but the batch, so it does not matter who does it, nor in which
order. An executor does batches and returns what came of them; only :func:`selfsteer.runs.shards.run_sharded` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, runtime_checkable

from selfsteer.backends import Failure
from selfsteer.runs.store import Item, Row


@dataclass(frozen=True)
class BatchResult(Generic[Row]):
    """What came of a batch: its rows, and by the key of an item why it gave none."""

    rows: Sequence[Row]
    failures: Mapping[Hashable, Failure] = field(default_factory=dict)


class PlannedBatch(NamedTuple):
    """A batch of a stage.

    Attributes:
        block, place: The block, and its batch.
        number: The batch's number in the whole stage; its seed depends on it.
        items: What to do.
    """

    block: int
    place: int
    number: int
    items: Sequence[Any]


BatchFunction = Callable[[int, Sequence[Item]], BatchResult[Row]]
"""Does a batch, given its number in the stage and its items."""


@dataclass(frozen=True)
class OpenTask(Generic[Item, Row]):
    """A task whose model is loaded.

    Attributes:
        do: Does a batch.
        context: Prompt + response tokens that the model takes, where planning has to know; None for no limit.
    """

    do: BatchFunction[Item, Row]
    context: int | None = None


@runtime_checkable
class BatchTask(Protocol[Item, Row]):
    """The work of a stage on its batches, small and picklable: it loads its model where the work is done.

    What it was pickled with must be enough to do any batch of the stage, in any process, in any order.
    """

    def open(self, models: Any) -> OpenTask[Item, Row]:
        """Load what it needs from ``models``, a :class:`selfsteer.stages.model_pool.ModelPool`."""
        ...


class Executor(Protocol):
    """Does planned batches."""

    def open(self, task: BatchTask[Item, Row], batches: int | None = None) -> int | None:
        """Load the task's model and return :attr:`OpenTask.context`; ``batches``: there are at most so many to do."""
        ...

    def run(
        self, work: BatchTask[Item, Row] | BatchFunction[Item, Row], batches: Iterator[PlannedBatch]
    ) -> Iterator[tuple[PlannedBatch, BatchResult[Row]]]:
        """Yield what came of each batch, in any order.

        ``batches`` is read as far ahead as there are workers, so planning takes no memory for more. An error of a batch
        is raised when the batches under way are done and yielded. The caller may stop in the middle.
        """
        ...


class InProcess:
    """Does one batch after the other in this process. A function needs no ``models``."""

    def __init__(self, models: Any = None) -> None:
        self._models = models
        self._opened: tuple[Any, OpenTask[Any, Any]] | None = None

    def open(self, task: BatchTask[Item, Row], batches: int | None = None) -> int | None:
        """Load the task's model, once."""
        if self._opened is None or self._opened[0] is not task:
            self._opened = task, task.open(self._models)
        return self._opened[1].context

    def run(
        self, work: BatchTask[Item, Row] | BatchFunction[Item, Row], batches: Iterator[PlannedBatch]
    ) -> Iterator[tuple[PlannedBatch, BatchResult[Row]]]:
        """Yield what came of each batch, in their order."""
        for batch in batches:
            if isinstance(work, BatchTask):
                self.open(work)
                assert self._opened is not None
                do = self._opened[1].do
            else:
                do = work
            yield batch, do(batch.number, batch.items)
