"""What every judge is put through: both orders, two verdicts, and answers that are kept as soon as they are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from selfsteer.judges import Answer, AnswerCache, Judgement, Pair, PresentedPair, judge_pairs
from selfsteer.judges.base import answer_key
from tests.chat_templates import user


class Scripted:
    """A judge that says what a function of the two responses says; ``asked`` are its batches."""

    def __init__(self, say: Callable[[str, str], Answer], *, key: str = "k", batch_size: int = 2) -> None:
        self.say, self.key, self.batch_size, self.name = say, key, batch_size, "scripted"
        self.asked: list[list[tuple[str, str]]] = []

    def answer(self, shown: Sequence[PresentedPair]) -> list[Answer]:
        self.asked.append([one.responses for one in shown])
        return [self.say(*one.responses) for one in shown]


def by_odds(odds: float) -> Answer:
    return Answer((odds > 0) - (odds < 0), log_odds=odds)


def longer(first: str, second: str) -> Answer:
    return by_odds(float(len(first) - len(second)))


def pair(first: str, second: str, **changes: Any) -> Pair:
    return Pair(**({"id": f"{first}|{second}", "prompt": user("Q"), "first": first, "second": second} | changes))


PAIRS = [pair("a", "bbb"), pair("cccc", "dd"), pair("e" * 9, "f" * 12)]


def test_every_pair_is_shown_in_both_orders():
    judge = Scripted(longer)
    judged = judge_pairs(judge, PAIRS)
    shown = [responses for batch in judge.asked for responses in batch]
    both = [order for one in PAIRS for order in ((one.first, one.second), (one.second, one.first))]
    assert sorted(shown) == sorted(both)
    assert [one.pair for one in judged] == PAIRS
    assert [(one.forward.log_odds, one.backward.log_odds) for one in judged] == [(-2, 2), (2, -2), (-3, 3)]
    assert [one.strict for one in judged] == [one.debiased for one in judged] == [-1, 1, -1]


def test_a_liking_for_the_first_place_takes_the_strict_verdict_and_cancels_in_the_debiased_one():
    judged = judge_pairs(Scripted(lambda one, other: by_odds(10.0 + len(one) - len(other))), PAIRS)
    assert [one.votes for one in judged] == [(1, -1)] * 3
    assert {one.outcome for one in judged} == {"inconsistent"}
    assert [one.strict for one in judged] == [0, 0, 0]
    assert [one.log_odds for one in judged] == [-2, 2, -3]
    assert [one.debiased for one in judged] == [-1, 1, -1]


def test_a_judge_of_words_that_always_says_the_first_has_no_verdict_at_all():
    judged = judge_pairs(Scripted(lambda one, other: Answer(1, text="A")), PAIRS)
    assert [(one.strict, one.debiased, one.log_odds) for one in judged] == [(0, 0, None)] * 3


INVALID = Answer(0, text="hm", valid=False)


@pytest.mark.parametrize(
    ("forward", "backward", "outcome", "strict", "debiased"),
    [
        (Answer(1), Answer(-1), "consistent", 1, 1),
        (Answer(-1), Answer(1), "consistent", -1, -1),
        (Answer(1), Answer(1), "inconsistent", 0, 0),
        (Answer(0), Answer(0), "tie", 0, 0),
        (Answer(0), Answer(1), "tie", 0, -1),
        (Answer(1), Answer(0), "tie", 0, 1),
        (Answer(1), INVALID, "invalid", 0, 0),  # one order alone may be nothing but the place
        (INVALID, Answer(1), "invalid", 0, 0),
        (by_odds(3.0), INVALID, "invalid", 0, 0),
        (INVALID, INVALID, "invalid", 0, 0),
        (by_odds(2.0), by_odds(0.5), "inconsistent", 0, 1),
        (by_odds(0.5), by_odds(2.0), "inconsistent", 0, -1),
        (by_odds(1.0), by_odds(1.0), "inconsistent", 0, 0),
        (by_odds(0.0), by_odds(-0.5), "tie", 0, 1),
        (by_odds(2.0), Answer(-1), "consistent", 1, 1),  # one log-odds alone is no average: the votes count
    ],
)
def test_what_two_answers_make_of_a_pair(forward, backward, outcome, strict, debiased):
    judged = Judgement(PAIRS[0], forward, backward)
    assert (judged.outcome, judged.strict, judged.debiased) == (outcome, strict, debiased)


def test_log_odds_are_averaged_over_the_orders_in_the_pairs_numbering():
    assert Judgement(PAIRS[0], by_odds(2.0), by_odds(0.5)).log_odds == 0.75
    assert Judgement(PAIRS[0], by_odds(2.0), Answer(-1)).log_odds is None
    assert Judgement(PAIRS[0], Answer(1), by_odds(2.0)).log_odds is None


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_batches_are_full_largest_first_and_do_not_change_what_comes_out(batch_size):
    judge = Scripted(longer, batch_size=batch_size)
    assert judge_pairs(judge, PAIRS) == judge_pairs(Scripted(longer), PAIRS)
    sizes = [len(batch) for batch in judge.asked]
    assert sum(sizes) == 6 and set(sizes[:-1]) <= {batch_size} and sizes[-1] <= batch_size
    costs = [len(one) + len(other) for batch in judge.asked for one, other in batch]
    assert costs == [21, 21, 6, 6, 4, 4]


def test_pairs_of_the_same_content_are_shown_once_and_all_judged():
    judge = Scripted(longer, batch_size=100)
    twins = [pair("a", "bb", id="1"), pair("a", "bb", id="2", label=1), pair("bb", "a", id="3")]
    judged = judge_pairs(judge, twins)
    assert sorted(judge.asked[0]) == [("a", "bb"), ("bb", "a")]
    assert [(one.pair.id, one.strict) for one in judged] == [("1", -1), ("2", -1), ("3", 1)]


def test_progress_counts_presentations_and_starts_with_what_is_kept():
    cache = AnswerCache(None)
    judge_pairs(Scripted(longer), PAIRS[:1], cache)
    seen: list[tuple[int, int]] = []
    judge_pairs(Scripted(longer), PAIRS, cache, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 6), (4, 6), (6, 6)]


def test_nothing_is_asked_for_no_pairs():
    judge = Scripted(longer)
    assert judge_pairs(judge, []) == [] and judge.asked == []


# --- what is kept


class Killed(BaseException):
    """As a signal would end the process."""


def test_what_was_answered_before_a_kill_is_not_asked_again(tmp_path):
    def dies(first: str, second: str) -> Answer:
        if len(judge.asked) == 2:
            raise Killed
        return longer(first, second)

    judge = Scripted(dies)
    with pytest.raises(Killed):
        judge_pairs(judge, PAIRS, AnswerCache(tmp_path / "k.jsonl"))
    again = Scripted(longer)
    judged = judge_pairs(again, PAIRS, AnswerCache(tmp_path / "k.jsonl"))
    first_batch = judge.asked[0]
    assert len(first_batch) == 2
    asked = [responses for batch in again.asked for responses in batch]
    assert len(asked) == 4 and not set(asked) & set(first_batch)
    assert judged == judge_pairs(Scripted(longer), PAIRS)
    third = Scripted(longer)
    assert judge_pairs(third, PAIRS, AnswerCache(tmp_path / "k.jsonl")) == judged
    assert third.asked == []


def test_a_judge_without_a_key_is_asked_each_time_and_leaves_no_file(tmp_path):
    cache = AnswerCache(tmp_path / "answers.jsonl")
    for _ in range(2):
        judge = Scripted(longer, key="", batch_size=100)
        judge_pairs(judge, PAIRS, cache)
        assert len(judge.asked[0]) == 6
    assert not list(tmp_path.iterdir())


FULL = Pair("id", user("Q"), "one", "two", 1, "subset", "criterion", "stop", "length")


def test_the_key_is_the_judge_and_the_content():
    judge = Scripted(longer)
    known = answer_key(judge, PresentedPair(FULL, False))
    for change in (
        {"prompt": user("Q?")},
        {"prompt": user("Q", "system")},
        {"first": "one "},
        {"second": "two "},
        {"criterion": ""},
        {"first_finish": "length"},
        {"second_finish": "stop"},
    ):
        assert answer_key(judge, PresentedPair(replace(FULL, **change), False)) != known, change
    assert answer_key(judge, PresentedPair(FULL, True)) != known
    assert answer_key(Scripted(longer, key="other"), PresentedPair(FULL, False)) != known
    same = replace(FULL, id="other", label=-1, subset="")
    assert answer_key(Scripted(longer, batch_size=7), PresentedPair(same, False)) == known


def test_a_swapped_pair_is_the_same_presentation_as_its_mirror_image():
    mirrored = Pair("id", user("Q"), "two", "one", -1, "subset", "criterion", "length", "stop")
    judge = Scripted(longer)
    assert answer_key(judge, PresentedPair(FULL, True)) == answer_key(judge, PresentedPair(mirrored, False))
    assert answer_key(judge, PresentedPair(FULL, False)) == answer_key(judge, PresentedPair(mirrored, True))
