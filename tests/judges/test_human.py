"""A person as a judge: order, blindness, going on where it stopped, going back, skipping. No input or output."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfsteer.errors import InputError, StorageError
from selfsteer.judges import AnswerCache, PresentedPair, judge_pairs
from selfsteer.judges.base import answer_key
from selfsteer.judges.human import AnnotationSession, HumanJudge, Presentation, collect, plan
from tests.chat_templates import user
from tests.judges.human_example import longer, pair, pairs

ANN = HumanJudge("Ann")


def sitting(count: int = 3, cache: AnswerCache | None = None) -> AnnotationSession:
    return AnnotationSession(ANN, pairs(count), AnswerCache(None) if cache is None else cache)


def current(reading: AnnotationSession) -> Presentation:
    assert reading.open is not None
    return reading.open


def read_all(reading: AnnotationSession) -> None:
    while reading.open:
        reading.act(longer(reading.open))


# --- order


def test_every_pair_comes_once_in_one_order_then_as_far_away_in_the_other():
    wanted = pairs(20)
    shown = list(plan(ANN, wanted).values())
    assert sorted(showing.pair.id for showing in shown[:20]) == sorted(pair.id for pair in wanted)
    for early, late in zip(shown[:20], shown[20:], strict=True):
        assert early.pair == late.pair
        assert early.swapped != late.swapped


def test_neither_the_sequence_nor_who_stands_first_follows_the_data():
    shown = list(plan(ANN, pairs(200)).values())[:200]
    numbers = [int(showing.pair.id.removeprefix("secret-id-")) for showing in shown]
    assert numbers != sorted(numbers)
    assert 70 < sum(showing.swapped for showing in shown) < 130  # 200 fair draws: 100 with a deviation of 7
    assert 70 < sum(showing.swapped for showing in shown if showing.pair.label == -1) < 130


def test_the_order_is_drawn_from_the_content_and_the_reader_alone():
    renamed = [pair(number, id=f"other-{number}", label=1, subset="") for number in range(20)]
    mirrored = [pair(n, first=f"Short {n}.", second=f"A longer answer to question {n}.") for n in range(20)]
    expected = [showing.responses for showing in plan(ANN, pairs(20)).values()]
    assert [showing.responses for showing in plan(ANN, renamed[::-1]).values()] == expected
    assert [showing.responses for showing in plan(ANN, mirrored).values()] == expected
    assert [showing.responses for showing in plan(HumanJudge("Bo"), pairs(20)).values()] != expected


def test_the_same_content_is_shown_once():
    assert len(plan(ANN, [pair(1), pair(1, id="again"), pair(2, second="Same.", first="Same.")])) == 3


# --- blind


def test_a_presentation_holds_the_texts_and_nothing_that_tells_the_responses_apart():
    assert {field.name for field in fields(Presentation)} == {"id", "prompt", "criterion", "responses", "cut", "state"}
    reading = AnnotationSession(ANN, [pair(1, label=1), pair(2)], AnswerCache(None))
    for _ in range(4):
        seen = str(asdict(current(reading)))
        assert "secret" not in seen
        assert "first" not in seen
        reading.act("=")


def test_cut_responses_are_marked_in_the_order_of_presentation():
    reading = AnnotationSession(ANN, [pair(1, first_finish="length")], AnswerCache(None))
    for _ in range(2):
        shown = current(reading)
        assert shown.cut == tuple("longer" in response for response in shown.responses)
        reading.act("=")


def test_texts_are_made_safe_to_show():
    hostile = pair(1, prompt=user("a\x1b[2J"), first="b\x07", second="c\x9b", criterion="d\x00")
    shown = current(AnnotationSession(ANN, [hostile], AnswerCache(None)))
    assert shown.prompt[0]["content"] == "a␛[2J"
    assert set(shown.responses) == {"b␇", "c�"}
    assert shown.criterion == "d␀"


# --- answers


def test_judgements_are_in_the_numbering_of_the_pairs_and_in_their_order():
    reading = sitting(5)
    read_all(reading)
    found = reading.judgements()
    assert [judgement.pair for judgement in found] == pairs(5)
    assert {(judgement.strict, judgement.debiased, judgement.outcome) for judgement in found} == {(1, 1, "consistent")}


def test_a_reader_of_one_place_is_inconsistent_and_equally_good_is_a_tie():
    for key, outcome in (("1", "inconsistent"), ("2", "inconsistent"), ("=", "tie")):
        reading = sitting(2)
        while reading.open:
            reading.act(key)
        assert [judgement.outcome for judgement in reading.judgements()] == [outcome] * 2


def test_only_pairs_with_both_answers_are_judged():
    reading = sitting(3)
    for done, complete in enumerate([0, 0, 0, 0, 1, 2, 3]):
        assert (reading.done, len(reading.judgements())) == (done, complete)
        assert reading.so_far().startswith(f"{done} of 6 answered; {complete} of 3 pairs are complete")
        if reading.open:
            reading.act("1")


def test_answers_are_those_that_judge_pairs_finds():
    cache = AnswerCache(None)
    with pytest.raises(InputError, match="Ann has not judged all"):
        judge_pairs(ANN, pairs(3), cache)
    found = collect(ANN, pairs(3), cache, read_all)
    assert judge_pairs(ANN, pairs(3), cache) == found
    with pytest.raises(InputError):
        judge_pairs(HumanJudge("Bo"), pairs(3), cache)


# --- going on


def test_a_sitting_can_end_after_any_answer_and_the_next_goes_on_there(tmp_path):
    unbroken = sitting(3)
    order = []
    while unbroken.open:
        order.append(unbroken.open.id)
        unbroken.act(longer(unbroken.open))
    path = tmp_path / "answers.jsonl"
    for done, id in enumerate(order):
        reading = sitting(3, AnswerCache(path))
        assert (reading.done, current(reading).id, reading.can_go_back) == (done, id, False)
        reading.act(longer(current(reading)))
    assert sitting(3, AnswerCache(path)).open is None
    assert sitting(3, AnswerCache(path)).judgements() == unbroken.judgements()


def test_nothing_is_asked_where_all_is_answered():
    cache, asked = AnswerCache(None), []
    first = collect(ANN, pairs(2), cache, read_all)
    assert collect(ANN, pairs(2), cache, asked.append) == first
    assert not asked
    assert not collect(ANN, [], cache, asked.append)
    assert not asked


def test_pairs_that_are_added_later_are_all_that_is_asked():
    cache = AnswerCache(None)
    collect(ANN, pairs(2), cache, read_all)
    reading = sitting(3, cache)
    assert (reading.done, reading.total) == (4, 6)
    assert current(reading).prompt == user("Question 2?")


def test_an_answer_that_can_not_be_kept_leaves_the_presentation_open(tmp_path):
    (tmp_path / "file").write_text("")
    reading = sitting(2, AnswerCache(None))
    reading._cache.path = tmp_path / "file" / "answers.jsonl"
    before = current(reading).id
    with pytest.raises(StorageError):
        reading.act("1")
    assert (reading.done, current(reading).id, reading.can_go_back) == (0, before, False)


# --- going back and skipping


def test_going_back_opens_the_last_one_and_the_newest_answer_counts(tmp_path):
    path = tmp_path / "answers.jsonl"
    reading = sitting(1, AnswerCache(path))
    first = current(reading).id
    reading.act("1")
    reading.act("u")
    assert (current(reading).id, current(reading).state, reading.done) == (first, "answered", 0)
    assert AnswerCache(path)[first].vote == 1
    reading.act("2")
    assert AnswerCache(path)[first].vote == -1
    assert current(reading).state == "new"


def test_going_back_goes_as_far_as_the_sitting_began_and_past_the_end():
    cache = AnswerCache(None)
    earlier = sitting(2, cache)
    earlier.act("1")
    reading = sitting(2, cache)
    read_all(reading)
    for _ in range(3):
        reading.act("u")
    assert (reading.done, reading.can_go_back) == (1, False)
    reading.act("u")
    assert reading.done == 1


def test_a_skipped_presentation_is_not_kept_and_comes_again_after_all_others():
    reading = sitting(2)
    skipped = current(reading).id
    reading.act("s")
    assert skipped not in reading._cache
    seen = []
    while reading.open:
        seen.append((reading.open.id, reading.open.state))
        reading.act("1")
    assert len(seen) == 4
    assert seen[-1] == (skipped, "skipped")
    assert {state for _, state in seen[:-1]} == {"new"}


def test_what_was_skipped_is_asked_in_the_next_sitting(tmp_path):
    path = tmp_path / "answers.jsonl"
    reading = sitting(2, AnswerCache(path))
    skipped = current(reading).id
    for key in "s111":
        reading.act(key)
    assert current(sitting(2, AnswerCache(path))).id == skipped


@given(st.lists(st.sampled_from("12=su"), max_size=40))
def test_whatever_is_done_nothing_is_lost_or_shown_twice_and_going_back_undoes_all(keys):
    reading = sitting(3)
    start = list(reading._left)
    for key in keys:
        reading.act(key)
        assert len(set(reading._left)) == len(reading._left)
        assert set(reading._left) | {key for key in start if key in reading._cache} == set(start)
    while reading.can_go_back:
        reading.act("u")
    assert list(reading._left) == start
    read_all(reading)
    assert [judgement.strict for judgement in reading.judgements()] == [1, 1, 1]


# --- names


def test_two_people_share_no_answers_and_one_is_known_however_the_name_is_spaced():
    shown = PresentedPair(pair(1), False)
    assert answer_key(HumanJudge("Ann"), shown) != answer_key(HumanJudge("Bo"), shown)
    assert answer_key(HumanJudge(" Ann  Lee "), shown) == answer_key(HumanJudge("Ann Lee"), shown)
    assert HumanJudge("Zoë").key == HumanJudge("Zoe\u0308").key == "human Zoë"


def test_a_person_has_a_name():
    with pytest.raises(InputError, match="has no name"):
        HumanJudge(" \n")
