"""Writing principles: the writer's prompts, and reading whatever it answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsteer.principles import (
    Written,
    guideline_messages,
    guideline_schema,
    load_set,
    pair_for,
    pair_messages,
    pairs_schema,
    parse_guideline,
    parse_pairs,
    parse_set,
)
from selfsteer.principles.prompt_templates import exported
from selfsteer.principles.write import LONGEST

TWO = parse_set("""\
name: two
version: 1
aspects_per_query: 2
aspects:
  - {name: Calm, positive: calm, negative: hectic, meaning: keeps calm, positive_principle: A., negative_principle: B.}
  - {name: Warmth, positive: warm, negative: cold, meaning: sounds warm, positive_principle: C., negative_principle: D.}
  - {name: Wit, extra: true, positive: witty, negative: dry, meaning: f, positive_principle: E., negative_principle: F.}
""")
BOTH = ["Warmth", "Calm"]
ENTRIES = [{"aspect": "Warmth", "good": "Smile.", "bad": "Frown."}, {"aspect": "Calm", "good": "Rest.", "bad": "Run."}]
ASKED = json.dumps({"principles": ENTRIES})


def pairs(text: str, aspects=BOTH, **how) -> tuple[str, str, str]:
    written = parse_pairs(text, TWO, aspects, **how)
    return written.pair.positive_principle, written.pair.negative_principle, written.outcome


def guideline(text: str, **how) -> tuple[str, str, str] | None:
    written = parse_guideline(text, "direct", **how)
    return written and (written.pair.positive_principle, written.pair.negative_principle, written.outcome)


# --- what the writer is asked


def test_the_last_turn_names_the_request_and_its_aspects():
    *before, last = pair_messages(TWO, BOTH, "  What now?\n")
    assert last == {
        "role": "user",
        "content": "Request:\nWhat now?\n\nAspects:\n- Warmth (warm, not cold): sounds warm\n"
        "- Calm (calm, not hectic): keeps calm\n\n"
        "Write the JSON with the two instructions for each aspect. Do not answer the request.",
    }
    assert before == pair_messages(load_set("quality"), ["Safety"], "Another?")[:-1], (
        "all before is the same for every query"
    )
    assert [message["role"] for message in before] == ["system", *["user", "assistant"] * 3]


def test_a_guideline_is_asked_for_without_aspects():
    *before, last = guideline_messages("What now?")
    assert last["content"] == (
        "Request:\nWhat now?\n\nWrite the JSON with the two guidelines. Do not answer the request."
    )
    assert before == guideline_messages("Another?")[:-1]


def test_the_examples_are_answers_of_the_form_that_is_asked_for():
    for example, message in zip(exported("write_pairs", "examples"), pair_messages(TWO, BOTH, "x")[2::2], strict=True):
        names = [name for name, *_ in example["aspects"]]
        keys = ("name", "positive", "negative", "meaning")
        aspects = [
            dict(zip(keys, one, strict=True)) | {"positive_principle": "a", "negative_principle": "b"}
            for one in example["aspects"]
        ]
        known = parse_set(json.dumps({"name": "n", "version": 1, "aspects_per_query": 1, "aspects": aspects}))
        written = parse_pairs(message["content"], known, names)
        assert written.outcome == "ok" and "a" not in written.pair.positive_principle.splitlines()
    assert all(guideline(message["content"])[2] == "ok" for message in guideline_messages("x")[2::2])


@pytest.mark.parametrize("markup", ["{{ 7*7 }}", "{% raw %}", "{# gone #}", "{{ aspects }}", "%s {0} {query}"])
def test_markup_in_a_query_is_not_run(markup):
    assert f"Request:\n{markup}\n" in pair_messages(TWO, BOTH, markup)[-1]["content"]
    assert f"Request:\n{markup}\n" in guideline_messages(markup)[-1]["content"]


def test_a_long_query_is_shown_by_both_ends():
    text = "a" * 1000 + "b" * 5000 + "c" * 500
    for messages in (pair_messages(TWO, BOTH, text), guideline_messages(text)):
        shown = messages[-1]["content"]
        assert "a" * 1000 + "\n[...]\n" + "c" * 500 in shown and "bb" not in shown


def test_without_a_system_role_the_task_stands_in_the_first_turn():
    for messages in (pair_messages(TWO, BOTH, "x", "folded"), guideline_messages("x", "folded")):
        assert messages[0]["role"] == "user" and messages[0]["content"].startswith("You write")


def test_a_schema_binds_the_aspects_to_those_of_the_set():
    items = pairs_schema(TWO)["properties"]["principles"]["items"]
    assert items["properties"]["aspect"]["enum"] == ["Calm", "Warmth", "Wit"]
    for schema in (pairs_schema(TWO), items, guideline_schema()):  # what OpenAI's strict mode asks of every object
        assert schema["required"] == list(schema["properties"]) and schema["additionalProperties"] is False


# --- what it answers


def test_an_answer_as_asked():
    assert pairs(ASKED) == ("Smile.\nRest.", "Frown.\nRun.", "ok")
    assert pairs(f"```json\n{ASKED}\n```") == ("Smile.\nRest.", "Frown.\nRun.", "ok"), "a code fence is no fault"
    found = parse_pairs(ASKED, TWO, BOTH).pair
    assert (found.aspects, found.positive_adjectives) == (BOTH, ["warm", "calm"])
    assert guideline(' {"good": "Smile.", "bad": "Frown."}\n') == ("Smile.", "Frown.", "ok")
    assert parse_guideline('{"good": "a", "bad": "b"}', "full").pair.aspects == []


def test_other_order_and_more_aspects_than_asked_are_no_fault():
    more = {"principles": [*reversed(ENTRIES), {"aspect": "Wit", "good": "Joke.", "bad": "Moan."}]}
    assert pairs(json.dumps(more)) == ("Smile.\nRest.", "Frown.\nRun.", "ok")


@pytest.mark.parametrize(
    "again",
    [
        {"good": "Smile.", "bad": "Frown."},
        {"good": "smile", "bad": "Run."},
        {"good": "Rest.", "bad": " *Frown* "},
        {"good": "Rest.", "bad": "Smile!"},
    ],
)
def test_one_sentence_for_two_aspects_serves_the_first_alone(again):
    answer = json.dumps({"principles": [ENTRIES[0], {"aspect": "Calm"} | again]})
    assert pairs(answer) == ("Smile.\nA.", "Frown.\nB.", "fallback")
    assert pairs(answer, list(reversed(BOTH)))[2] == "fallback"
    third = json.dumps({"principles": [*ENTRIES, {"aspect": "Wit"} | again]})
    assert pairs(third, [*BOTH, "Wit"]) == ("Smile.\nRest.\nE.", "Frown.\nRun.\nF.", "fallback")


@pytest.mark.parametrize(
    "text",
    [
        f"Sure, here you are:\n\n{ASKED}\n\nI hope that helps {{you}}!",
        ASKED.replace("}]", "},]"),
        ASKED.replace('"', "'"),
        ASKED[:-1],
        ASKED[:-2],
        ASKED[:-3],
        ASKED.replace('"good"', '"Good"').replace('"bad"', '"BAD"').replace('"aspect"', '"Aspect"'),
        ASKED.replace("Warmth", "WARMTH").replace("Calm", "calm:"),
        ASKED.replace("principles", "Principles"),
        json.dumps(ENTRIES),
        json.dumps({one["aspect"]: {"good": one["good"], "bad": one["bad"]} for one in ENTRIES}),
        ASKED + "\n\nRequest:\nAnother one\n\n" + ASKED.replace("Smile", "Grin"),
        ASKED.replace('"principles"', "principles").replace('"good"', "good"),
    ],
)
def test_another_form_is_repaired(text):
    assert pairs(text) == ("Smile.\nRest.", "Frown.\nRun.", "repaired")


@pytest.mark.parametrize(
    "text",
    [
        "```\n{'Good': 'Smile.', 'Bad': 'Frown.',}\n```",
        '{"guidelines": {"good": "Smile.", "bad": "Frown."}}',
        '[{"good": "Smile.", "bad": "Frown."}]',
        'Good and bad:\n{"good": "Smile.", "bad": "Frown."',
        '{"good": "Smile.", "bad": "Frown."}{"good": "Grin.", "bad": "Weep."}',
    ],
)
def test_another_form_of_guideline_is_repaired(text):
    assert guideline(text) == ("Smile.", "Frown.", "repaired")


def test_quotes_inside_a_principle_are_kept():
    assert guideline('{"good": "Say "hello" first.", "bad": "Be rude."}') == (
        'Say "hello" first.',
        "Be rude.",
        "repaired",
    )


def test_a_principle_is_one_line():
    assert guideline('{"good": "Smile \\n and\\twave.", "bad": "Frown."}') == ("Smile and wave.", "Frown.", "ok")


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("", "Frown."),
        ("  \n", "Frown."),
        ("...", "Frown."),
        ("Smile.", "smile"),
        ("x" * (LONGEST + 1), "Frown."),
        ("Smile.<|im_end|>\n<|im_start|>system", "Frown."),
        ("Smile. [/INST]", "Frown."),
        ("Smile.</s>", "Frown."),
        ("<think>Smile.", "Frown."),
        ("<start_of_turn>user", "Frown."),
        ("<｜User｜>Smile.", "Frown."),
        ("Smile. <turn|>", "Frown."),
        ("Smile.\x00", "Frown."),
        ("Smile.\x1b[31m", "Frown."),
        ("Smile \ud83d", "Frown."),
        (["Smile."], "Frown."),
        (7, "Frown."),
        (None, "Frown."),
    ],
)
def test_what_is_no_principle_gives_way_to_the_sets_own(good, bad):
    warmth = TWO.aspect("Warmth")
    for one, other in ((good, bad), (bad, good)):
        assert guideline(json.dumps({"good": one, "bad": other})) is None
        entries = [{"aspect": "Warmth", "good": one, "bad": other}, ENTRIES[1]]
        assert pairs(json.dumps({"principles": entries})) == (
            f"{warmth.positive_principle}\nRest.",
            f"{warmth.negative_principle}\nRun.",
            "fallback",
        )


def test_longest():
    assert guideline(json.dumps({"good": "x" * LONGEST, "bad": "Frown."})) == ("x" * LONGEST, "Frown.", "ok")


def test_angle_brackets_and_square_ones_are_no_control_text():
    text = "Use a < b, List[int] and a [link](x); see [1]."
    assert guideline(json.dumps({"good": text, "bad": "Frown."})) == (text, "Frown.", "ok")


@pytest.mark.parametrize(
    "text", ["", "I can't do that.", "{", "[]", "{}", "null", "7", '"good"', "[" * 3000, '{"a":' * 3000, "{" * 3000]
)
def test_an_answer_without_principles_falls_back(text):
    fixed = pair_for(TWO, BOTH)
    assert parse_pairs(text, TWO, BOTH) == Written(fixed, "fallback")
    assert guideline(text) is None


def test_a_single_pair_needs_no_name_if_a_single_one_was_asked_for():
    text = '{"good": "Smile.", "bad": "Frown."}'
    assert pairs(text, ["Warmth"]) == ("Smile.", "Frown.", "repaired")
    assert pairs(text)[2] == "fallback"


def test_an_aspect_that_was_not_asked_for_is_not_taken():
    text = json.dumps({"principles": [ENTRIES[0], {"aspect": "Wit", "good": "Joke.", "bad": "Moan."}]})
    assert pairs(text) == ("Smile.\nA.", "Frown.\nB.", "fallback")


def test_what_an_answer_that_was_cut_off_leaves_open_is_no_principle():
    text = ASKED[: ASKED.index("Run.") + 2]
    assert pairs(text, cut=True) == ("Smile.\nA.", "Frown.\nB.", "cut")
    assert pairs(ASKED[:-3], cut=True) == ("Smile.\nRest.", "Frown.\nRun.", "repaired"), "its last text was whole"


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="{}[]\",:\\'good badspect\n", max_size=80))
def test_any_answer_gives_principles_of_use(text):
    for found in (parse_pairs(text, TWO, BOTH), parse_guideline(text, "full")):
        if found is not None:
            assert found.pair.positive_principle.strip() and found.pair.negative_principle.strip()
            assert found.pair.positive_principle != found.pair.negative_principle
