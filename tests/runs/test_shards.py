"""Blocks of batches: what is on disk after every batch, what is asked again, what is left out and said."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from selfsteer.backends import Failure
from selfsteer.errors import DataError, ModelError, WorkFailed
from selfsteer.records import Query, read_rows
from selfsteer.runs.executor import BatchResult
from selfsteer.runs.progress import Display
from selfsteer.runs.results import DroppedRows
from selfsteer.runs.shards import NAMED, Dropped, ShardJob, ShardPlan, check_any_left, run_sharded
from selfsteer.runs.store import Workspace, in_batches


class Killed(BaseException):
    """Stands for a process that is gone."""


class Asked:
    """Does batches of queries as ``answer`` says of each, and remembers them.

    ``answer`` is given the query's number and how often it was asked before; None gives a row.
    """

    def __init__(self, answer: Callable[[int, int], Failure | None] = lambda number, before: None) -> None:
        self.answer = answer
        self.batches: list[tuple[int, list[str]]] = []

    def __call__(self, number: int, batch: Sequence[Query]) -> BatchResult[Query]:
        before = [name for _, names in self.batches for name in names]
        self.batches.append((number, [query.id for query in batch]))
        rows, failures = [], {}
        for query in batch:
            failure = self.answer(int(query.id), before.count(query.id))
            if failure is None:
                rows.append(query)
            else:
                failures[query.id] = failure
        return BatchResult(rows, failures)


def queries(count: int) -> list[Query]:
    return [Query(str(number), [{"role": "user", "content": "Hi"}]) for number in range(count)]


def workspace(folder) -> Workspace:
    return Workspace(folder, "stage", "key", Display(quiet=True))


def work(ask: Asked, count: int = 12, *, block: int = 6, size: int = 2, **options) -> tuple[int, ShardJob]:
    blocks = in_batches(queries(count), block)
    planned = [ShardPlan(in_batches(some, size)) for some in blocks]
    return len(blocks), ShardJob(Query, planned.__getitem__, ask, per_block=-(-block // size), **options)


def ids(paths) -> list[str]:
    return [row.id for row in read_rows(paths, Query)]


def failing(what: str = "the server answers with status 500", **options) -> Failure:
    return Failure(WorkFailed(what), **options)


def test_each_block_becomes_one_file_in_the_plans_order(tmp_path):
    ask = Asked()
    paths, info = run_sharded(workspace(tmp_path), *work(ask))
    assert [path.name for path in paths] == ["key-00000.parquet", "key-00001.parquet"]
    assert [ids([path]) for path in paths] == [list("012345"), ["6", "7", "8", "9", "10", "11"]]
    assert [number for number, _ in ask.batches] == [0, 1, 2, 3, 4, 5], "numbers go on from block to block"
    assert (info.left_out, info.dropped, info.reasons) == (0, [], [])
    assert sorted(path.name for path in (tmp_path / "stage").iterdir()) == [path.name for path in paths]


def test_done_again_it_asks_for_nothing(tmp_path):
    run_sharded(workspace(tmp_path), *work(Asked()))
    ask = Asked()
    paths, _ = run_sharded(workspace(tmp_path), *work(ask))
    assert ask.batches == [] and len(ids(paths)) == 12


@pytest.mark.parametrize("at", range(12))
def test_killed_in_any_batch_it_repeats_that_batch_alone(tmp_path, at):
    first = Asked()

    def dying(number: int, batch: Sequence[Query]) -> BatchResult[Query]:
        if len(first.batches) == at // 2 and at % 2 == 0:
            raise Killed
        done = first(number, batch)
        if len(first.batches) == at // 2 + 1 and at % 2:
            raise Killed  # the rows had come, and were not written yet
        return done

    count, plan = work(first)
    with pytest.raises(Killed):
        run_sharded(workspace(tmp_path), count, ShardJob(Query, plan.plan, dying, per_block=3))
    again = Asked()
    paths, _ = run_sharded(workspace(tmp_path), *work(again))
    assert [number for number, _ in again.batches] == list(range(at // 2, 6))
    assert ids(paths) == [str(number) for number in range(12)]


def test_killed_between_the_blocks_file_and_its_pieces_nothing_is_done_twice(tmp_path, monkeypatch):
    from selfsteer.runs import shards as blocks

    def dying(path):
        raise Killed

    monkeypatch.setattr(blocks, "remove", dying)
    with pytest.raises(Killed):
        run_sharded(workspace(tmp_path), *work(Asked()))
    monkeypatch.undo()
    again = Asked()
    paths, _ = run_sharded(workspace(tmp_path), *work(again))
    assert [number for number, _ in again.batches] == [3, 4, 5]
    assert ids(paths) == [str(number) for number in range(12)]
    assert not list((tmp_path / "stage").glob("*.pieces"))


@pytest.mark.parametrize("damage", ["empty", "cut", "zeros at the end", "zeros within", "a flipped byte"])
def test_a_piece_that_a_power_cut_damaged_is_done_again(tmp_path, damage):
    first = Asked(lambda number, before: failing("stop here", ends=True) if number == 11 else None)
    with pytest.raises(WorkFailed):
        run_sharded(workspace(tmp_path), *work(first, block=12))
    piece = tmp_path / "stage/key-00000.pieces/00002.parquet"
    data = bytearray(piece.read_bytes())
    if damage in ("empty", "cut"):
        del data[0 if damage == "empty" else len(data) // 2 :]
    elif damage == "a flipped byte":
        data[data.index(b"Hi")] ^= 1
    else:
        begin = len(data) // 2 if damage == "zeros at the end" else 4
        data[begin : begin + len(data) // 2] = bytes(len(data) // 2)
    piece.write_bytes(data)
    again = Asked()
    paths, _ = run_sharded(workspace(tmp_path), *work(again, block=12))
    assert again.batches == [(2, ["4", "5"]), (-7, ["11"])], "the damaged batch by its own number, and what had failed"
    assert ids(paths) == [str(number) for number in range(12)]


@pytest.mark.parametrize(("seconds", "groups"), [(0.0, 0), (0.25, 2), (2.0, 11)])
def test_pieces_are_synced_at_most_once_a_second_and_before_the_stage_ends(tmp_path, monkeypatch, seconds, groups):
    """A batch takes ``seconds`` by a clock of our own."""
    from selfsteer import files

    now, synced = [0.0], []
    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    sync = files._fsync
    monkeypatch.setattr(files, "_fsync", lambda path: (synced.append((now[0], path)), sync(path)))

    def slow(number: int, before: int) -> Failure | None:
        now[0] += seconds / 2  # two queries a batch
        return failing("stop here", ends=True) if number == 23 else None

    with pytest.raises(WorkFailed):
        run_sharded(workspace(tmp_path), *work(Asked(slow), 24, block=24))
    pieces = [path for _, path in synced if path.suffix == ".parquet"]
    assert {path.name for path in pieces} == {f"{place:05d}.parquet" for place in range(12)}, "none is left out"
    assert len(pieces) == 12, "none is synced twice"
    during = sorted({moment for moment, path in synced if path.suffix == ".parquet" and moment < now[0]})
    assert len(during) == groups and all(later - earlier >= 1 for earlier, later in pairwise(during))


def test_what_failed_is_asked_again_when_every_block_had_its_turn(tmp_path):
    ask = Asked(lambda number, before: failing() if number in (1, 3, 8) and before == 0 else None)
    paths, info = run_sharded(workspace(tmp_path), *work(ask))
    assert [names for _, names in ask.batches[6:]] == [["1", "3"], ["8"]]
    assert len({number for number, _ in ask.batches}) == len(ask.batches), "no number, so no seed, serves twice"
    assert ids(paths) == [str(number) for number in range(12)], "in the plan's order still"
    assert info.left_out == 0
    noted = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert [line["where"] for line in noted] == ["1", "3", "8"]
    assert noted[0]["reason"] == "the server answers with status 500"


def test_what_fails_to_the_last_stops_the_stage_and_loses_nothing(tmp_path):
    ask = Asked(lambda number, before: failing() if number in (1, 8) else None)
    with pytest.raises(WorkFailed, match=r"^2 requests still fail; answers on disk: 10\n") as error:
        run_sharded(workspace(tmp_path), *work(ask))
    assert "generation.endpoint.failed=drop" in error.value.do
    again = Asked()
    paths, _ = run_sharded(workspace(tmp_path), *work(again))
    assert [names for _, names in again.batches] == [["1"], ["8"]], "only these are asked for"
    assert ids(paths) == [str(number) for number in range(12)]


@pytest.mark.parametrize("block", [6, 2])
def test_where_nothing_arrived_nothing_is_said_to_be_on_disk(tmp_path, block):
    with pytest.raises(WorkFailed, match=r"^12 requests still fail; no answer has arrived"):
        run_sharded(workspace(tmp_path), *work(Asked(lambda number, before: failing()), block=block))
    with pytest.raises(WorkFailed, match=r"^11 requests still fail; answers on disk: 1\n"):
        run_sharded(
            workspace(tmp_path), *work(Asked(lambda number, before: failing() if number else None), block=block)
        )
    with pytest.raises(WorkFailed, match=r"^11 requests still fail; answers on disk: 1\n"):
        run_sharded(workspace(tmp_path), *work(Asked(lambda number, before: failing()), block=block))


def test_a_whole_batch_that_failed_is_asked_again_at_the_end(tmp_path):
    ask = Asked(lambda number, before: failing() if number in (2, 3) and before == 0 else None)
    paths, _ = run_sharded(workspace(tmp_path), *work(ask))
    assert [names for _, names in ask.batches[6:]] == [["2", "3"]]
    assert ids(paths) == [str(number) for number in range(12)]


def test_retries_that_were_cut_short_overwrite_nothing(tmp_path):
    """Three runs, each of which gets a part: pieces of one must not take the names of another's."""
    for gets in ({0, 2, 4}, {5}, {1, 3}):
        allowed = gets | set(range(6, 12))
        ask = Asked(lambda number, before, allowed=allowed: None if number in allowed else failing())
        try:
            paths, _ = run_sharded(workspace(tmp_path), *work(ask))
        except WorkFailed:
            continue
    assert ids(paths) == [str(number) for number in range(12)]


