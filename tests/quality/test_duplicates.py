"""Rows that repeat an earlier one: what counts as the same, whatever the blocks and wherever a run was killed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from selfsteer.errors import InputError
from selfsteer.quality import FilterChain, apply_filters
from selfsteer.quality.duplicates import Repeats, _keys, _pairs
from selfsteer.records import Contrast

MakeRow = Callable[..., Contrast]
LONG = "Write a short conclusion for a thread of ten messages on the many uses of compost in a small garden"  # 20 words


def dropped(rows: list[Contrast], **settings: Any) -> dict[str, str]:
    report = apply_filters(rows, [{"duplicates": settings}])
    return {row.id: row.drop_reason.removeprefix("duplicates: ") for row in report.rows if not row.kept}


def asking(make_row: MakeRow, *queries: str, **changes: Any) -> list[Contrast]:
    return [
        make_row(f"r{i}", query=query, positive_response=f"answer {i}", **changes) for i, query in enumerate(queries)
    ]


@pytest.mark.parametrize(
    "again",
    [
        "write a short conclusion, for a thread of ten messages on the many uses of compost in a small garden!",
        f" {LONG}\n",
    ],
)
def test_the_same_words_are_the_same_query(make_row: MakeRow, again: str) -> None:
    found = dropped(asking(make_row, LONG, "What is the capital of Peru?", again))
    assert found == {"r2": "its query is that of row 'r0'"}


def test_nearly_the_same_words_are_dropped_from_the_given_share_on(make_row: MakeRow) -> None:
    # 19 pairs of words; another last word changes one of them: 18 shared of 20 in all
    rows = asking(make_row, LONG, LONG.replace("garden", "park"))
    assert dropped(rows) == {"r1": "its query shares 90% of the word pairs with that of row 'r0'"}
    assert dropped(rows, similarity=0.9) and not dropped(rows, similarity=0.91)
    assert not dropped(rows, similarity=1)


@pytest.mark.parametrize("other", [LONG.replace("ten", "10") + " ", LONG + " + 2", LONG + " 7"])
def test_numbers_and_symbols_make_another_query(make_row: MakeRow, other: str) -> None:
    assert not dropped(asking(make_row, LONG, other))
    assert not dropped(asking(make_row, "Simplify x + 1", "Simplify x - 1"))


def test_earlier_turns_and_rounds_make_another_query(make_row: MakeRow) -> None:
    one, other = asking(make_row, LONG, LONG)
    turns = [{"role": "system", "content": "You are a pirate."}, *other.prompt]
    assert not dropped([one, make_row("r1", positive_response="x", prompt=turns)])
    assert not dropped([one, make_row("r0", query=LONG, round=2)]), "a later round aligns on the same queries"


def test_both_responses_must_be_those_of_an_earlier_row(make_row: MakeRow) -> None:
    same = make_row("r1", query="And of Spain?", positive_response="paris", original_response="another")
    only_one = make_row("r2", query="And of Italy?", negative_response="Long ago there was a city.")
    assert dropped([make_row("r0"), same, only_one]) == {"r1": "y+ and y- are those of row 'r0'"}


def test_rows_that_an_earlier_filter_dropped_are_no_earlier_rows(make_row: MakeRow) -> None:
    rows = [make_row("r0", positive_response=""), make_row("r1"), make_row("r2")]
    report = apply_filters(rows, ["duplicates"])
    assert [row.drop_reason.partition(":")[0] for row in report.rows] == ["empty", "", "duplicates"]


def test_blocks_in_any_order_give_the_same_rows(make_row: MakeRow) -> None:
    rows = asking(make_row, *(f"{LONG} and number {i % 7}" for i in range(30)))
    chain = FilterChain(["duplicates"])
    chain.fit(lambda: iter(rows))
    backwards = {row.id: chain.apply(row) for row in reversed(rows)}
    expected = apply_filters(rows, ["duplicates"])
    assert [backwards[row.id] for row in rows] == expected.rows
    assert expected.counts == chain.counts == {"empty": 0, "duplicates": 23, "kept": 7}


def test_two_rows_of_one_id_are_refused(make_row: MakeRow) -> None:
    with pytest.raises(InputError, match="two rows have the same id") as caught:
        apply_filters([make_row("twin"), make_row("twin", query="And of Spain?")], ["duplicates"])
    assert "'twin'" in str(caught.value) and caught.value.exit_code == 2


def test_a_key_that_many_queries_share_costs_a_bounded_number_of_comparisons(make_row: MakeRow) -> None:
    repeats = Repeats(0.99)
    compared: list[int] = []
    execute = repeats.execute

    def counting(statement, values=()):
        compared[-1] += statement.startswith("SELECT id, pairs FROM queries")
        return execute(statement, values)

    repeats.execute = counting  # type: ignore[method-assign]
    for row in asking(make_row, *(f"{LONG} called {chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(200))):
        compared.append(0)
        repeats.add(row)
    assert 32 <= max(compared[150:]) < 150, "not with all that came before"


@pytest.mark.parametrize(("share", "missed"), [(0.8, 0), (0.7, 15)])
def test_few_near_repeats_share_no_key(share: float, missed: int) -> None:
    """1,850 made-up pairs of 20 to 80 words that share ``share`` to ``share`` + 0.05 of their word pairs."""
    made, found = random.Random(1), []
    while len(found) < 1850:
        words = [f"w{made.randrange(5000)}" for _ in range(made.randint(20, 80))]
        other = list(words)
        for place in made.sample(range(len(words)), max(1, round(len(words) * (1 - share) / (1 + share) / 2))):
            other[place] = f"w{made.randrange(5000)}"
        pairs = [_pairs(text) for text in (words, other)]
        both, each = (len(set.intersection(*map(set, pairs))), len(set.union(*map(set, pairs))))
        if share <= both / each < share + 0.05:
            found.append(bool(set(_keys(pairs[0], "")) & set(_keys(pairs[1], ""))))
    assert found.count(False) == missed
