"""Which rows go into an export, and that each of the others is counted with its reason."""

from __future__ import annotations

import pytest

from selfsteer.errors import ConfigError, DataError
from selfsteer.export import FORMATS, ExportOptions
from selfsteer.export.selection import Selection
from selfsteer.records import HARM_UNKNOWN
from selfsteer.views import View
from tests.chat_templates import user
from tests.example_rows import contrast
from tests.export.helpers import refused

SEVERAL = [*user("a"), {"role": "assistant", "content": "b"}, *user("c")]


def select(rows, name="trl", view=View.BASE, **options):
    selection = Selection(ExportOptions(name, view, **options))
    return selection, [row.id for row in rows if selection.takes(row)]


def test_kept_rows_of_the_training_split_are_taken():
    rows = [
        contrast("a"),
        contrast("b").drop("leak: it says so"),
        contrast("c", split="heldout"),
        contrast("d", negative_response=" \n"),
        contrast("e").drop("identical: y+ equals y-"),
        contrast("f").drop("leak: again"),
    ]
    selection, taken = select(rows)
    assert taken == ["a"]
    assert (selection.read, selection.taken) == (6, 1)
    assert selection.left_out == {"dropped by quality control": 3, "held out": 1, "an empty response": 1}
    assert selection.drops == {"leak": 2, "identical": 1}
    assert selection.describe() == (
        "dropped by quality control 3 (leak 2, identical 1); held out 1 (the first is 'c'); "
        "an empty response 1 (the first is 'd')"
    )


def test_dropped_rows_are_taken_on_request_but_never_an_empty_response_or_a_held_out_row():
    rows = [
        contrast("a").drop("leak: x"),
        contrast("b", positive_response="").drop("empty: x"),
        contrast("c", split="heldout").drop("leak: x"),
    ]
    selection, taken = select(rows, dropped=True)
    assert taken == ["a"]
    assert selection.left_out == {"an empty response": 1, "held out": 1}
    assert selection.drops == {"leak": 2, "empty": 1}


def test_a_response_may_be_empty_where_the_format_does_not_hold_it():
    rows = [contrast("a", original_response="")]
    assert select(rows)[1] == ["a"]
    assert select(rows, view=View.NEGATIVE)[1] == []
    assert select(rows, "authors")[1] == select(rows, "contrast")[1] == []


def test_what_a_format_can_not_carry_is_left_out_and_named():
    rows = [contrast("a"), contrast("b", prompt=SEVERAL), contrast("c", prompt=SEVERAL)]
    selection, taken = select(rows, "authors")
    assert taken == ["a"]
    assert selection.describe() == "a prompt of several turns 2 (the first is 'b')"
    assert select(rows, "llama-factory")[1] == ["a", "b", "c"]


def test_cut_responses_are_counted_and_left_out_on_request():
    rows = [contrast("a"), contrast("b", negative_finish="length"), contrast("c", original_finish="length")]
    selection, taken = select(rows)
    assert (taken, selection.cut) == (["a", "b", "c"], 1)  # the base view does not hold yo
    selection, taken = select(rows, finished=True)
    assert (taken, selection.cut) == (["a", "c"], 0)
    assert selection.left_out == {"a response that was cut off": 1}
    assert select(rows, "authors", finished=True)[1] == ["a"]


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.one_view])
def test_a_harmful_y_minus_is_chosen_on_request_alone(name):
    rows = [contrast("a"), contrast("b", negative_harmful="principle: Safety")]
    selection, taken = select(rows, name, View.NEGATIVE_STRICT)
    assert taken == ["a"] and selection.left_out == {"a chosen y- that is flagged as harmful": 1}
    assert select(rows, name, View.NEGATIVE_STRICT, harmful=True)[1] == ["a", "b"]
    for view in (View.BASE, View.POSITIVE, View.NEGATIVE):
        assert select(rows, name, view)[1] == ["a", "b"], "there it is rejected, or not held"
    selection, _ = select(rows[1:], name, View.NEGATIVE_STRICT)
    assert "--allow-harmful" in refused(DataError, lambda: selection.check("runs/a"))


def test_so_is_a_y_minus_of_which_nobody_knows():
    selection, taken = select([contrast("a", negative_harmful=HARM_UNKNOWN)], view=View.NEGATIVE_STRICT)
    assert taken == []
    message = refused(DataError, lambda: selection.check("runs/a"))
    assert "may have been asked to do harm 1" in message and "quality.harm" in message
    assert select([contrast("a", negative_harmful=HARM_UNKNOWN)], view=View.NEGATIVE_STRICT, harmful=True)[1] == ["a"]


def test_formats_of_all_views_leave_the_choice_to_the_trainer():
    rows = [contrast("b", negative_harmful="principle: Safety")]
    assert select(rows, "contrast")[1] == select(rows, "authors")[1] == ["b"]
    for values in ({"format": "trl"}, {"format": "contrast"}):
        assert "--allow-harmful" in refused(ConfigError, lambda values=values: ExportOptions(**values, harmful=True))


def test_where_nothing_is_left_it_is_an_error_that_says_what_to_do():
    selection, _ = select([contrast("a").drop("leak: x")])
    message = refused(DataError, lambda: selection.check("runs/a"))
    assert "dropped by quality control 1 (leak 1)" in message and "--all" in message and "runs/a" in message
    selection, _ = select([contrast("a", prompt=SEVERAL)], "authors")
    assert "another --format" in refused(DataError, lambda: selection.check("runs/a"))
    assert "the source has no rows" in refused(DataError, lambda: select([])[0].check("runs/a"))
    select([contrast("a")])[0].check("runs/a")
