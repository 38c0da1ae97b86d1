"""Finding queries in benchmarks: planted items are found, near misses are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfsteer.queries.decontamination import Benchmarks
from selfsteer.queries.words import words_of

QUESTION = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"


def benchmarks(*texts: str, ngram: int = 8) -> Benchmarks:
    made = Benchmarks(ngram)
    made.add("bench.jsonl", ((f"bench.jsonl:{number}", text) for number, text in enumerate(texts, 1)))
    return made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop: $x^2 + y_1$!", ["don", "t", "stop", "x", "2", "y", "1"]),
        ("ＦＵＬＬ ﬁt", ["full", "fit"]),  # NFKC
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("北京有多少人？ 2024年", ["北", "京", "有", "多", "少", "人", "2024", "年"]),
        ("カレーの作り方", list("カレーの作り方")),
        ("¡¿...?!", []),
    ],
)
def test_words(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    "planted",
    [
        QUESTION,
        QUESTION.upper(),
        QUESTION.replace(" ", "\n  ").replace(".", " ;"),
        f"Solve this, please, step by step.\n\n{QUESTION}\n\nAnswer with a number.",
        "I read that a robe takes 2 bolts of blue fiber. Is that so?",  # eight words: "a robe ... blue fiber"
    ],
)
def test_a_planted_question_is_found_with_its_row_and_words(planted):
    found = benchmarks("Something else that has nothing to do with it at all.", QUESTION).find(planted)
    assert found is not None
    assert (found.benchmark, found.row) == ("bench.jsonl", "bench.jsonl:2")
    assert found.words == "a robe takes 2 bolts of blue fiber"


@pytest.mark.parametrize(
    "miss",
    [
        "I read that a robe takes 2 bolts of blue wool. Is that so?",  # seven words in a row
        "A robe takes 3 bolts of blue fiber and half as much white fiber; how many bolts are taken in total?",
        "fiber blue of bolts 2 takes robe A",  # the same words in another order
        "A robe takes 2 bolts; of blue",  # a part, shorter than eight words
        "",
        "?!",
    ],
)
def test_a_near_miss_is_not_found(miss):
    assert benchmarks(QUESTION).find(miss) is None


def test_a_short_question_is_found_by_all_its_words_alone():
    bench = benchmarks("What is 2 + 2?", "Name the capital of France.")
    assert bench.find("what is 2+2").words == "what is 2 2"
    assert bench.find("Name the capital of France!").row == "bench.jsonl:2"
    assert bench.find("Name the capital of France and of Spain.") is None
    assert bench.find("Name the capital") is None


def test_words_that_two_questions_share_name_the_first():
    bench = benchmarks("one two three four", "zero one two three four five", ngram=3)
    assert bench.find("and one two three").row == "bench.jsonl:1"
    assert bench.find("three four five six").row == "bench.jsonl:2"


def test_several_benchmarks_may_be_added_one_after_the_other():
    bench = benchmarks("one two three four", ngram=3)
    assert bench.find("five six seven") is None
    assert bench.add("other", [("other:9", "five six seven"), ("other:10", "...")]) == 2
    assert bench.find("five six seven").benchmark == "other"
    assert bench.find("two three four").benchmark == "bench.jsonl"


WORDS = st.lists(st.sampled_from("abc"), max_size=12)


@given(st.lists(WORDS, max_size=4), WORDS, st.integers(2, 4))
def test_it_finds_what_a_search_in_lists_finds(questions, query, ngram):
    """The reference compares every run of words with every other, as lists."""

    def runs(words):
        return [words[i : i + ngram] for i in range(len(words) - ngram + 1)]

    shared = [run for run in runs(query) if any(run in runs(question) for question in questions)]
    if len(query) < ngram:
        shared = [query] if query and query in questions else []
    found = benchmarks(*map(" ".join, questions), ngram=ngram).find(" ".join(query))
    assert (found.words if found else None) == (" ".join(shared[0]) if shared else None)
    if found:
        question = questions[int(found.row.rpartition(":")[2]) - 1]
        assert shared[0] in runs(question) or question == query
