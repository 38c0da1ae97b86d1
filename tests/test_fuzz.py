"""A few damaged inputs of each kind, as ``make fuzz`` makes thousands."""

from __future__ import annotations

import pytest

from tests.fuzz import KINDS, fuzz, sound, unsound


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    sound(folder)
    return folder


def test_sound_inputs_are_taken(base, tmp_path):
    assert unsound(base, tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_end_with_success_or_a_message(kind, base, tmp_path):
    outcomes = list(fuzz(kind, 8, 0, base, tmp_path))

    assert [(number, arguments, one) for number, arguments, one in outcomes if one.fault] == []
    assert any(one.what == "message" for _, _, one in outcomes)
