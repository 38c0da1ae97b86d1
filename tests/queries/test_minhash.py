"""Near duplicates: the estimate is close to the Jaccard index, and the answers are the same everywhere."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from selfsteer.queries.minhash import NearDuplicates, pieces
from selfsteer.queries.words import changed_words

TEXT = "Write a short description for a podcast episode about the benefits of using organic skincare products."


def jaccard(one: str, other: str) -> float:
    a, b = pieces(one), pieces(other)
    return len(a & b) / len(a | b)


def test_pieces_are_those_of_the_words():
    assert pieces("A, bc! De") == {"a bc ", " bc d", "bc de"}  # of "a bc de"
    assert pieces("Hi.") == {"hi"} and pieces("😀 😀") == {"😀 😀"}


def test_a_near_duplicate_is_named_with_its_similarity():
    near = NearDuplicates(0.7)
    assert near.add("a", "How do plants make sugar out of light, water and air?") is None
    assert near.add("b", TEXT) is None
    other = TEXT.replace("podcast", "video")
    found = near.add("c", other)
    assert found.id == "b" and found.similarity == pytest.approx(jaccard(TEXT, other), abs=0.1)
    assert near.add("d", TEXT.upper().replace(" ", "  ")).similarity == 1.0


def test_what_was_dropped_is_not_compared_with():
    near = NearDuplicates(0.75)
    chain = [TEXT, TEXT + " Add three emojis.", TEXT + " Add three emojis. Then translate it into French."]
    assert (
        jaccard(chain[0], chain[1]) > 0.84 and jaccard(chain[1], chain[2]) > 0.78 and jaccard(chain[0], chain[2]) < 0.68
    )
    assert near.add("0", chain[0]) is None and near.add("1", chain[1]).id == "0"
    assert near.add("2", chain[2]) is None, "it is near to 1 alone, which is not there"


def test_remembered_texts_are_compared_with_whatever_they_repeat():
    near = NearDuplicates(0.9)
    for name in "ab":
        near.remember(name, TEXT)
    assert near.add("c", TEXT).id == "a", "of equals, the first"


def test_texts_that_it_may_be_near_to_are_passed_over():
    near = NearDuplicates(0.7)
    for name in ("parent", "other"):
        near.remember(name, TEXT)
    assert near.add("c", TEXT, {"parent"}).id == "other"
    assert near.add("c", TEXT, {"parent", "other"}) is None
    assert near.add("d", TEXT, {"parent", "other"}).id == "c", "what was near to those is compared with"


def test_changed_words_are_counted_both_ways_and_as_often_as_they_occur():
    assert changed_words("The dog, the CAT!", "the dog the cat") == 0
    assert changed_words("the dog the cat", "cat dog the the") == 0
    assert changed_words("the dog the cat", "a dog and the cat") == 3
    assert changed_words("", "Be brief.") == changed_words("Be brief.", "") == 2


def test_the_nearest_is_named():
    near = NearDuplicates(0.5)
    near.remember("far", TEXT.replace("podcast", "video").replace("benefits", "dangers"))
    near.remember("close", TEXT.replace("podcast", "video"))
    assert near.add("new", TEXT).id == "close"


def test_pairs_far_above_the_threshold_are_found_and_far_below_are_not():
    """Of 200 texts each with one change, all that are clearly similar are found."""
    source = random.Random(5)
    vocabulary = [f"word{number}" for number in range(500)]
    near = NearDuplicates(0.7)
    for number in range(200):
        words = source.sample(vocabulary, 30)
        text = " ".join(words)
        assert near.add(f"{number}", text) is None, "texts of random words share next to nothing"
        close = " ".join([*words[:29], "changed"])
        far = " ".join([*words[:15], *source.sample(vocabulary, 15)])
        assert jaccard(text, close) > 0.85 and jaccard(text, far) < 0.6
        assert near.add("close", close).id == f"{number}"
        assert near.add("far", far) is None


def test_another_process_estimates_the_same():
    code = """
from selfsteer.queries.minhash import NearDuplicates
near = NearDuplicates(0.5)
near.remember("a", "one two three four")
print(near._signatures.tolist())
"""
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    near = NearDuplicates(0.5)
    near.remember("a", "one two three four")
    assert done.stdout == f"{near._signatures.tolist()}\n"
