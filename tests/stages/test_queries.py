"""Where rows stand by their position over several files, and so which queries a round answers."""

from __future__ import annotations

import pytest

from selfsteer.records import Query, read_rows, write_rows
from selfsteer.runs.row_ranges import row_ranges


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three files of 4, 4 and 2 queries, numbered through."""
    folder = tmp_path_factory.mktemp("blocks")
    sizes = {"a": range(4), "b": range(4, 8), "c": range(8, 10)}
    for name, numbers in sizes.items():
        write_rows(folder / f"{name}.parquet", Query, [Query(str(number), []) for number in numbers])
    return [folder / f"{name}.parquet" for name in sizes]


@pytest.mark.parametrize(
    "wanted",
    [
        range(10),
        range(0),
        range(3),
        range(4, 8),
        range(3, 9),
        range(0, 10, 3),
        range(2, 10, 3),
        range(9, 10),
        range(7, 40, 7),
    ],
)
def test_the_rows_of_the_parts_are_those_at_the_wanted_positions(files, wanted):
    parts = row_ranges(files, wanted)
    found = [[row.id for row in list(read_rows([part.path], Query))[part.rows]] for part in parts]
    assert [int(name) for own in found for name in own] == [number for number in wanted if number < 10]
    assert [len(own) for own in found] == [part.size for part in parts] and all(found)
