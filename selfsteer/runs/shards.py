"""A stage over any number of rows: blocks of rows, in each a plan of batches, one file a block when it is whole.

A block is planned at a time, and one more while the executor's last workers finish another. A batch is the unit of
seeding and of resuming: when it is done its rows are put into a file, a piece beside the block. When all pieces are
there they become the block's file. What failed in a batch is asked for again when every block had its turn.

A killed process loses the batches in progress. Pieces are synced to disk in groups, as a wait for the disk after each
batch would take longer than many a batch: a power cut costs at most a second of finished work more, and a piece that it
damaged is removed and done again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, NamedTuple

from selfsteer.backends import Failure
from selfsteer.errors import DataError, SelfsteerError, StorageError, WorkFailed
from selfsteer.files import GroupSync, append_json, parse_json, read_json_lines, remove, write_json
from selfsteer.queries.tally import Tally
from selfsteer.records import Contrast, count_rows, read_rows, write_rows
from selfsteer.runs.executor import BatchFunction, BatchResult, BatchTask, Executor, InProcess, PlannedBatch
from selfsteer.runs.results import DroppedRows
from selfsteer.runs.store import Item, Row, Workspace, in_batches

SHARD_ROWS = 512
"""Queries in a block: enough to sort by length, few enough that three long responses to each fit in memory."""

NAMED = 100
"""So many of what was left out are named in the ledger and on the report; all of them are in the stage's folder."""

_LEFT_OUT, _REFUSED = ".left-out.json", "refused.jsonl"

Key = Hashable


class Dropped(NamedTuple):
    """A row that a stage dropped: where it is (a file's line, or a query's id), and why.

    ``do`` is what the reader can do about it, where that is known.
    """

    where: str
    reason: str
    do: str = ""


@dataclass(frozen=True)
class ShardPlan(Generic[Item]):
    """What is to do in a block: items in the order in which they are done, the same for the same settings."""

    batches: Sequence[Sequence[Item]]
    left_out: Sequence[Dropped] = ()


@dataclass(frozen=True)
class ShardJob(Generic[Item, Row]):
    """How a stage does its blocks.

    Attributes:
        do: Does a batch, given the batch's number in the whole stage (what its seed depends on) and its items: a
            function, or a task that may be done in other processes.
        item_key, row_key: Equal for an item and for the row that came of it.
        per_block: Batches that a block has at most.
        failed: What becomes of items that fail to the last: the stage stops, or leaves them out.
    """

    kind: type[Row]
    plan: Callable[[int], ShardPlan[Item]]
    do: BatchFunction[Item, Row] | BatchTask[Item, Row]
    item_key: Callable[[Item], Key] = lambda item: item.id  # type: ignore[attr-defined]
    row_key: Callable[[Row], Key] = lambda row: row.id
    where: Callable[[Item], str] = lambda item: str(item.id)  # type: ignore[attr-defined]
    per_block: int = 1
    failed: Literal["stop", "drop"] = "stop"


def run_sharded(
    space: Workspace, count: int, work: ShardJob[Item, Row], executor: Executor | None = None
) -> tuple[list[Path], DroppedRows]:
    """Do the blocks 0 to ``count`` - 1 that are not done yet. Returns their files and what was left out.

    Args:
        executor: Does the batches (default: this process, one after the other). The files do not depend on it.

    Raises:
        SelfsteerError: What a failure that ends the stage said; all rows that did arrive are on disk.
        WorkFailed: Requests still fail at the stage's end, and ``work.failed`` is "stop".
    """
    disk = GroupSync()
    blocks = [_Block(space, number, work, disk) for number in range(count)]
    executor = executor or InProcess()
    try:
        for each in (_Block.begin, _Block.again):
            planned = (batch for block in blocks if block.waits for batch in each(block))
            with closing(executor.run(work.do, planned)) as results:  # type: ignore[type-var]
                for batch, done in results:
                    blocks[batch.block].take(batch, done)
        still = sum(block.missing for block in blocks)
    except SelfsteerError:
        space.display.stopped()
        raise
    finally:
        disk.sync()
    if still:
        arrived = sum(block.arrived() for block in blocks)
        rest = f"answers on disk: {arrived:,}" if arrived else "no answer has arrived"
        raise WorkFailed(
            f"{still:,} requests still fail; {rest}",
            where=str(failures_file(space)),
            do="run the same command again to ask for these alone, or set generation.endpoint.failed=drop to leave "
            "their queries out (principles.model.failed for a writer of its own)",
        )
    listed = f"{space.folder.relative_to(space.run_dir)}/{space.key}-*.left-out.json"
    return [block.path for block in blocks], summed((block.left_out for block in blocks), listed)