def test_failed_drop_goes_on_without_them_and_names_them(tmp_path):
    ask = Asked(lambda number, before: failing("it timed out") if number in (1, 8) else None)
    paths, info = run_sharded(workspace(tmp_path), *work(ask, failed="drop"))
    assert ids(paths) == [str(number) for number in range(12) if number not in (1, 8)]
    assert info.left_out == 2
    assert info.dropped == [{"where": "1", "reason": "it timed out"}, {"where": "8", "reason": "it timed out"}]


def test_a_refused_request_is_not_asked_again_and_does_not_stop_the_stage(tmp_path):
    ask = Asked(lambda number, before: failing("content filter", refused=True) if number == 4 else None)
    paths, info = run_sharded(workspace(tmp_path), *work(ask))
    assert len(ask.batches) == 6
    assert ids(paths) == [str(number) for number in range(12) if number != 4]
    assert info.dropped == [{"where": "4", "reason": "content filter"}]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_was_refused_before_the_stage_stopped_is_not_asked_for_again(tmp_path, size):
    """Request 1 is refused in a first run, in which 2 fails to the end; a second run asks for 2 alone."""
    refused = Failure(ModelError("content filter", do="leave it out"), refused=True)
    ask = Asked(lambda number, before: refused if number == 1 else failing() if number == 2 else None)
    with pytest.raises(WorkFailed):
        run_sharded(workspace(tmp_path), *work(ask, 3, block=3, size=size))
    again = Asked()
    paths, info = run_sharded(workspace(tmp_path), *work(again, 3, block=3, size=size))
    assert [names for _, names in again.batches] == [["2"]] and ids(paths) == ["0", "2"]
    assert info.dropped == [{"where": "1", "reason": "content filter", "do": "leave it out"}]


