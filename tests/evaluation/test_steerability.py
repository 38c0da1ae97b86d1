"""The probe's figures and verdict, on rows whose outcome is known by hand."""

from __future__ import annotations

import pytest

from selfsteer.evaluation.steerability import Direction, direction_by, probe_figures
from tests.example_rows import contrast


def scored(id, margin):
    """A row whose steering margin is ``margin``: y+ gains it under x+, y- is the same everywhere."""
    flat = {"prompt": -1.0, "positive_prompt": -1.0, "negative_prompt": -1.0}
    scores = {name: dict(flat) for name in ("positive_response", "negative_response", "original_response")}
    scores["positive_response"]["positive_prompt"] += margin
    return contrast(id, scores=scores)


@pytest.mark.parametrize(
    ("verdicts", "accuracy", "standing"),
    [
        ([1] * 10, 1.0, "steers"),
        ([-1] * 10, 0.0, "below chance"),
        ([1] * 5 + [-1] * 5, 0.5, "unclear"),
        ([0] * 10, 0.5, "unclear"),
        ([1, 0, 0, -1, -1], 0.4, "unclear"),
    ],
)
def test_ties_count_one_half_and_the_interval_decides(verdicts, accuracy, standing):
    found = Direction.from_verdicts("judge", verdicts)
    assert (found.accuracy, found.standing, found.n) == (accuracy, standing, len(verdicts))
    assert (found.right, found.tied, found.wrong) == tuple(verdicts.count(value) for value in (1, 0, -1))


def test_refusal_rests_on_accuracy_below_one_half_and_nothing_else():
    assert Direction.from_verdicts("judge", [1, -1, -1]).refused
    assert not any(Direction.from_verdicts("judge", even).refused for even in ([1, -1], [0, 0]))


def test_nobody_who_can_tell_leaves_the_direction_unknown_however_large_the_margin():
    found = probe_figures({"Wit": [scored("a", 3.0), scored("b", 4.0)]}, lambda row: None)
    assert found.direction is None and found.standing == "unknown" and not found.refused
    assert found.margin.mean == pytest.approx(3.5) and found.margin.matters


def test_each_aspect_has_its_own_figures_and_all_pairs_are_told_together():
    rows = {"Wit": [scored("a", 1.0), scored("b", -2.0)], "Care": [scored("c", 0.5)]}
    verdicts = {"a": ("program", 1), "b": ("program", -1), "c": ("judge", -1)}
    found = probe_figures(rows, lambda row: verdicts[row.id])
    wit, care = found.aspects
    assert (wit.aspect, wit.n, wit.direction.accuracy, wit.margin.mean) == ("Wit", 2, 0.5, pytest.approx(-0.5))
    assert (care.direction.accuracy, care.direction.by) == (0.0, "judge")
    assert found.direction.by == "program, judge" and found.direction.accuracy == pytest.approx(1 / 3)
    assert found.refused and found.n == 3 and not wit.margin.matters


def test_a_single_pair_has_no_margin_because_it_has_no_interval():
    (aspect,) = probe_figures({"Wit": [scored("a", 1.0)]}, lambda row: ("program", 1)).aspects
    assert aspect.margin is None and aspect.direction.n == 1


def test_rows_that_nobody_can_tell_about_are_not_counted_as_wrong():
    found = direction_by([scored("a", 1.0), scored("b", 1.0)], lambda row: ("program", 1) if row.id == "a" else None)
    assert (found.n, found.accuracy) == (1, 1.0)


def test_an_aspect_without_rows_has_no_figures():
    (aspect,) = probe_figures({"Wit": []}, lambda row: ("program", 1)).aspects
    assert (aspect.n, aspect.margin, aspect.direction, aspect.example) == (0, None, None, None)