class ShardWriter(Generic[Row]):
    """Writes rows as they come, :data:`SHARD_ROWS` a file of the stage; one file's rows are in memory."""

    def __init__(self, space: Workspace, kind: type[Row]) -> None:
        self._space = space
        self._kind: type[Row] = kind
        self.count = 0
        self.paths: list[Path] = []
        self._block: list[Row] = []

    def add(self, row: Row) -> None:
        """Take a row."""
        self.count += 1
        self._block.append(row)
        if len(self._block) == SHARD_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are waiting; to be called at the end."""
        if self._block:
            self.paths.append(self._space.path(f"{len(self.paths):05d}.parquet"))
            write_rows(self.paths[-1], self._kind, self._block)
            self._block = []


def contrasts_job(
    files: Sequence[Path],
    size: int,
    do: Callable[[Sequence[Contrast]], Sequence[Contrast]] | BatchTask[Contrast, Contrast],
    only: Callable[[Contrast], bool] = lambda row: True,
) -> ShardJob[Contrast, Contrast]:
    """Return the job that does the rows of each file that ``only`` is true of, ``size`` at a time."""

    def plan(number: int) -> ShardPlan[Contrast]:
        return ShardPlan(in_batches(list(filter(only, read_rows([files[number]], Contrast))), size))

    if isinstance(do, BatchTask):
        return ShardJob(Contrast, plan, do)
    return ShardJob(Contrast, plan, lambda _, batch: BatchResult(do(batch)))


def check_any_left(paths: Sequence[Path], dropped: DroppedRows, asked: int, what: str) -> None:
    """Raise :class:`DataError` where a stage had to leave out everything that it was asked for.

    What it wrote goes, so that the same command asks again: something other than the rows has to change.
    """
    if not asked or dropped.left_out < asked:
        return
    for path in paths:
        remove(path)
        remove(path.with_suffix(_LEFT_OUT))
    first = dropped.dropped[0]
    more = f" and {asked - 1} more" if asked > 1 else ""
    do = first.get("do") or "change what the reason names: the model with its chat template, the server, or the rows"
    raise DataError(f"no {what} is left: {first['reason']}", where=f"{what} {first['where']}{more}", do=do)


def failures_file(space: Workspace) -> Path:
    """Return where failures are noted, a JSON line each."""
    return space.run_dir / "failures.jsonl"


def summed(left_out: Iterable[Sequence[Dropped]], listed: str | None = None) -> DroppedRows:
    """Return how many were left out and the most frequent reasons, and the first :data:`NAMED` of them."""
    tally = Tally()
    named: list[dict[str, str]] = []
    for some in left_out:
        for one in some:
            tally.add(*one)
        named += map(_told, some[: NAMED - len(named)])
    counts = {key: value for key, value in tally.info.items() if key != "rows"}
    return DroppedRows(**counts, left_out=tally.unusable, dropped=named, list=listed)


class _Block(Generic[Item, Row]):
    """One block of a stage: its file, its pieces, and what is still missing.

    Attributes:
        waits: Whether the block's file is not there.
        missing: Items that failed to the last, where that stops the stage.
    """

    def __init__(self, space: Workspace, number: int, work: ShardJob[Item, Row], disk: GroupSync) -> None:
        self.space, self.number, self._disk = space, number, disk
        self.work: ShardJob[Item, Row] = work
        self.path = space.path(f"{number:05d}.parquet")
        self._pieces = space.path(f"{number:05d}.pieces")
        self._left_out = space.path(f"{number:05d}{_LEFT_OUT}")
        self._why: dict[Key, Failure] = {}
        self._plan: ShardPlan[Item] | None = None
        self._under_way, self._last_try = 0, False
        self.waits, self.missing = True, 0

    @property
    def left_out(self) -> list[Dropped]:
        """What a finished block left out."""
        if not self._left_out.exists():
            return []
        return [Dropped(**one) for one in parse_json(self._left_out.read_bytes())]

    def arrived(self) -> int:
        """Return how many rows of the block are on disk."""
        return count_rows(self.path) if self.path.exists() else sum(map(count_rows, self._pieces.glob("*.parquet")))

    def begin(self) -> Iterator[PlannedBatch]:
        """Plan the block, unless it is done, and yield the batches that have no piece yet."""
        if self.path.exists():
            remove(self._pieces)
            self.space.display.advance(count_rows(self.path))
            self.waits = False
            return
        plan = self.work.plan(self.number)
        self._remove_damaged()
        # What was refused before this process began is not asked for again.
        keys = {_written(key): key for key in (self.work.item_key(item) for batch in plan.batches for item in batch)}
        for line in read_json_lines(self._pieces / _REFUSED):
            if (key := keys.get(line["key"])) is not None:
                self._why[key] = Failure(DataError(line["reason"], do=line["do"]), refused=True)
        todo = []
        for place, batch in enumerate(plan.batches):
            open_items = [item for item in batch if self.work.item_key(item) not in self._why]
            if open_items and not self._piece(place).exists():
                todo.append(PlannedBatch(self.number, place, self.number * self.work.per_block + place, open_items))
            elif open_items:
                self.space.display.advance(count_rows(self._piece(place)))
            self.space.display.advance(len(batch) - len(open_items))
        yield from self._asked(plan, todo)

    def again(self) -> Iterator[PlannedBatch]:
        """Yield what failed, to be asked for once more."""
        plan = self.work.plan(self.number)
        missing = self._missing(plan)
        size = max(map(len, plan.batches))
        # Behind all planned batches, so that no number, and no seed, serves twice.
        first = max([len(plan.batches), *(int(path.stem) + 1 for path in self._pieces.glob("*.parquet"))])
        base, self._last_try = -1 - self.number * self.work.per_block, True
        places = enumerate(in_batches(missing, size), start=first)
        yield from self._asked(plan, [PlannedBatch(self.number, place, base - place, items) for place, items in places])

    def take(self, batch: PlannedBatch, done: BatchResult[Row]) -> None:
        """Write what came of a batch, and the block when it was the last one; a failure that ends the stage raises."""
        plan = self._plan
        assert plan is not None
        self._note(batch.items, done)
        self._under_way -= 1
        found = {self.work.row_key(row) for row in done.rows}
        whole = len(plan.batches) == 1 and all(self.work.item_key(item) in found for item in plan.batches[0])
        if whole and not self._pieces.exists():  # then it needs no piece
            self.space.display.advance(len(batch.items))
            self._write(plan, done.rows)
            return
        self._keep(batch.place, done)
        if not self._under_way:
            self._settle(plan)

    def _asked(self, plan: ShardPlan[Item], batches: Sequence[PlannedBatch]) -> Iterator[PlannedBatch]:
        self._plan, self._under_way = plan, len(batches)
        if not batches:
            self._settle(plan)
        yield from batches

    def _settle(self, plan: ShardPlan[Item]) -> None:
        """Write the block if every item has a row or won't get one; else it is asked for again, or ends the stage."""
        self._plan = None
        missing = len(self._missing(plan))
        if not missing or (self._last_try and self.work.failed == "drop"):
            self._write(plan, list(self._rows()))
        elif self._last_try:
            self.missing = missing

    def _note(self, items: Sequence[Item], done: BatchResult[Row]) -> None:
        """Note what failed."""
        for item in items:
            failure = done.failures.get(self.work.item_key(item))
            if failure is None:
                continue
            self._why[self.work.item_key(item)] = failure
            if failure.refused or not failure.ends:
                line = {"where": self.work.where(item), "reason": failure.error.what, "refused": failure.refused}
                append_json(failures_file(self.space), line, sync=False)
                self._disk.add(failures_file(self.space))

    def _keep(self, place: int, done: BatchResult[Row]) -> None:
        """Write a batch's rows and what was refused; then a failure that ends the stage is raised."""
        if done.rows:
            write_rows(self._piece(place), self.work.kind, done.rows, sync=False)
            self._disk.add(self._piece(place))
        self.space.display.advance(len(done.rows) + sum(failure.refused for failure in done.failures.values()))
        for key, failure in done.failures.items():
            if failure.refused:
                line = {"key": _written(key), "reason": failure.error.what, "do": failure.error.do}
                append_json(self._pieces / _REFUSED, line, sync=False)
                self._disk.add(self._pieces / _REFUSED)
        for failure in done.failures.values():
            if failure.ends:
                raise failure.error

    def _remove_damaged(self) -> None:
        """Remove pieces that can't be read: a power cut came before they were on disk."""
        for path in self._pieces.glob("*.parquet"):
            try:
                deque(read_rows([path], self.work.kind), maxlen=0)
            except StorageError:
                remove(path)

    def _missing(self, plan: ShardPlan[Item]) -> list[Item]:
        """Return the items without a row that may still get one."""
        found = {self.work.row_key(row) for row in self._rows()}
        items = [item for batch in plan.batches for item in batch]
        refused = {key for key, failure in self._why.items() if failure.refused}
        return [item for item in items if self.work.item_key(item) not in found | refused]

    def _write(self, plan: ShardPlan[Item], rows: Sequence[Row]) -> None:
        """Write what was left out, then the block in the plan's order; its pieces are of no use any more."""
        by_key = {self.work.row_key(row): row for row in rows}
        left_out = {one.where: one for one in plan.left_out}
        kept = []
        for item in (item for batch in plan.batches for item in batch):
            key = self.work.item_key(item)
            if key in by_key:
                kept.append(by_key[key])
            else:
                error = self._why[key].error
                left_out.setdefault(self.work.where(item), Dropped(self.work.where(item), error.what, error.do))
        if left_out:
            write_json(self._left_out, [_told(one) for one in left_out.values()])
        write_rows(self.path, self.work.kind, kept)
        remove(self._pieces)
        self.waits, self._plan = False, None

    def _rows(self) -> Iterator[Row]:
        return read_rows(sorted(self._pieces.glob("*.parquet")), self.work.kind)

    def _piece(self, place: int) -> Path:
        return self._pieces / f"{place:05d}.parquet"


def _told(one: Dropped) -> dict[str, str]:
    return {name: text for name, text in one._asdict().items() if text}


def _written(key: Key) -> str:
    """Return an item's key as text, for a file."""
    return json.dumps(key)
