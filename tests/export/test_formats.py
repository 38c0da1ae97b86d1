"""What a row becomes in each format, written out by hand, and what a format can't carry."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from selfsteer.errors import ConfigError
from selfsteer.export import FORMATS, ExportOptions, Layout
from selfsteer.views import View
from tests.chat_templates import user
from tests.example_rows import BRIEF, LONG, QUERY, contrast, principled, responses, scores
from tests.export.helpers import refused

POSITIVE, NEGATIVE, ORIGINAL = "It scatters.", "It is a long story ...", "Blue light scatters."


def assistant(text):
    return [{"role": "assistant", "content": text}]


def made(name, row, view=View.BASE, full=False):
    return FORMATS[name].make(row, Layout(view, full))


def test_trl_has_a_prompt_a_chosen_and_a_rejected_message():
    assert made("trl", contrast()) == [
        {"prompt": user(QUERY), "chosen": assistant(POSITIVE), "rejected": assistant(NEGATIVE)}
    ]


@pytest.mark.parametrize(
    ("view", "prompt", "chosen", "rejected"),
    [
        (View.POSITIVE, user(QUERY, BRIEF), POSITIVE, NEGATIVE),
        (View.NEGATIVE, user(QUERY, LONG), ORIGINAL, POSITIVE),
        (View.NEGATIVE_STRICT, user(QUERY, LONG), NEGATIVE, POSITIVE),
    ],
)
def test_a_view_decides_the_prompt_and_the_pair(view, prompt, chosen, rejected):
    (row,) = made("trl", contrast(), view)
    assert row == {"prompt": prompt, "chosen": assistant(chosen), "rejected": assistant(rejected)}
    (spoken,) = made("llama-factory", contrast(), view)
    assert (spoken["chosen"]["value"], spoken["rejected"]["value"]) == (chosen, rejected)
    better, worse = made("trl-unpaired", contrast(), view)
    assert (better["completion"], worse["completion"]) == (assistant(chosen), assistant(rejected))


def test_unpaired_rows_are_two_with_a_label_each():
    assert made("trl-unpaired", contrast()) == [
        {"prompt": user(QUERY), "completion": assistant(POSITIVE), "label": True},
        {"prompt": user(QUERY), "completion": assistant(NEGATIVE), "label": False},
    ]


def test_full_columns_say_where_a_row_comes_from():
    row = contrast(
        round=3,
        negative_finish="length",
        scores=scores((-1.5, -0.5, -2.0), (-0.25, -3.0, -1.0)),
        kept=False,
        drop_reason="leak: so it says",
        provenance={"model": "m", "ü": "é"},
    )
    (values,) = made("trl", row, full=True)
    assert {key: values[key] for key in values if key not in ("prompt", "chosen", "rejected", "scores")} == {
        "chosen_finish": "stop",
        "rejected_finish": "length",
        "id": "q1",
        "view": "base",
        "aspects": ["Concision"],
        "positive_principle": BRIEF,
        "negative_principle": LONG,
        "steering_margin": 3.5,  # (-0.5 + 2) + (-1 + 3)
        "negative_harmful": "",
        "round": 3,
        "kept": False,
        "drop_reason": "leak: so it says",
        "provenance": '{"model": "m", "ü": "é"}',
    }
    assert values["scores"]["negative_response"]["positive_prompt"] == -3.0
    better, worse = made("trl-unpaired", row, full=True)
    assert (better["completion_finish"], worse["completion_finish"]) == ("stop", "length")


def test_a_score_that_is_no_number_becomes_none():
    row = contrast(scores=scores((float("-inf"), -0.5, -2.0), (-0.25, -3.0, -1.0)))
    (values,) = made("trl", row, full=True)
    assert values["scores"]["positive_response"] == {"prompt": None, "positive_prompt": -0.5, "negative_prompt": -2.0}
    json.dumps(values, allow_nan=False)


def test_no_extra_column_has_a_name_that_trl_reads():
    read_by_trl = {"margin", "images", "image", "tools", "messages", "chat_template_kwargs", "KL_completion_ids"}
    for name in ("trl", "trl-unpaired"):
        (row, *_) = made(name, contrast(), full=True)
        assert not read_by_trl & row.keys()
        assert not [key for key in row if key.endswith(("_ids", "_logps"))]


def test_llama_factory_has_speakers_and_the_system_message_apart():
    prompt = [*user("one", "Be kind."), *assistant("two"), {"role": "user", "content": "three"}]
    assert made("llama-factory", contrast(prompt=prompt)) == [
        {
            "conversations": [
                {"from": "human", "value": "one"},
                {"from": "gpt", "value": "two"},
                {"from": "human", "value": "three"},
            ],
            "system": "Be kind.",
            "chosen": {"from": "gpt", "value": POSITIVE},
            "rejected": {"from": "gpt", "value": NEGATIVE},
            "negative_harmful": "",
        }
    ]
    (row,) = made("llama-factory", contrast())
    assert row["system"] == ""


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_marks_a_harmful_y_minus(name):
    rows = made(name, contrast(negative_harmful="principle: Safety"), full=True)
    assert {row["negative_harmful"] for row in rows} == {"principle: Safety"}


@pytest.mark.parametrize(
    "prompt",
    [
        [*user("one"), *assistant("two")],
        [*user("one"), *user("two")],
        [*user("one"), {"role": "tool", "content": "two"}, *user("three")],
        [*user("one"), *assistant("two"), {"role": "system", "content": "three"}, *user("four")],
        [{"role": "system", "content": "alone"}],
        assistant("first"),
    ],
)
def test_llama_factory_takes_turns_that_alternate_only(prompt):
    assert "user, assistant" in FORMATS["llama-factory"].problem(contrast(prompt=prompt), Layout())
    assert FORMATS["trl"].problem(contrast(prompt=prompt), Layout()) == ""


def test_it_is_the_views_prompt_that_must_alternate():
    row = contrast(prompt=assistant("odd"))
    assert FORMATS["llama-factory"].problem(row, Layout(View.POSITIVE)) == ""


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.schema])
def test_rows_fit_their_schema_exactly(name, full):
    layout = Layout(full=full)
    rows = FORMATS[name].make(contrast(scores=scores((-1, -1, -1), (-1, -1, -1))), layout)
    schema = FORMATS[name].schema(layout)
    assert list(rows[0]) == schema.names
    assert pa.Table.from_pylist(rows, schema=schema).num_rows == len(rows)


def test_thinking_is_no_part_of_a_response():
    row = contrast(positive_thinking="a thought", negative_thinking="a thought", original_thinking="a thought")
    for name in set(FORMATS) - {"contrast"}:
        assert "a thought" not in json.dumps(made(name, row, full=True))


def test_a_format_needs_the_responses_it_holds():
    assert FORMATS["trl"].roles(Layout()) == ("positive", "negative")
    assert FORMATS["trl"].roles(Layout(View.NEGATIVE)) == ("original", "positive")
    assert FORMATS["authors"].roles(Layout()) == FORMATS["contrast"].roles(Layout())
    assert set(FORMATS["contrast"].roles(Layout())) == set(responses(principled().id))


def test_an_unknown_format_is_guessed():
    assert "Did you mean 'llama-factory'?" in refused(ConfigError, lambda: ExportOptions("lama-factory"))


def test_a_choice_that_a_format_does_not_have_is_refused():
    assert "has no view" in refused(ConfigError, lambda: ExportOptions("authors", view=View.POSITIVE))
    assert "one set of columns" in refused(ConfigError, lambda: ExportOptions("llama-factory", full=True))
    assert ExportOptions("trl").layout.full and not ExportOptions("trl", full=False).layout.full
