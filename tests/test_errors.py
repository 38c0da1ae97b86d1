"""Errors: what they say, and the exit code each ends the command line with (DESIGN 4.5)."""

from __future__ import annotations

import pytest

from selfsteer import errors
from selfsteer.errors import InputError, SelfsteerError, SelfsteerWarning, WorkFailed, did_you_mean


def all_below(kind: type) -> list[type]:
    return [kind] + [found for child in kind.__subclasses__() for found in all_below(child)]


OWN = [kind for kind in all_below(SelfsteerError) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", OWN)
def test_the_exit_code_says_whether_the_input_or_the_work_is_to_blame(kind):
    assert kind("no").exit_code == (2 if issubclass(kind, InputError) else 1)


def test_each_error_is_the_input_or_the_work_and_stands_in_the_drawn_tree():
    assert len(OWN) == 16
    for kind in OWN:
        assert f" {kind.__name__} " in f" {errors.__doc__} ".replace("\n", " ")
        assert kind is SelfsteerError or issubclass(kind, (InputError, WorkFailed))


def test_a_message_says_what_where_and_what_to_do():
    error = SelfsteerError("it broke", where="a.yaml:3", do="mend it")
    assert str(error) == "it broke\n  where: a.yaml:3\n  do:    mend it"
    assert (error.what, error.where, error.do) == ("it broke", "a.yaml:3", "mend it")


def test_a_message_leaves_out_what_is_not_known():
    assert str(SelfsteerError("it broke")) == "it broke"
    assert str(SelfsteerError("it broke", do="mend it")) == "it broke\n  do:    mend it"


def test_a_warning_of_ours_can_be_told_from_an_error():
    assert issubclass(SelfsteerWarning, UserWarning) and not issubclass(SelfsteerWarning, SelfsteerError)


def test_did_you_mean_names_the_closest_and_all_there_are():
    assert did_you_mean("bata", ["beta", "alpha"]) == "Did you mean 'beta'? Available: alpha, beta"


def test_did_you_mean_guesses_nothing_from_afar():
    assert did_you_mean("zzz", ["beta", "alpha"]) == "Available: alpha, beta"
