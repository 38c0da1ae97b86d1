"""Direction programs: for some aspects a program decides which response is better, without a judge."""

from __future__ import annotations

from collections.abc import Callable

from selfsteer.errors import ConfigError, did_you_mean
from selfsteer.queries.words import words_of
from selfsteer.records import Contrast, Finish

Direction = Callable[[Contrast], int]


def words(text: str) -> int:
    """Return how many words a text has, by :func:`selfsteer.queries.words.words_of`: its length without token ids."""
    return len(words_of(text))


def compare_lengths(lengths: tuple[int, int], finishes: tuple[Finish, Finish]) -> int:
    """Return which of two responses is longer; one that was cut off is only known to be at least as long as it is.

    Returns:
        1 the first, -1 the second, 0 where they are equal or a cut hides it (so two that were both cut always tie).
    """
    (first, second), (first_finish, second_finish) = lengths, finishes
    if first > second and second_finish == "stop":
        return 1
    if second > first and first_finish == "stop":
        return -1
    return 0


def pair_lengths(row: Contrast) -> tuple[int, int]:
    """Return the lengths of y+ and y-: tokens (end token not counted) where both carry ids, else words."""
    positive, negative = row.positive_token_ids, row.negative_token_ids
    if positive is None or negative is None:
        return words(row.positive_response), words(row.negative_response)
    # Without the end token: only a response that ended has one, so cut-off ones would look shorter than they are.
    return len(positive) - (row.positive_finish == "stop"), len(negative) - (row.negative_finish == "stop")


def _longer(row: Contrast) -> int:
    return compare_lengths(pair_lengths(row), (row.positive_finish, row.negative_finish))


DIRECTIONS: dict[str, Direction] = {"shorter": lambda row: -_longer(row), "longer": _longer}


def direction_of(program: str, contrast: Contrast) -> int:
    """Return which way y+ differs from y- of the same row.

    ``program`` is a name of :data:`DIRECTIONS`, the way in which y+ must differ. +1: as it must; -1: the other way; 0:
    a tie, or a cut-off response hides which is longer (:func:`compare_lengths`). No such program: :class:`ConfigError`.
    """
    if program not in DIRECTIONS:
        raise ConfigError(f"unknown direction program {program!r}", do=did_you_mean(program, DIRECTIONS))
    return DIRECTIONS[program](contrast)
