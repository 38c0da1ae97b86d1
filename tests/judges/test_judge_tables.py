"""Judges' figures as people read them: in 80 columns, in a document, and with whatever names the data bring."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from selfsteer.commands.judge_tables import figures_table, kappa_table
from selfsteer.confidence_intervals import share_text, wilson
from selfsteer.judges import Answer, Judgement, Pair
from selfsteer.judges.agreement import agreement
from selfsteer.judges.tables import (
    Judged,
    common_kappa,
    figures_rows,
    kappa_rows,
    order_warning,
)
from tests.chat_templates import user


def judged(number: int, label: int | None, forward: int, backward: int, *, subset: str = "", valid=True) -> Judgement:
    pair = Pair(str(number), user(f"Q{number}"), "a", "b", label, subset)
    return Judgement(pair, Answer(forward, valid=valid), Answer(backward, valid=valid))


RIGHT, WRONG, FIRST, TIE = (1, 1, -1), (1, -1, 1), (1, 1, 1), (0, 1, -1)
TEN = [
    *(judged(number, *RIGHT, subset="one") for number in range(6)),
    *(judged(number, *WRONG, subset="one") for number in range(6, 8)),
    judged(8, *FIRST, subset="one"),
    judged(9, *TIE, subset="one"),
    judged(10, 1, 0, 0, subset="one", valid=False),
    judged(11, 1, 0, 1, subset="other"),
]


def text_of(table: Table, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(table)
    return out.getvalue()


def test_a_row_a_subset_with_the_figures_of_agreement():
    one, other, _ = figures_rows(Judged("me", TEN))
    found = agreement(TEN[:11])
    assert one[:5] == ("me", "one", "11 (1 tied)", "60 % (31-83)", "60 % (31-83)")
    kappa, (low, high) = found.debiased.kappa, found.debiased.kappa_interval
    assert one[5] == f"{kappa:.2f} ({low:.2f} to {high:.2f})" != "-"
    assert one[6] == share_text(11 / 20, found.first_share_interval)
    assert one[7:] == ("1", "0", "1") and other[7:] == ("0", "1", "0")
    assert len(one) == 10


def test_several_sets_have_a_row_for_all_pairs_together():
    """Pooled, not a mean of the sets' shares: 3 of 4 and 0 of 1 are 3 of 5."""
    rows = [
        *(judged(number, *RIGHT, subset="one") for number in range(3)),
        judged(3, *WRONG, subset="one"),
        judged(4, *FIRST, subset="other"),
        judged(5, *TIE, subset="other"),
    ]
    *own, pooled = figures_rows(Judged("me", rows))
    assert [row[1] for row in own] == ["one", "other"]
    found = agreement(rows)
    assert pooled[:4] == ("me", "all sets", "6 (1 tied)", share_text(3 / 5, wilson(3, 5)))
    kappa, (low, high) = found.debiased.kappa, found.debiased.kappa_interval
    assert pooled[5] == f"{kappa:.2f} ({low:.2f} to {high:.2f})" != own[0][5]
    assert pooled[7:] == ("1", "0", "0")
    table = text_of(figures_table([Judged("me", rows), Judged("you", rows[:4])]), 120)
    assert table.count("all sets") == 1, "one set needs no sum"


def test_a_set_of_that_name_keeps_its_own_row():
    rows = [judged(0, *RIGHT, subset="all sets"), judged(1, *WRONG, subset="other")]
    assert [row[1:4] for row in figures_rows(Judged("me", rows))] == [
        ("all sets", "1", share_text(1, wilson(1, 1))),
        ("other", "1", share_text(0, wilson(0, 1))),
        ("all sets", "2", share_text(1 / 2, wilson(1, 2))),
    ]


def test_what_is_unknown_is_a_dash():
    ((_, subset, n, *shares, _, _, _),) = figures_rows(Judged("me", [judged(1, None, 0, 0)]))
    assert (subset, n, shares) == ("-", "1", ["-"] * 4)
    assert share_text(None, None) == "-"
    assert share_text(0.744, (0.6, 0.844)) == "74 % (60-84)"


@pytest.mark.parametrize("width", [80, 200])
def test_no_word_and_no_figure_is_lost_on_a_terminal(width):
    name, subset = "qwen2.5-coder-1.5b (log-probs)", "Adversarial_Neighbor"
    rows = [judged(number, *(RIGHT if number % 3 else FIRST), subset=subset) for number in range(400)]
    table = figures_table([Judged(name, rows)])
    lines = text_of(table, width).splitlines()
    assert max(map(len, lines)) <= width
    columns = list(zip(*(line.ljust(width) for line in lines), strict=True))
    letters = sorted(letter for column in columns for letter in column if letter not in " ─")
    ((*_, n, strict, debiased, kappa, first, inconsistent, tie, invalid),) = figures_rows(Judged(name, rows))
    expected = [name, subset, n, strict, debiased, kappa, first, f"{inconsistent},{tie},{invalid}"]
    headers = "judge and set n strict debiased kappa the first shown wins inconsistent, tie, invalid"
    assert letters == sorted("".join([*expected, headers]).replace(" ", ""))


def test_names_with_markup_are_shown_as_they_are():
    odd = Judged("[bold]me[/]", [judged(1, *RIGHT, subset="[/x]")])
    assert "[bold]me[/]" in text_of(figures_table([odd]), 200) and "[/x]" in text_of(figures_table([odd]), 200)
    assert "[bold]me[/]" in text_of(kappa_table([odd, odd]), 200)


def test_judges_are_compared_on_the_pairs_that_both_judged():
    one = Judged("one", [judged(number, *(RIGHT if number % 2 else WRONG)) for number in range(10)])
    same = Judged("same", one.judgements[::-1])
    stopped = Judged("stopped", [judged(number, *(WRONG if number % 2 else RIGHT)) for number in range(4)])
    assert common_kappa(one, same) == (1, (1, 1))
    value, _ = common_kappa(one, stopped)
    assert value == pytest.approx(-1)
    none = Judged("none", [])
    assert common_kappa(one, none) is None
    rows = kappa_rows([one, same, none])
    assert [row[:2] for row in rows] == [("one", "same"), ("one", "none"), ("same", "none")]
    assert [row[2] for row in rows] == ["1.00 (1.00 to 1.00)", *["undefined: all verdicts are equal"] * 2]


@pytest.mark.parametrize(
    ("firsts", "place"), [(10, "first"), (9, "first"), (8, ""), (5, ""), (2, ""), (1, "second"), (0, "second")]
)
def test_a_judge_that_goes_by_the_place_is_called_so(firsts, place):
    rows = [judged(number, 1, *([1, 1] if number < firsts else [-1, -1])) for number in range(10)]
    found = order_warning("me", agreement(rows))
    assert bool(found) == bool(place)
    assert not place or f"me votes for the {place} response shown in {max(firsts, 10 - firsts)}0% of" in found


def test_a_few_votes_for_one_place_are_no_habit():
    rows = [judged(number, 1, *FIRST[1:]) for number in range(3)]
    assert order_warning("me", agreement(rows[:2])) == ""
    assert order_warning("me", agreement([*rows, *rows]))


def test_a_judge_without_a_vote_is_not_called_order_bound():
    rows = [judged(1, 1, 0, 0)]
    assert order_warning("me", agreement(rows)) == ""
