"""Which proposed aspects are the same."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest

from selfsteer.experimental.proposals import Proposal
from selfsteer.experimental.similarity import THRESHOLD, merged, similarities
from selfsteer.principles import Aspect, load_set

KNOWN = load_set("quality").aspects


def aspect(name, positive="fine", negative="poor"):
    texts = {"meaning": "m", "positive_principle": "Be so.", "negative_principle": "Be other."}
    return Aspect(name=name, positive=positive, negative=negative, **texts)


def proposal(name, prompt=0, queries=(), **adjectives):
    return Proposal(aspect(name, **adjectives), prompt, queries)


def cosine_by_hand(one, other):
    """Cosine of the counts of 2- to 4-grams of words with a blank on either side."""

    def grams(text):
        words = [f" {word} " for word in text.lower().split()]
        return Counter(word[i : i + n] for word in words for n in (2, 3, 4) for i in range(max(1, len(word) - n + 1)))

    a, b = grams(one), grams(other)
    return sum(a[g] * b[g] for g in a) / math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))


def test_similarity_is_the_cosine_of_character_grams():
    one, other = aspect("Completeness", "complete", "incomplete"), aspect("Comprehensiveness", "thorough", "incomplete")
    expected = cosine_by_hand("Completeness complete incomplete", "Comprehensiveness thorough incomplete")
    assert similarities([one], [other])[0, 0] == pytest.approx(expected, abs=1e-12)
    assert 0.6 < expected < 0.7


def test_the_same_name_is_the_same_aspect():
    assert similarities([aspect("Pace", "quick", "slow")], [aspect("PACE", "brisk", "lame")])[0, 0] == 1.0


def test_the_threshold_tells_the_shipped_aspects_apart_and_finds_their_variants():
    everything = [*KNOWN, *load_set("brief").aspects]
    pairs = list(itertools.combinations(range(len(everything)), 2))
    found = similarities(everything, everything)
    assert max(found[i, j] for i, j in pairs) < THRESHOLD
    variants = [
        aspect("Factual accuracy", "accurate", "wrong"),
        aspect("Completeness", "complete", "incomplete"),
        aspect("Engaging tone", "engaging", "boring"),
        aspect("Conciseness", "concise", "wordy"),
    ]
    names = ["Accuracy", "Comprehensiveness", "Engagement", "Concision"]
    near = similarities(variants, KNOWN)
    assert [KNOWN[int(i)].name for i in near.argmax(axis=1)] == names and (near.max(axis=1) >= THRESHOLD).all()


def test_proposals_are_taken_together_and_counted():
    found, known = merged(
        [
            proposal("Clarity", 0, ("a", "b"), positive="clear", negative="unclear"),
            proposal("Accuracy", 0, positive="exact", negative="sloppy"),
            proposal("Tact", 1, ("c",), positive="tactful", negative="blunt"),
            proposal("Clarity", 1, ("c", "a"), positive="lucid", negative="murky"),
            proposal("Clear structure", 1, positive="clear", negative="unclear"),
            proposal("Accuracy", 2),
            proposal("Tact", 2, ("d",), positive="kind", negative="rude"),
        ],
        KNOWN,
    )
    assert known == {"Accuracy": 2}
    assert [(one.aspect.name, one.answers, one.queries) for one in found] == [
        ("Clarity", 2, ("a", "b", "c")),
        ("Tact", 2, ("c", "d")),
    ]
    assert len(found[0].proposals) == 3 and found[0].aspect.positive == "clear"
    assert found[0].nearest in {one.name for one in KNOWN} and 0 <= found[0].similarity < THRESHOLD


def test_a_lower_threshold_takes_more_together():
    proposals = [proposal("Clarity", positive="clear"), proposal("Clear structure", positive="ordered")]
    assert [len(merged(proposals, KNOWN, threshold)[0]) for threshold in (1.0, 0.3)] == [2, 1]


def test_more_queries_decide_between_aspects_that_are_proposed_as_often():
    found, _ = merged([proposal("Tact", 0, ("a",)), proposal("Wit", 1, ("a", "b"), positive="witty")], KNOWN)
    assert [one.aspect.name for one in found] == ["Wit", "Tact"]
