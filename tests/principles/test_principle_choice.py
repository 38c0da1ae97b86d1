"""Choosing aspects: the chooser's prompt, reading its answer, the extra aspect."""

import random
from collections import Counter

import pytest

from selfsteer.principles import (
    Choice,
    choice_without_model,
    chooser_messages,
    load_set,
    parse_choice,
    parse_set,
    with_extra,
)

QUALITY, BRIEF = load_set("quality"), load_set("brief")
MARKUP = [
    "{{ 7*7 }}",
    "{% raw %}",
    "{# gone #}",
    "{{ aspects }}",
    "{% for x in range(9) %}x{% endfor %}",
    "# line",
    "%s {0} {query}",
]

TINY = """\
name: tiny
version: 1
aspects_per_query: 1
fallback: [Warmth]
aspects:
  - {name: Calm, positive: calm, negative: hectic, meaning: keeps calm, positive_principle: A., negative_principle: B.}
  - {name: Warmth, positive: warm, negative: cold, meaning: sounds warm, positive_principle: C., negative_principle: D.}
  - {name: Wit, extra: true, positive: witty, negative: dry, meaning: f, positive_principle: E., negative_principle: F.}
few_shot:
  - {query: Hello there., aspects: [Warmth, Calm]}
"""


def test_exact_messages():
    system = (
        "You sort requests. You do not answer them. For each request, name the one aspect of a good answer that "
        "matters most for it.\n\nChoose from this list only:\n- Calm: keeps calm\n- Warmth: sounds warm\n\n"
        "Reply with its name and nothing else."
    )
    assert chooser_messages(parse_set(TINY), "  What now?\n", 1) == [
        {"role": "system", "content": system},
        {"role": "user", "content": "Request:\nHello there.\n\nWhich of the listed aspects?"},
        {"role": "assistant", "content": "Warmth"},
        {"role": "user", "content": "Request:\nWhat now?\n\nWhich of the listed aspects?"},
    ]


def test_several_aspects():
    messages = chooser_messages(QUALITY, "Why?", 2)
    assert (
        "name the 2 aspects of a good answer that matter most for it, the most important first."
        in (messages[0]["content"])
    )
    assert "Concision" not in str(messages)
    assert [message["content"].count(",") for message in messages if message["role"] == "assistant"] == [1] * 8


@pytest.mark.parametrize("principles", [QUALITY, BRIEF])
@pytest.mark.parametrize("system_role", ["native", "folded"])
def test_all_but_the_query_is_a_shared_prefix(principles, system_role):
    queries = ["Hi", "What is 2 + 2?", "x" * 5000, "", *MARKUP]
    prompts = [chooser_messages(principles, query, 1, system_role) for query in queries]
    assert all(prompt[:-1] == prompts[0][:-1] for prompt in prompts)
    assert all(prompt[-1]["content"].startswith("Request:\n") for prompt in prompts)
    first = 1 if system_role == "native" else 0
    assert [message["role"] for message in prompts[0]][:first] == ["system"] * first
    assert all(m["role"] == ("user", "assistant")[i % 2] for i, m in enumerate(prompts[0][first:]))


@pytest.mark.parametrize("query", MARKUP)
def test_markup_in_a_query_is_text(query):
    assert chooser_messages(QUALITY, query, 2)[-1]["content"] == f"Request:\n{query}\n\nWhich of the listed aspects?"


def test_markup_in_a_set_is_text():
    principles = parse_set(TINY.replace("keeps calm", "'{{ 7*7 }} {query}'").replace("Hello there.", "'{% raw %}'"))
    messages = chooser_messages(principles, "Why?", 1)
    assert "- Calm: {{ 7*7 }} {query}\n" in messages[0]["content"]
    assert messages[1]["content"].startswith("Request:\n{% raw %}\n")


def test_long_query_keeps_both_ends():
    content = chooser_messages(QUALITY, "a" * 1000 + "b" * 5000 + "c" * 500, 2)[-1]["content"]
    assert "a" * 1000 + "\n[...]\n" + "c" * 500 in content and "b" not in content.split("Which")[0]
    assert "d" * 1500 in chooser_messages(QUALITY, "d" * 1500, 2)[-1]["content"]