def test_a_stage_of_which_nothing_is_left_says_why_and_is_done_again(tmp_path):
    refused = Failure(ModelError("no such parameter", do="change it"), refused=True)
    paths, info = run_sharded(workspace(tmp_path), *work(Asked(lambda number, before: refused)))
    with pytest.raises(DataError) as found:
        check_any_left(paths, info, 12, "query")
    assert found.value.what == "no query is left: no such parameter"
    assert (found.value.where, found.value.do) == ("query 0 and 11 more", "change it")
    again = Asked()
    paths, info = run_sharded(workspace(tmp_path), *work(again))
    assert len(ids(paths)) == 12 and info.left_out == 0
    check_any_left(paths, info, 12, "query")
    check_any_left([], DroppedRows(), 0, "query")


def test_a_failure_that_ends_the_stage_keeps_what_did_arrive(tmp_path):
    key = Failure(ModelError("the server wants a valid key"), ends=True)
    ask = Asked(lambda number, before: key if number >= 3 else None)
    with pytest.raises(ModelError, match="valid key"):
        run_sharded(workspace(tmp_path), *work(ask))
    assert len(ask.batches) == 2, "no further batch is begun"
    again = Asked()
    paths, _ = run_sharded(workspace(tmp_path), *work(again))
    assert [names for _, names in again.batches] == [["4", "5"], ["6", "7"], ["8", "9"], ["10", "11"], ["3"]]
    assert ids(paths) == [str(number) for number in range(12)]
    assert not (tmp_path / "failures.jsonl").exists(), "what was never sent did not fail"


