"""Judgements as columns: all that figures need, in the order of the pairs or of their ids."""

from __future__ import annotations

from dataclasses import asdict, replace

from selfsteer.judges import Answer, Judgement, Pair
from selfsteer.judges.agreement import agreement, by_subset, distinct, pooled
from selfsteer.judges.judgements import Judgements
from tests.chat_templates import user

ANSWERS = [
    Answer(1, log_odds=0.25),
    Answer(-1, log_odds=-1e-300),
    Answer(0, text="well", valid=False, why="names no verdict"),
    Answer(1, text="A"),
    Answer(0),
]
LABELS = (1, -1, 0, None)


def judgements() -> list[Judgement]:
    found = []
    for number, (forward, backward) in enumerate((one, other) for one in ANSWERS for other in ANSWERS):
        pair = Pair(f"p{97 * number % 100}", user("Q"), "one", f"{number // 2}", LABELS[number % 4], "ab"[number % 2])
        found.append(Judgement(pair, forward, backward))
    return found


def test_a_judgement_comes_back_without_its_texts():
    for given, found in zip(judgements(), Judgements(judgements()), strict=True):
        assert found.pair.content == given.pair.content
        assert (found.pair.id, found.pair.label, found.pair.subset) == (
            given.pair.id,
            given.pair.label,
            given.pair.subset,
        )
        assert [found.forward, found.backward] == [replace(own, text="") for own in (given.forward, given.backward)]
        for name in ("strict", "debiased", "log_odds", "outcome", "votes"):
            assert getattr(found, name) == getattr(given, name)


def test_the_figures_are_those_of_the_judgements():
    given, columns = judgements(), Judgements(judgements())
    assert agreement(columns) == agreement(given)
    assert by_subset(columns) == by_subset(given)
    assert list(asdict(agreement(columns))["why_invalid"]) == ["names no verdict"]
    twice = [*given, *given[:3]]
    assert distinct(one.pair for one in Judgements(twice)) == distinct(one.pair for one in twice)
    assert pooled(Judgements(twice)) == pooled(twice) == pooled(given)


def test_they_are_sorted_by_id_and_have_places():
    columns = Judgements(judgements())
    columns.sort()
    ids = [one.pair.id for one in columns]
    assert ids == sorted(one.pair.id for one in judgements())
    assert [one.pair.id for one in columns[2:5]] == ids[2:5] and columns[-1].pair.id == ids[-1]
    assert len(Judgements()) == 0 and list(Judgements()) == []
