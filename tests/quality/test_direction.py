"""Direction programs on hand-made lengths."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from selfsteer.errors import ConfigError
from selfsteer.quality import DIRECTIONS, direction_of
from selfsteer.quality.direction import pair_lengths
from selfsteer.records import Contrast

MakeRow = Callable[..., Contrast]


def row_of(make_row: MakeRow, positive: tuple[int, str], negative: tuple[int, str]) -> Contrast:
    """Two responses of so many content tokens; one that stopped also carries its end token."""
    (n_positive, positive_finish), (n_negative, negative_finish) = positive, negative
    return make_row(
        positive_token_ids=[1] * (n_positive + (positive_finish == "stop")),
        negative_token_ids=[1] * (n_negative + (negative_finish == "stop")),
        positive_finish=positive_finish,
        negative_finish=negative_finish,
    )


@pytest.mark.parametrize(
    ("positive", "negative", "shorter"),
    [
        ((3, "stop"), (5, "stop"), 1),
        ((5, "stop"), (3, "stop"), -1),
        ((4, "stop"), (4, "stop"), 0),
        ((8, "length"), (8, "length"), 0),  # both at the cap
        ((6, "length"), (8, "length"), 0),  # cleaning cut one back: which is longer was never seen
        ((3, "stop"), (8, "length"), 1),
        ((8, "length"), (3, "stop"), -1),
        ((3, "length"), (5, "stop"), 0),  # cut off: at least 3, perhaps more than 5
        ((4, "stop"), (4, "length"), 0),
        ((5, "stop"), (3, "length"), 0),
    ],
)
def test_both_programs(make_row: MakeRow, positive: tuple[int, str], negative: tuple[int, str], shorter: int) -> None:
    row = row_of(make_row, positive, negative)
    assert direction_of("shorter", row) == shorter
    assert direction_of("longer", row) == -shorter


def test_the_end_token_is_not_counted(make_row: MakeRow) -> None:
    assert pair_lengths(row_of(make_row, (4, "stop"), (5, "length"))) == (4, 5)


def test_words_where_a_row_has_no_ids_or_only_one_side(make_row: MakeRow) -> None:
    assert pair_lengths(make_row(positive_response="a b", negative_response="a b  c\nd")) == (2, 4)
    assert pair_lengths(make_row(positive_response="a b", negative_response="a", positive_token_ids=[1] * 9)) == (2, 1)
    assert pair_lengths(make_row(positive_response="天空是蓝色的。", negative_response="蓝色。")) == (6, 2)


def test_unknown_program_is_refused(make_row: MakeRow) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'shorter'.*Available: longer, shorter"):
        direction_of("shoter", make_row())


def test_programs_are_a_literal_dict() -> None:
    assert list(DIRECTIONS) == ["shorter", "longer"]