def test_a_block_of_one_batch_needs_no_piece_and_keeps_the_rows_of_a_part(tmp_path):
    ask = Asked(lambda number, before: failing() if number == 1 and before == 0 else None)
    paths, _ = run_sharded(workspace(tmp_path), *work(ask, 3, block=3, size=3))
    assert [names for _, names in ask.batches] == [["0", "1", "2"], ["1"]]
    assert ids(paths) == ["0", "1", "2"]


def test_what_the_plan_left_out_is_counted_and_the_first_are_named(tmp_path):
    plan = ShardPlan([queries(2)], [Dropped(f"q{number}", "too long") for number in range(NAMED + 5)])
    paths, info = run_sharded(workspace(tmp_path), 1, ShardJob(Query, lambda number: plan, Asked()))
    assert info.left_out == NAMED + 5 and len(info.dropped) == NAMED
    (file,) = (tmp_path / "stage").glob("*.left-out.json")
    assert len(json.loads(file.read_text())) == NAMED + 5
    again = run_sharded(workspace(tmp_path), 1, ShardJob(Query, lambda number: plan, Asked()))
    assert again == (paths, info)


def test_a_block_with_nothing_to_do_is_an_empty_file(tmp_path):
    paths, info = run_sharded(
        workspace(tmp_path), 1, ShardJob(Query, lambda number: ShardPlan([], [Dropped("q", "too long")]), Asked())
    )
    assert ids(paths) == [] and info.left_out == 1


def test_an_item_that_lost_several_requests_is_left_out_once(tmp_path):
    plan = ShardPlan([queries(4)])
    ask = Asked(lambda number, before: failing("refused", refused=True) if number < 2 else None)
    work = ShardJob(Query, lambda number: plan, ask, where=lambda item: "one query")
    assert run_sharded(workspace(tmp_path), 1, work)[1].left_out == 1


@pytest.mark.parametrize(
    ("answered", "said"),
    [
        (0, "none of 12 is done"),
        (1, "11 of 12 are left, the others are on disk"),
        (5, "7 of 12 are left, the others are on disk"),
        (11, "1 of 12 are left, the others are on disk"),
    ],
)
@pytest.mark.parametrize("size", [2, 6])
def test_what_is_said_to_be_left_has_no_answer(tmp_path, answered, said, size):
    from selfsteer.sanitize import SafeConsole

    console = SafeConsole(file=io.StringIO(), width=200)
    display = Display(console)
    display.begin("sample", 12)

    def answer(number: int, before: int) -> Failure | None:
        return None if number < answered else failing("the key is invalid", ends=True)

    with pytest.raises(WorkFailed, match="the key is invalid"):
        run_sharded(Workspace(tmp_path, "stage", "key", display), *work(Asked(answer), size=size))
    assert f"stopped: {said}" in console.file.getvalue()


def test_progress_counts_what_failed_when_it_arrives(tmp_path):
    counted: list[float] = []

    class Counting(Display):
        def advance(self, units: float = 1) -> None:
            counted.append(units)

    ask = Asked(lambda number, before: failing() if number in (3, 7) and not before else None)
    run_sharded(Workspace(tmp_path, "stage", "key", Counting(quiet=True)), *work(ask))
    assert sum(counted) == 12
