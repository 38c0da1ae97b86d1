"""Numbers as words."""

from __future__ import annotations

import pytest

from selfsteer.report import formatting as wording


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0, 0, "0"), (-0.0001, 2, "0.00"), (-1.25, 1, "−1.2"), (1234567, 0, "1,234,567"), (126.04, 1, "126.0")],
)
def test_number(value: float, digits: int, text: str) -> None:
    assert wording.number(value, digits) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 %"),
        (0.62, "62 %"),
        (1.0, "100 %"),
        (0.004, "0.4 %"),
        (0.021, "2.1 %"),
        (0.996, "99.6 %"),
        (0.0996, "10 %"),
    ],
)
def test_percent(value: float, text: str) -> None:
    assert wording.percent(value) == text.replace(" ", wording.NARROW_SPACE)


@pytest.mark.parametrize(
    ("value", "text"), [(0.19, "+19 points"), (-0.062, "−6.2 points"), (0.0, "0 points"), (-0.00001, "0.0 points")]
)
def test_signed_points(value: float, text: str) -> None:
    assert wording.signed(wording.points(value)) == text.replace(" ", wording.NARROW_SPACE)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (4.21, "4.2 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (210, "3 min 30 s"), (3725, "1 h 2 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text.replace(" ", "\u00a0")


@pytest.mark.parametrize(
    ("value", "text"), [(1e-05, "1e-5"), (5e-07, "5e-7"), (0.002, "0.002"), (1.5e-10, "1.5e-10"), (1e20, "1e20")]
)
def test_rate(value: float, text: str) -> None:
    assert wording.rate(value) == text


@pytest.mark.parametrize(("value", "text"), [(2, "2"), (0.3333333, "0.3333"), (-1.5, "−1.5"), (1e-05, "1e−05")])
def test_plain(value: float, text: str) -> None:
    assert wording.plain(value) == text


def test_interval_needs_both_ends() -> None:
    assert wording.interval([0.38, 0.81], lambda value: wording.number(value, 2)) == "0.38 to 0.81"
    assert wording.interval([-41, -19], wording.number) == "−41 to −19"
    assert wording.interval([None, 0.81], wording.number) == wording.interval([], wording.number) == ""


def test_nothing_is_not_zero() -> None:
    assert wording.maybe(None, wording.number) == "not measured"
    assert wording.maybe(0.0, wording.number) == "0"


def test_count() -> None:
    assert wording.count(1, "query", "queries") == "1 query"
    assert wording.count(0, "pair") == "0 pairs"
    assert wording.count(None, "pair") == "an unknown number of pairs"


def test_label_is_one_short_line() -> None:
    assert wording.label(" a\n b ") == "a b"
    assert wording.label("x" * 70) == "x" * 59 + "…"
    assert wording.label(None) == wording.label(" ") == "not recorded"
    assert wording.label(0) == "0"


def test_moment() -> None:
    assert wording.moment("2026-11-22T10:00:00+00:00") == "2026-11-22, 10:00 UTC"
    assert wording.moment("2026-11-22T10:00:00") == "2026-11-22, 10:00"
    assert wording.moment("soon") == "soon"
    assert wording.moment(None) == "not recorded"