ANSWERS = [
    ("Accuracy, Safety", ["Accuracy", "Safety"]),
    ("accuracy, SAFETY", ["Accuracy", "Safety"]),
    ("Accuracy and Safety.", ["Accuracy", "Safety"]),
    ("1. Logicality\n2. Accuracy\n3. Helpfulness", ["Logicality", "Accuracy"]),
    ("- Engagement\n- Literariness\n", ["Engagement", "Literariness"]),
    ("* **Helpfulness**: serves the reader\n* _Safety_: no harm", ["Helpfulness", "Safety"]),
    ("The two aspects are: Comprehensiveness & Accuracy", ["Comprehensiveness", "Accuracy"]),
    ("Sure! I would pick Helpfulness because the reader wants help.", ["Helpfulness"]),
    ("Accuracy, Accuracy, Accuracy, Engagement", ["Accuracy", "Engagement"]),
    ("Clarity, Brevity, Accuracy", ["Accuracy"]),
    ("Aspects: [\"Safety\", 'Accuracy']", ["Safety", "Accuracy"]),
    ("Safety/Helpfulness", ["Safety", "Helpfulness"]),
    ("Accuracy,Logicality,Safety", ["Accuracy", "Logicality"]),
    ("Concision, Safety", ["Safety"]),
    ("Accuracy\n\nRequest:\nHow do I boil an egg?", ["Accuracy"]),
    ("Accuracy: Engagement:", ["Accuracy", "Engagement"]),
    ("Paris is the capital of France.", None),
    ("", None),
    ("\n\n\n", None),
    ("Inaccuracy, unsafety, Helpfulnesses", None),
    ("helpful and accurate", None),
    ("Concision", None),
    ("\u017fafetyness \u212angagement", None),
]


@pytest.mark.parametrize(("answer", "aspects"), ANSWERS)
def test_reading_the_answer(answer, aspects):
    fallback = Choice(["Helpfulness", "Accuracy"], "fallback")
    assert parse_choice(answer, QUALITY, 2) == (Choice(aspects, "model") if aspects else fallback)


def test_fallback_goes_on_in_the_order_of_the_set():
    assert parse_choice("?", parse_set(TINY), 2) == Choice(["Warmth", "Calm"], "fallback")
    assert parse_choice("?", parse_set(TINY.replace("fallback: [Warmth]\n", "")), 1) == Choice(["Calm"], "fallback")


@pytest.mark.parametrize(
    ("answer", "named", "outcome"),
    [
        ("Accuracy, Safety, Helpfulness", {"Accuracy", "Safety", "Helpfulness"}, "model"),
        ("Engagement", {"Engagement"}, "filled"),
        ("Nothing of the list", set(), "fallback"),
    ],
)
def test_a_shuffled_choice_takes_any_of_the_named_aspects_and_fills_up_at_random(answer, named, outcome):
    choices = [parse_choice(answer, QUALITY, 2, shuffle=random.Random(seed)) for seed in range(300)]
    assert {choice.outcome for choice in choices} == {outcome}
    taken = Counter(name for choice in choices for name in choice.aspects)
    assert all(len(set(choice.aspects)) == 2 for choice in choices)
    drawn = named if len(named) >= 2 else {aspect.name for aspect in QUALITY.choosable}
    assert taken.keys() == drawn, "no extra aspect"
    if len(named) == 1:
        assert all(choice.aspects[0] in named for choice in choices)
        taken = Counter({name: count for name, count in taken.items() if name not in named})
    assert max(taken.values()) < 2 * min(taken.values()), "each as likely as the others"
    assert {choice.aspects[0] for choice in choices} == (named or drawn)
    assert parse_choice(answer, QUALITY, 2, shuffle=random.Random(3)) == choices[3]


def test_names_of_several_words():
    principles = parse_set(TINY.replace("Calm", "Calm Tone").replace("Warmth", "Warm/kind"))
    assert parse_choice("calm tone", principles, 1).aspects == ["Calm Tone"]
    assert parse_choice("(warm/KIND)", principles, 1).aspects == ["Warm/kind"]
    assert parse_choice("Calm", principles, 1).outcome == "fallback"


def test_no_model_needed():
    assert choice_without_model(BRIEF, 1) is None
    assert choice_without_model(BRIEF, 2) is None
    everything = Choice(["Brevity", "Directness", "Focus"], "all")
    assert choice_without_model(BRIEF, 3) == choice_without_model(BRIEF, 4) == everything
    assert choice_without_model(QUALITY, 7) is not None, "the extra aspect does not count"


def _picked(rate, seed=7, ids=range(2000)):
    return {i for i in ids if with_extra(["Safety"], QUALITY, f"q{i}", rate, seed) == ["Safety", "Concision"]}


def test_extra_aspect_for_a_share_of_the_queries():
    picked = _picked(0.2)
    assert 0.17 < len(picked) / 2000 < 0.23
    shuffled = random.Random(0).sample(range(2000), 2000)
    assert _picked(0.2, ids=shuffled) == picked, "the order does not matter"
    assert _picked(0.1) < picked < _picked(0.5), "a higher rate keeps what a lower one picked"
    assert _picked(0.2, seed=8) != picked
    assert (_picked(0.0), len(_picked(1.0))) == (set(), 2000)


def test_extra_aspect_is_pinned():
    """A change of these would silently change what an unfinished run does when it goes on."""
    assert sorted(_picked(0.2, seed=0, ids=range(30))) == [0, 2, 4, 13, 15, 25]


def test_extra_aspect_leaves_the_rest_alone():
    aspects = ["Brevity"]
    assert with_extra(aspects, BRIEF, "q1", 1.0, 0) == ["Brevity"]
    assert with_extra(["Concision"], QUALITY, "q1", 1.0, 0) == ["Concision"]
    given = ["Safety"]
    with_extra(given, QUALITY, "q1", 1.0, 0)
    assert given == ["Safety"]
